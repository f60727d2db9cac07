/**
 * Goal: `hbmesh stop` loses nothing that it was not told to lose, may be run by those who may end the worker and by
 * nobody else, and prints what it says. Method: workers started by the command, stopped by the command as a shell runs
 * it: the last one of its cluster, one with tenants and no cluster token, one of another user.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { Blob, DeviceBlobList, HeteroClient, SimDevice } from "../../src/client/index.js";
import { type CommandResult, hbmesh, isAlive, mainPath, run } from "./commands.js";
import { freePort } from "./etcd.js";
import { expectNothingNew, type Leftovers, leftoversNow } from "./leftovers.js";

const TENANT_TOKEN = "t0ken-of-red";
const NOBODY = 65_534;
/** Another user than this one, who may read this checkout; undefined where there is none. */
const otherUser =
  process.getuid?.() === 0 &&
  spawnSync(process.execPath, ["-e", `fs.accessSync(${JSON.stringify(mainPath)})`], { uid: NOBODY, gid: NOBODY })
    .status === 0
    ? { uid: NOBODY, gid: NOBODY }
    : undefined;

interface Started {
  address: string;
  pid: number;
  sidecarPid: number;
}

describe("hbmesh stop", { timeout: 120_000 }, () => {
  let folder: string;
  let before: Leftovers;
  const started: Started[] = [];

  beforeAll(() => {
    before = leftoversNow();
    folder = mkdtempSync(join(tmpdir(), "hbmesh-stop-"));
    writeFileSync(join(folder, "tenants"), `${TENANT_TOKEN} red\n`);
  });

  afterEach(async () => {
    for (const { address, pid } of started) {
      if (isAlive(pid)) {
        await hbmesh("stop", "--worker_address", address, "--drain", "false", "--force", "--stop_timeout_ms", "10000");
      }
    }
  });

  afterAll(() => {
    rmSync(folder, { recursive: true, force: true });
    expectNothingNew(
      before,
      started.map(({ address }) => address),
    );
  });

  const start = async (...flags: string[]): Promise<Started> => {
    const address = `127.0.0.1:${await freePort()}`;
    const usual = ["--worker_address", address, "--log_dir", folder, "--shared_memory_size_mb", "16", "--json"];
    const { code, stdout, stderr } = await hbmesh("start", "-w", ...usual, ...flags);
    expect(code, stderr).toBe(0);
    const worker = { ...(JSON.parse(stdout) as Omit<Started, "address">), address };
    started.push(worker);
    return worker;
  };
  const stop = ({ address }: Started, ...flags: string[]): Promise<CommandResult> =>
    hbmesh("stop", "--worker_address", address, ...flags);
  /** Sets so many objects of 64 KiB. */
  const fill = async ({ address }: Started, objects: number, token?: string): Promise<void> => {
    const [host = "", port] = address.split(":");
    const client = new HeteroClient({ host, port: Number(port), ...(token === undefined ? {} : { token }) });
    await client.init();
    const device = new SimDevice(0);
    const pointer = device.allocate(65_536);
    const keys = Array.from({ length: objects }, (_, index) => `kept-${index}`);
    const lists = keys.map(() => new DeviceBlobList(0, [new Blob(pointer, 65_536n)]));
    expect((await client.mSetD2H(keys, lists)).failedKeys).toEqual([]);
    device.free(pointer);
    await client.close();
  };

  it("of the last worker with objects: it stays, and how much would be lost and what to do is said", async () => {
    const worker = await start();
    await fill(worker, 3);
    const refused = await stop(worker);
    expect(refused.code).toBe(1);
    expect(refused.stdout).toBe("");
    expect(refused.stderr).toContain(
      `the worker at ${worker.address} stays, with 3 objects with 0.2 MiB that were not moved: there is no other worker to move them to`,
    );
    expect(refused.stderr).toContain("--drain false");
    // As it was: it has them, and takes new ones.
    expect((await hbmesh("health", "--worker_address", worker.address)).code).toBe(0);
    expect((await hbmesh("exist", "kept-2", "--worker", worker.address)).stdout).toMatch(/kept-2 +HIT/);
    await fill(worker, 4);
    const told = await stop(worker, "--drain", "false");
    expect(told.code, told.stderr).toBe(0);
    expect(isAlive(worker.pid) || isAlive(worker.sidecarPid)).toBe(false);
  });

  it("--force ends it with them, and the report has the fields of its words and nothing else", async () => {
    const worker = await start();
    await fill(worker, 2);
    const { code, stdout, stderr } = await stop(worker, "--force", "--json");
    expect(code, stderr).toBe(0);
    expect(stdout).not.toContain("$");
    expect(JSON.parse(stdout)).toMatchObject({
      workerAddress: worker.address,
      pid: worker.pid,
      drain: { state: "moved", reason: "there is no other worker to move them to", objects: 2, objectsLeft: 2 },
    });
  });

  it("of the last worker without objects: it ends", async () => {
    const worker = await start();
    const { code, stderr } = await stop(worker);
    expect(code, stderr).toBe(0);
    expect(isAlive(worker.pid)).toBe(false);
  });

  it("a worker with tenants and no cluster token is drained for its own user, and for no tenant", async () => {
    const worker = await start("--tenants_file", join(folder, "tenants"));
    await fill(worker, 2, TENANT_TOKEN);
    const drain = (token: string): Promise<Response> =>
      fetch(`http://${worker.address}/hbmesh.v1.ClusterService/Drain`, {
        method: "POST",
        body: "{}",
        headers: { "content-type": "application/json", authorization: `Bearer ${token}` },
      });
    const tenant = await drain(TENANT_TOKEN);
    expect(tenant.status).toBe(401);
    expect(await tenant.text()).toContain("run hbmesh stop on the worker's host as its user or root");
    // It was asked, and knows what it holds.
    const refused = await stop(worker);
    expect(refused.code).toBe(1);
    expect(refused.stderr).toContain("stays, with 2 objects");
    // What it shows has no name in any folder, and ends with the worker.
    const links = readdirSync(`/proc/${worker.pid}/fd`).map((fd) => {
      try {
        return readlinkSync(`/proc/${worker.pid}/fd/${fd}`);
      } catch {
        return "";
      }
    });
    expect(links.filter((link) => link.includes("hbmesh-operator-"))).toEqual([expect.stringMatching(/ \(deleted\)$/)]);
    expect((await stop(worker, "--force")).code).toBe(0);
  });

  describe.skipIf(otherUser === undefined)("by another user (needs root, and a checkout that others may read)", () => {
    const asOther = (...args: string[]): Promise<CommandResult> =>
      run(process.execPath, [mainPath, ...args], { ...otherUser, env: { ...process.env, TMPDIR: "/tmp" } });

    it("a worker is found, nothing is moved, and who can end it is said", async () => {
      const worker = await start();
      await fill(worker, 1);
      const { code, stderr } = await asOther("stop", "--worker_address", worker.address, "--force");
      expect(code).toBe(1);
      expect(stderr).toBe(
        `hbmesh: the worker at ${worker.address} (process ${worker.pid}) belongs to another user (user id 0): only that user and root can stop it\n`,
      );
      const status = await asOther("status", "--json", "--worker_address", worker.address);
      expect(JSON.parse(status.stdout)).toMatchObject({ workers: [{ state: "ready", pid: worker.pid, objects: 1 }] });
    });

    it("nor is a sidecar ended whose control process was killed", async () => {
      const worker = await start();
      process.kill(worker.pid, "SIGKILL");
      const { code, stderr } = await asOther("stop", "--worker_address", worker.address);
      expect(code).toBe(1);
      expect(stderr).toContain(
        `the sidecar at ${worker.address} (process ${worker.sidecarPid}) belongs to another user (user id 0)`,
      );
      expect((await stop(worker)).code).toBe(0);
    });
  });
});
