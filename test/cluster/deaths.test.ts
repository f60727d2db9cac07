/**
 * Goal: a death is told at once, with a code and a cause, and leaves nothing half-done: the sidecar in the middle of a
 * set and of a get, a whole worker, a launcher that is killed, an arena that is full.
 * Method: simulated devices are slowed down, so that a transfer is certainly under way when the process is killed; the
 * middle is seen by what the worker says of itself, not guessed by time.
 */
import { fork } from "node:child_process";
import { afterEach, describe, expect, it } from "vitest";
import { createSystemClock } from "../../src/base/clock.js";
import { StatusCode } from "../../src/base/errors.js";
import { type HeteroClient, SimDevice } from "../../src/client/index.js";
import { openStore } from "../../src/metadata/index.js";
import { hbmesh, isAlive, mainPath, until } from "./commands.js";
import { codesOf, DeviceObject, type Fixture, failureOf, startFixture } from "./fixture.js";
import { expectNothingNew, leftoversNow } from "./leftovers.js";

/** 8 MiB at 1 MB/s: no kill can come too late. */
const slow = ["--sim_bandwidth_mb_per_s", "1"];
const slowBlobs = Array.from({ length: 8 }, () => 1 << 20);

let fixture: Fixture | undefined;
let made: DeviceObject[] = [];

afterEach(async () => {
  for (const object of made) {
    object.free();
  }
  made = [];
  await fixture?.close();
  fixture = undefined;
});

function memory(device: number, sizes: readonly number[], seed?: number): DeviceObject {
  const object = new DeviceObject(device, sizes, seed);
  made.push(object);
  return object;
}

async function start(...workerArgs: string[]): Promise<Fixture> {
  fixture = await startFixture({ workerArgs });
  return fixture;
}

interface HealthJson {
  ready: boolean;
  arenaUsedBytes: number;
  objects: number;
}

async function health(worker: string): Promise<HealthJson> {
  const result = await hbmesh("health", "--json", "--worker", worker);
  return JSON.parse(result.stdout) as HealthJson;
}

/**
 * A get over tcp whose source is stopped (SIGSTOP) after its first bytes have arrived and before its last: seen in the
 * device memory that it reads into, which is this process's own.
 */
async function stopInTheMiddleOfAGet(): Promise<{
  running: Fixture;
  getting: ReturnType<HeteroClient["mGetH2D"]>;
  target: DeviceObject;
}> {
  const running = await start("--shared_memory_size_mb", "256");
  const writer = await running.client(0);
  const reader = await running.client(1);
  const blobs = Array.from({ length: 16 }, () => 4 << 20);
  const source = memory(0, blobs, 1);
  expect(lastBytesOf(0, source)).not.toContain(0);
  expect(codesOf(await writer.mSetD2H(["large"], [source.list]))).toEqual(["OK"]);
  const target = memory(1, blobs);
  const bytesThere = (): number[] => lastBytesOf(1, target);
  const holder = sidecarOf(running, 0);
  // Is it already whole when it is stopped? Then once more: a machine may pause this process at the wrong moment.
  for (let attempt = 1; ; attempt += 1) {
    const getting = reader.mGetH2D(["large"], [target.list], { timeoutMs: 0 });
    while (bytesThere().every((byte) => byte === 0)) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    process.kill(holder, "SIGSTOP");
    if (bytesThere().some((byte) => byte === 0) || attempt === 20) {
      expect(bytesThere(), `whole at once in ${attempt} attempts`).toContain(0);
      return { running, getting, target };
    }
    process.kill(holder, "SIGCONT");
    await getting;
    target.fill();
  }
}

/** The last byte of each blob. */
function lastBytesOf(device: number, object: DeviceObject): number[] {
  const sim = new SimDevice(device);
  return object.list.blobs.map((blob) => sim.copyOut(blob.pointer + blob.size - 1n, 1n)[0] ?? 0);
}

/** Waits for the ends of `count` leases, one after the other, as the store counts time. */
async function leasesEnd(metadataAddress: string, leaseMs: number, count: number): Promise<void> {
  const store = openStore(metadataAddress, createSystemClock());
  try {
    for (let lease = 1; lease <= count; lease += 1) {
      const key = `/test/lease-${lease}`;
      await store.put(key, new Uint8Array(1), { leaseId: await store.grantLease(leaseMs) });
      await until(`lease ${lease} has ended`, async () => (await store.get(key)) === undefined);
    }
  } finally {
    await store.close();
  }
}

