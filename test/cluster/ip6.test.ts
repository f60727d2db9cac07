/**
 * Goal: workers at IPv6 addresses are workers like others: they form clusters, also with one at an IPv4 address, move
 * bytes over tcp, and are found by commands and clients in any way of writing their address, and by name. Method: two
 * workers as two hosts, at ::1 or mixed; then workers started by hbmesh start on an etcd at ::1, and the commands as a
 * shell runs them.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parseAddress } from "../../src/base/address.js";
import { findFreePorts } from "../../src/base/free-port.js";
import { HeteroClient } from "../../src/client/index.js";
import { hbmesh } from "./commands.js";
import { type Etcd, etcdMissing, freePort, startEtcd } from "./etcd.js";
import { codesOf, DeviceObject, type Fixture, startFixture } from "./fixture.js";
import { expectNothingNew, type Leftovers, leftoversNow } from "./leftovers.js";

const LONG = "0:0:0:0:0:0:0:1";

describe.each([
  { name: "two workers at ::1", hosts: ["[::1]", `[${LONG}]`], canonical: ["[::1]", "[::1]"] },
  { name: "one at 127.0.0.1, one at ::1", hosts: ["127.0.0.1", "[::1]"], canonical: ["127.0.0.1", "[::1]"] },
])("$name", ({ hosts, canonical }) => {
  let fixture: Fixture;
  let ports: number[];

  beforeAll(async () => {
    ports = await findFreePorts(2);
    const workerArgs = (index: number): string[] => ["--worker_address", `${hosts[index]}:${ports[index]}`];
    fixture = await startFixture({ workerArgs });
  });
  afterAll(() => fixture.close());

  it("have the addresses as they are written everywhere, and links and transports at the same IP", () => {
    expect(fixture.addresses).toEqual(canonical.map((host, index) => `${host}:${ports[index]}`));
    for (const [index, { ready }] of fixture.cluster.workers.entries()) {
      const { host } = parseAddress(fixture.addresses[index] ?? "", "worker");
      expect(parseAddress(ready.linkAddress, "link").host).toBe(host);
      const tcp = ready.transports.find(({ name }) => name === "tcp");
      expect(parseAddress(tcp?.address ?? "", "transport").host).toBe(host);
    }
  });

  it("move bytes to each other over tcp, and name each other as the source", async () => {
    for (const [from, to] of [
      [0, 1],
      [1, 0],
    ] as const) {
      const key = `from-${from}`;
      const written = new DeviceObject(0, [300_000, 70_001], from + 1);
      const found = new DeviceObject(1, [300_000, 70_001]);
      expect(codesOf(await (await fixture.client(from)).mSetD2H([key], [written.list]))).toEqual(["OK"]);
      const got = await (await fixture.client(to)).mGetH2D([key], [found.list], { timeoutMs: 20_000 });
      expect(codesOf(got)).toEqual(["OK"]);
      expect(found.holds(from + 1)).toBe(true);
      expect(got.path).toMatch(/\btcp\b/);
      expect(got.path).toContain(fixture.addresses[from]);
      written.free();
      found.free();
    }
  });

  it("are found by clients and commands in any way of writing the address", async () => {
    const { port } = parseAddress(fixture.addresses[1] ?? "", "worker");
    for (const host of ["::1", "[::1]", LONG, `[${LONG}]`]) {
      const client = new HeteroClient({ host, port });
      await client.init();
      expect((await client.healthCheck()).ready).toBe(true);
      expect((await client.exist(["from-0"])).presences).toEqual(["HIT"]);
      await client.close();
    }
    for (const address of [`[::1]:${port}`, `[${LONG}]:${port}`]) {
      const exist = await hbmesh("exist", "--worker", address, "--json", "from-0", "nothing");
      expect(exist.code, exist.stderr).toBe(0);
      expect(JSON.parse(exist.stdout)).toMatchObject({ entries: [{ presence: "HIT" }, { presence: "MISS" }] });
      const status = await hbmesh("status", "--worker_address", address, "--json");
      expect(status.code, status.stdout).toBe(0);
      expect(JSON.parse(status.stdout)).toMatchObject({
        workers: [{ workerAddress: `[::1]:${port}`, state: "ready", pid: fixture.cluster.workers[1]?.process.pid }],
      });
    }
  });
});

describe.skipIf(etcdMissing !== undefined)(`with etcd at ::1 ${etcdMissing ?? ""}`, { timeout: 180_000 }, () => {
  let etcd: Etcd;
  let folder: string;
  let before: Leftovers;
  const addresses: string[] = [];

  beforeAll(async () => {
    before = leftoversNow();
    folder = mkdtempSync(join(tmpdir(), "hbmesh-ip6-"));
    etcd = await startEtcd(undefined, "::1");
  });
  afterAll(async () => {
    for (const address of addresses) {
      await hbmesh("stop", "--worker_address", address, "--force", "--stop_timeout_ms", "10000");
    }
    await etcd.stop();
    rmSync(folder, { recursive: true, force: true });
    expectNothingNew(before, addresses);
  });

  const start = async (address: string) =>
    await hbmesh(
      ...["start", "-w", "--worker_address", address, "--etcd_address", etcd.endpoint.replace("[::1]", `[${LONG}]`)],
      ...["--shared_memory_size_mb", "16", "--devices", "2", "--log_dir", folder, "--json"],
    );

  it("start, status and stop take an address in any way of writing it for the same worker", async () => {
    const port = await freePort();
    const address = `[::1]:${port}`;
    addresses.push(address);
    const started = await start(`[${LONG}]:${port}`);
    expect(started.code, started.stderr).toBe(0);
    expect(JSON.parse(started.stdout)).toMatchObject({ workerAddress: address });
    const second = await start(address);
    expect(second.code).toBe(1);
    expect(second.stderr).toContain(`a worker runs at ${address} already`);
    const stopped = await hbmesh("stop", "--worker_address", `[0::1]:${port}`, "--drain", "false");
    expect(stopped.code, stopped.stderr).toBe(0);
    expect(stopped.stdout).toContain(`worker ${address} (process `);
  });

  it("status and stop take a name that leads to the worker's address", async () => {
    const port = await freePort();
    const address = `127.0.0.1:${port}`;
    addresses.push(address);
    const started = await start(address);
    expect(started.code, started.stderr).toBe(0);
    const status = await hbmesh("status", "--worker_address", `LOCALHOST:${port}`, "--json");
    expect(JSON.parse(status.stdout)).toMatchObject({ workers: [{ workerAddress: address, state: "ready" }] });
    const stopped = await hbmesh("stop", "--worker_address", `localhost:${port}`, "--drain", "false");
    expect(stopped.code, stopped.stderr).toBe(0);
    const none = await hbmesh("stop", "--worker_address", `localhost:${port}`);
    expect(none.code).toBe(1);
    expect(none.stderr).toMatch(new RegExp(`no worker runs at (\\S+ or )?127\\.0\\.0\\.1:${port}`));
    const nowhere = await hbmesh("stop", "--worker_address", "nowhere.invalid:31501");
    expect(nowhere.code).toBe(1);
    expect(nowhere.stderr).toContain("NO_AVAILABLE_WORKER: the name nowhere.invalid leads to no address (");
  });
});

describe("addresses on the command line", () => {
  it.each([
    [
      ["worker", "--worker_address", "0.0.0.0:31501"],
      'The address "0.0.0.0:31501" stands for all addresses of this host',
    ],
    [
      ["start", "-w", "--worker_address", "[::]:31501"],
      'The address "[::]:31501" stands for all addresses of this host',
    ],
    [["worker", "--worker_address", "node7:31501"], 'The address "node7:31501" has a name'],
    [["worker", "--worker_address", "::1:31501"], 'The address "::1:31501" has an IPv6 address without brackets'],
    [
      ["worker", "--worker_address", "127.0.0.1:1", "--link_address", "0.0.0.0:0"],
      'The address "0.0.0.0:0" stands for',
    ],
    [["worker", "--worker_address", "[fe80::1%eth0]:31501"], 'The address "[fe80::1%eth0]:31501" has a zone (%)'],
    [["exist", "--worker", "bogus", "k"], 'The address "bogus" has no port: give HOST:PORT'],
    [["health", "--worker", "127.0.0.1:99999"], "has a port that is no number from 0 to 65535"],
    [["stop", "--worker_address", "127.0.0.1:0"], "There is no worker at port 0"],
  ])("%j is refused: %s", async (args, sentence) => {
    const { code, stderr } = await hbmesh(...args);
    expect(code).toBe(2);
    expect(stderr).toContain(sentence);
  });
});
