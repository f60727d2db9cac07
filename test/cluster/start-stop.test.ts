/**
 * Goal: hbmesh start, status and stop do for workers in the background what they say, over a real etcd: ready when
 * start returns, a sentence and nothing left when it isn't, a planned end. Method: the commands as a shell runs them.
 * The store is read beside them, to see what a worker that leaves says there.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createSystemClock } from "../../src/base/clock.js";
import { createEtcdStore } from "../../src/metadata/index.js";
import { hbmesh, isAlive, mainPath, until } from "./commands.js";
import { type Etcd, etcdMissing, freePort, startEtcd } from "./etcd.js";
import { expectNothingNew, type Leftovers, leftoversNow } from "./leftovers.js";

interface Started {
  workerAddress: string;
  pid: number;
  sidecarPid: number;
  log: string;
}

// Each command is a process of its own.
describe.skipIf(etcdMissing !== undefined)(`start, status, stop ${etcdMissing ?? ""}`, { timeout: 180_000 }, () => {
  let etcd: Etcd;
  let folder: string;
  let before: Leftovers;
  const addresses: string[] = [];

  beforeAll(async () => {
    before = leftoversNow();
    folder = mkdtempSync(join(tmpdir(), "hbmesh-start-"));
    etcd = await startEtcd();
  });

  afterAll(async () => {
    for (const address of addresses) {
      await hbmesh("stop", "--worker_address", address, "--force", "--stop_timeout_ms", "10000");
    }
    await etcd.stop();
    rmSync(folder, { recursive: true, force: true });
    expectNothingNew(before, addresses);
  });

  const pick = async (): Promise<string> => {
    const address = `127.0.0.1:${await freePort()}`;
    addresses.push(address);
    return address;
  };
  const flagsOf = (address: string): string[] => [
    "--log_dir",
    folder,
    "--worker_address",
    address,
    "--etcd_address",
    etcd.endpoint,
    "--cluster_name",
    "start-stop",
    "--shared_memory_size_mb",
    "32",
  ];
  const start = async (address: string, ...further: string[]): Promise<Started> => {
    const { code, stdout, stderr } = await hbmesh("start", "-w", ...flagsOf(address), "--json", ...further);
    expect(code, stderr).toBe(0);
    return JSON.parse(stdout) as Started;
  };
  const statusOf = async (address: string): Promise<{ code: number | null; worker: Record<string, unknown> }> => {
    const { code, stdout } = await hbmesh("status", "--json", "--worker_address", address);
    const { workers } = JSON.parse(stdout) as { workers: Record<string, unknown>[] };
    expect(workers).toHaveLength(1);
    return { code, worker: workers[0] ?? {} };
  };

  it("a worker with the flags that users have in scripts is ready when start returns, and is known to status", async () => {
    const address = await pick();
    const flags = [
      "--remote_h2d_device_ids",
      "0,1,2,3,4,5,6,7",
      "--arena_per_tenant",
      "1",
      "--enable-huge-tlb",
      "false",
    ];
    const batch = ["--enable_worker_worker_batch_get", "true", "--cpunodebind", "0", "--localalloc"];
    const started = await start(address, ...flags, ...batch);
    expect(started.workerAddress).toBe(address);
    expect(isAlive(started.pid) && isAlive(started.sidecarPid)).toBe(true);
    const { code, worker } = await statusOf(address);
    expect(code).toBe(0);
    expect(worker).toMatchObject({
      state: "ready",
      reason: "",
      pid: started.pid,
      sidecarPid: started.sidecarPid,
      log: started.log,
      members: 1,
      devices: 8,
      remoteH2dDeviceIds: [0, 1, 2, 3, 4, 5, 6, 7],
      arenaBytes: 32 * 2 ** 20,
    });
    expect(readFileSync(started.log, "utf8")).toContain(`ready at ${address}`);
    // One connection for each device.
    expect(readFileSync(`/proc/${started.sidecarPid}/cmdline`, "utf8")).toContain("--lanes=8");
    expect(readFileSync(`/proc/${started.pid}/stat`, "utf8").split(") ")[1]?.split(" ")[3]).toBe(String(started.pid));
  });

  it("the same address twice is refused, and the first one lives on", async () => {
    const [address = ""] = addresses;
    const { code, stderr } = await hbmesh("start", "-w", ...flagsOf(address));
    expect(code).toBe(1);
    expect(stderr).toContain(`a worker runs at ${address} already`);
    expect(stderr).toContain(`hbmesh stop --worker_address ${address}`);
    expect((await statusOf(address)).worker).toMatchObject({ state: "ready" });
  });

  it("stop leaves as planned: the store says so first, and the others have sure answers at once", async () => {
    const [first = ""] = addresses;
    const second = await pick();
    const started = await start(second);
    expect((await statusOf(first)).worker).toMatchObject({ members: 2 });
    const store = createEtcdStore([etcd.endpoint], createSystemClock());
    const watching = new AbortController();
    const changes: string[] = [];
    const ended = (async (): Promise<void> => {
      for await (const { snapshot, events } of store.watch("hbmesh/start-stop/members/", { signal: watching.signal })) {
        if (!snapshot) {
          changes.push(...events.map(({ entry, deleted }) => `${deleted ? "-" : "+"} ${entry.key.slice(26)}`));
        }
        if (changes.length >= 3) {
          return;
        }
      }
    })();
    const { code, stdout, stderr } = await hbmesh("stop", "--worker_address", second);
    expect(code, stderr).toBe(0);
    expect(stdout).toContain(`worker ${second} (process ${started.pid}) has ended`);
    expect(stderr).toContain("is leaving its cluster");
    expect(isAlive(started.pid) || isAlive(started.sidecarPid)).toBe(false);
    await ended;
    await store.close();
    expect(changes[0]).toBe("+ 2/leaves");
    expect([...changes.slice(1)].sort()).toEqual(["- 2", "- 2/leaves"]);
    const seen = await until("the first knows", async () => (await statusOf(first)).worker.members === 1 && "1");
    expect(seen).toBe("1");
    // Not UNKNOWN, as it would be had the other one vanished.
    const exist = await hbmesh("exist", "--worker", first, "never-set", "--json");
    expect(exist.stdout).toContain('"presence": "MISS"');
  });

  it("stop of a worker that isn't there says so", async () => {
    const address = `127.0.0.1:${await freePort()}`;
    const { code, stderr } = await hbmesh("stop", "--worker_address", address);
    expect(code).toBe(1);
    expect(stderr).toContain(`no worker runs at ${address} on this host`);
    expect((await statusOf(address)).worker).toMatchObject({ state: "not here" });
  });

  it("a worker that can't start: a sentence, the end of its log, nothing left running", async () => {
    const address = await pick();
    const flags = ["--worker_address", address, "--log_dir", folder, "--etcd_address", `127.0.0.1:${await freePort()}`];
    const { code, stderr } = await hbmesh("start", "-w", ...flags);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^hbmesh: the worker at \S+ could not start: RPC_UNAVAILABLE: .* etcd at .*failed/);
    expect(stderr).toContain("endpoint health");
    expect(stderr).toContain(`the end of its log, ${folder}/worker-127.0.0.1_`);
    expect(leftoversNow([address])).toMatchObject({ processes: [], sockets: [] });
  });

  it("a worker that isn't ready in time is ended, with what it started", async () => {
    const address = await pick();
    const { code, stderr } = await hbmesh("start", "-w", ...flagsOf(address), "--start_timeout_ms", "1");
    expect(code).toBe(1);
    expect(stderr).toContain("was not ready after 1 ms and was ended; give it longer with --start_timeout_ms");
    expect(leftoversNow([address])).toMatchObject({ processes: [], sockets: [] });
  });

  it("start that is killed before the worker is ready takes it along", async () => {
    const address = await pick();
    const child: ChildProcess = spawn(process.execPath, [mainPath, "start", "-w", ...flagsOf(address)], {
      stdio: "ignore",
    });
    const ended = new Promise((resolve) => child.once("exit", resolve));
    await until("the worker is there", () =>
      leftoversNow([address]).processes.some((line) => line.includes(" worker ")),
    );
    child.kill("SIGKILL");
    await ended;
    await until("it has ended", () => leftoversNow([address]).processes.length === 0);
  });

  it("of a killed control process stop ends the sidecar", async () => {
    const [address = ""] = addresses;
    const { worker } = await statusOf(address);
    process.kill(Number(worker.pid), "SIGKILL");
    await until("it is gone", () => !isAlive(Number(worker.pid)));
    expect((await statusOf(address)).worker).toMatchObject({ state: "sidecar only", sidecarPid: worker.sidecarPid });
    const { code, stdout, stderr } = await hbmesh("stop", "--worker_address", address);
    expect(code, stderr).toBe(0);
    expect(stdout).toContain(`the sidecar of worker ${address} (process ${worker.sidecarPid}) has ended`);
    expect(stderr).toContain("its control process was gone already");
    expect(isAlive(Number(worker.sidecarPid))).toBe(false);
  });
});