function sidecarOf(running: Fixture, index: number): number {
  const pid = running.cluster.workers[index]?.ready.sidecarPid ?? 0;
  expect(pid).toBeGreaterThan(1);
  return pid;
}

/** Codes that say: whom you asked, or whom it asked, is gone. */
const goneCodes = [
  StatusCode.CLIENT_WORKER_DISCONNECT,
  StatusCode.RPC_PEER_DEAD,
  StatusCode.NOT_READY,
  StatusCode.SHUTTING_DOWN,
];

/** Every key failed, or the call did: one of the codes above, with a message. */
async function expectGone(
  call: Promise<{ statuses: readonly { code: StatusCode; message: string }[] }>,
): Promise<void> {
  const outcomes = await call.then(
    (result) => result.statuses,
    (error: { code: StatusCode; message: string }) => [error],
  );
  for (const outcome of outcomes) {
    expect(goneCodes).toContain(outcome.code);
    expect(outcome.message).not.toBe("");
  }
}

describe("the sidecar is killed", () => {
  it("in the middle of a set: the caller is told, and the key is nowhere", async () => {
    const running = await start(...slow);
    const address = running.addresses[0] ?? "";
    const client = await running.client(0);
    const setting = client.mSetD2H(["half"], [memory(0, slowBlobs, 1).list]);
    const outcome = expectGone(setting);
    await until("the arena holds the half-written object", async () => (await health(address)).arenaUsedBytes > 0);
    process.kill(sidecarOf(running, 0), "SIGKILL");
    await outcome;
    await until("the worker has a new sidecar", async () => (await health(address)).ready);
    const again = await running.client(0);
    expect((await again.exist(["half"])).presences).toEqual(["MISS"]);
    expect(codesOf(await again.mGetH2D(["half"], [memory(0, slowBlobs).list], { timeoutMs: 0 }))).toEqual([
      "NOT_FOUND",
    ]);
  });

  it("in the middle of a remote get, at the reader: the caller is told", async () => {
    const { running, getting } = await stopInTheMiddleOfAGet();
    const outcome = expectGone(getting);
    process.kill(sidecarOf(running, 1), "SIGKILL");
    await outcome;
    process.kill(sidecarOf(running, 0), "SIGCONT");
  });

  it("in the middle of a remote get, at the holder: the caller is told, and reads the key when the holder is back", async () => {
    const { running, getting, target } = await stopInTheMiddleOfAGet();
    const outcome = expectGone(getting);
    process.kill(sidecarOf(running, 0), "SIGKILL");
    await outcome;
    target.fill();
    const again = await running.client(1);
    await until("the key is read again", async () =>
      codesOf(await again.mGetH2D(["large"], [target.list], { timeoutMs: 0 })).includes("OK"),
    );
    expect(target.holds(1)).toBe(true);
  });

  it("at the holder: a get at the other worker is told, and finds the key again when the holder is back", async () => {
    const running = await start();
    const writer = await running.client(0);
    const reader = await running.client(1);
    expect(codesOf(await writer.mSetD2H(["kept"], [memory(0, [4096], 5).list]))).toEqual(["OK"]);
    process.kill(sidecarOf(running, 0), "SIGKILL");
    const target = memory(1, [4096]);
    const isRead = async (): Promise<boolean> => {
      const result = await reader.mGetH2D(["kept"], [target.list], { timeoutMs: 0 });
      const code = result.statuses[0]?.code ?? StatusCode.RUNTIME_ERROR;
      // Never a miss: the bytes are in shared memory that the control process holds, and the new sidecar adopts them.
      expect([...goneCodes, StatusCode.OK, StatusCode.TRY_AGAIN, StatusCode.RPC_UNAVAILABLE]).toContain(code);
      return code === StatusCode.OK;
    };
    await until("the key is read again", isRead);
    expect(target.holds(5)).toBe(true);
  });
});

describe("the control process is killed", () => {
  it("its sidecar ends with it, and a client is told at once", async () => {
    const running = await start();
    const client: HeteroClient = await running.client(0);
    const sidecar = sidecarOf(running, 0);
    const waiting = failureOrStatus(client.mGetH2D(["never"], [memory(0, [64]).list], { timeoutMs: 60_000 }));
    running.cluster.workers[0]?.process.kill("SIGKILL");
    expect(goneCodes).toContain(await waiting);
    await until("the sidecar is gone", () => !isAlive(sidecar));
    const late = await failureOf(client.exist(["x"]));
    expect(goneCodes).toContain(late.code);
  });
});

async function failureOrStatus(
  call: Promise<{ statuses: readonly { code: StatusCode }[] }>,
): Promise<StatusCode | undefined> {
  return await call.then(
    (result) => result.statuses[0]?.code,
    (error: { code: StatusCode }) => error.code,
  );
}

describe("nobody dies", () => {
  it("a worker keeps its lease: after three of them the ring is the same and every key is there", async () => {
    const leaseMs = 1_000;
    const running = await start("--lease_ms", String(leaseMs));
    const client = await running.client(0);
    expect(codesOf(await client.mSetD2H(["stays"], [memory(0, [64], 9).list]))).toEqual(["OK"]);
    const ring = async (): Promise<string> =>
      (await hbmesh("members", "--json", "--worker", running.addresses[1] ?? "")).stdout;
    const before = await ring();
    expect(before).toContain(running.addresses[0]);
    // Three leases as the store counts them: of three members that join for one lease each and are never renewed.
    await leasesEnd(running.cluster.metadataAddress, leaseMs, 3);
    expect(await ring()).toBe(before);
    expect((await client.exist(["stays"])).presences).toEqual(["HIT"]);
  });
});

describe("the launcher is killed", () => {
  it("its workers and their sidecars end too", async () => {
    const before = leftoversNow();
    const dev = fork(mainPath, ["dev", "--port", "0", "--json", "--shared_memory_size_mb", "16"], {
      execArgv: [],
      stdio: ["ignore", "pipe", "inherit", "ipc"],
    });
    let output = "";
    dev.stdout?.setEncoding("utf8").on("data", (text: string) => {
      output += text;
    });
    const facts = await until("hbmesh dev has printed its addresses", () => {
      try {
        return JSON.parse(output) as { workers: { pid: number; sidecarPid: number }[] };
      } catch {
        return undefined;
      }
    });
    const pids = facts.workers.flatMap((worker) => [worker.pid, worker.sidecarPid]);
    expect(pids).toHaveLength(4);
    expect(pids.every(isAlive)).toBe(true);
    dev.kill("SIGKILL");
    await until("all of them are gone", () => !pids.some(isAlive));
    expectNothingNew(before);
  });
});

describe("the arena is full", () => {
  it("OUT_OF_MEMORY saying how much is used, by key; what is there stays; room comes back with a delete", async () => {
    fixture = await startFixture({ sharedMemorySizeMb: 16 });
    const client = await fixture.client(0);
    const large = [6 << 20];
    const lists = [memory(0, large, 1).list, memory(0, large, 2).list];
    expect(codesOf(await client.mSetD2H(["a", "b"], lists, { pin: "hard" }))).toEqual(["OK", "OK"]);
    const full = await client.mSetD2H(["c", "small"], [memory(0, large, 3).list, memory(0, [64], 4).list]);
    expect(codesOf(full)).toEqual(["OUT_OF_MEMORY", "OK"]);
    expect(full.failedKeys).toEqual(["c"]);
    expect(full.statuses[0]?.message).toMatch(/\d+.*bytes|MiB|MB/);
    expect((await client.exist(["c"])).presences).toEqual(["MISS"]);
    const kept = memory(1, large);
    expect(codesOf(await client.mGetH2D(["b"], [kept.list]))).toEqual(["OK"]);
    expect(kept.holds(2)).toBe(true);
    await client.delete(["a"]);
    expect(codesOf(await client.mSetD2H(["c"], [memory(0, large, 3).list]))).toEqual(["OK"]);
  });

  it("what is not pinned makes room, the one read longest ago first, and is then a miss everywhere", async () => {
    fixture = await startFixture({ sharedMemorySizeMb: 16 });
    const client = await fixture.client(0);
    const other = await fixture.client(1);
    const large = [5 << 20];
    expect(
      codesOf(await client.mSetD2H(["first", "second"], [memory(0, large, 1).list, memory(0, large, 2).list])),
    ).toEqual(["OK", "OK"]);
    const read = memory(1, large);
    expect(codesOf(await client.mGetH2D(["first"], [read.list]))).toEqual(["OK"]);
    expect(codesOf(await client.mSetD2H(["third"], [memory(0, large, 3).list]))).toEqual(["OK"]);
    expect(codesOf(await client.mSetD2H(["fourth"], [memory(0, [4 << 20], 4).list]))).toEqual(["OK"]);
    const keys = ["first", "second", "third", "fourth"];
    await until("the owners have heard of it", async () =>
      (await other.exist(keys)).presences.every((presence, index) => presence === (index === 1 ? "MISS" : "HIT")),
    );
    expect(JSON.stringify(await client.explain("second"))).toMatch(/evicted/);
  });
});
