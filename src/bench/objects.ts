/**
 * Many small objects on one worker: what memory they take, how fast they are set and got when there are few and when
 * there are many, what an idle worker costs, and how long a killed sidecar's successor takes to find them all again.
 */
import { readdirSync, readFileSync } from "node:fs";
import { type BenchContext, withClosers } from "./cluster.js";
import { BenchClient, type KeyedRun } from "./native-client.js";

export interface ObjectsOptions {
  objects: number;
  bytes: number;
  /** Keys of a call. */
  batch: number;
  /** How long an idle worker is watched, in milliseconds. */
  idleMs: number;
}

/** What a worker says of itself, and its processes. Who knows how to ask for them is above this folder. */
export interface WorkerProbe {
  health(address: string): Promise<WorkerFigures>;
  processesOf(address: string): { control: number; sidecar: number };
}

export interface WorkerFigures {
  ready: boolean;
  objects: bigint;
  arenaBytes: bigint;
  tableBytes: bigint;
  indexBytes: bigint;
}

export interface ObjectsRow {
  objects: number;
  setPerSecond: number;
  getPerSecond: number;
  /** Memory beside the arena: the object table, and the sidecar's own for finding and ordering objects. */
  tableBytes: number;
  indexBytes: number;
  /** Private and shared memory of the sidecar, and private memory of the control process, as the system counts it. */
  sidecarPrivateBytes: number;
  sidecarSharedBytes: number;
  controlBytes: number;
  /** Of one core, while nobody asks for anything. */
  sidecarIdlePercent: number;
  controlIdlePercent: number;
}

export interface ObjectsResult {
  bytes: number;
  batch: number;
  arenaBytes: number;
  rows: ObjectsRow[];
  /** From the kill of the sidecar until the worker is ready again with all objects. */
  adoptionMs: number;
  objectsAdopted: number;
}

/** Calls of a block: its keys have a prefix of their own. */
const callsOfBlock = 100;
const measuredBlocks = 5;
const keyBytesAtMost = 32;
const pollMs = 100;
const adoptionTimeoutMs = 600_000;

export async function measureObjects(
  options: ObjectsOptions,
  probe: WorkerProbe,
  context: BenchContext,
): Promise<ObjectsResult> {
  return await withClosers(async (defer) => {
    const cluster = await context.openCluster({
      workers: 1,
      devices: 1,
      transport: "tcp",
      sharedMemorySizeMb: arenaMebibytes(options),
    });
    defer(() => cluster.close());
    const address = cluster.addresses[0] ?? "";
    const client = await BenchClient.start("client", address);
    let ended = false;
    const end = async (): Promise<void> => {
      ended = ended || (await client.end().then(() => true));
    };
    defer(end);
    await client.allocate("m", { device: 0, threads: 1, keys: options.batch, blobs: 1, bytes: options.bytes }, 1);
    const rows: ObjectsRow[] = [];
    let blocks = 0;
    for (const count of levelsOf(options)) {
      const wanted = Math.max(1, Math.ceil(count / (options.batch * callsOfBlock)));
      context.progress(`setting objects up to ${count}`);
      let setMs: number[] = [];
      for (; blocks < wanted; blocks++) {
        context.signal.throwIfAborted();
        setMs = [...setMs, await timed(client, "set", blocks)].slice(-measuredBlocks);
      }
      context.progress(`getting some of ${blocks * callsOfBlock * options.batch} objects`);
      const getMs: number[] = [];
      for (let at = 0; at < measuredBlocks; at++) {
        context.signal.throwIfAborted();
        getMs.push(await timed(client, "get", Math.floor((at * blocks) / measuredBlocks)));
      }
      const keys = callsOfBlock * options.batch;
      const rate = (ms: readonly number[]): number =>
        (1000 * keys * ms.length) / ms.reduce((sum, each) => sum + each, 0);
      const measured = { objects: blocks * keys, setPerSecond: rate(setMs), getPerSecond: rate(getMs) };
      rows.push({ ...measured, ...(await memoryAndIdle(address, probe, options.idleMs)) });
    }
    const before = await probe.health(address);
    await end();
    context.progress("killing the sidecar, and waiting for its successor");
    const { adoptionMs, health } = await adoption(address, probe, before, context);
    await expectWhole(address, options, blocks);
    const { bytes, batch } = options;
    const arenaBytes = Number(health.arenaBytes);
    return { bytes, batch, arenaBytes, rows, adoptionMs, objectsAdopted: Number(health.objects) };
  });
}

/** Few, a million if that is in between, and all. */
function levelsOf({ objects, batch }: ObjectsOptions): number[] {
  const few = batch * callsOfBlock;
  return [few, 1_000_000, objects].filter((count, index) => index === 2 || (count >= few && count < objects));
}

/** So that nothing is evicted: objects with their headers up to 85 % of it. */
function arenaMebibytes({ objects, bytes }: ObjectsOptions): number {
  const header = 48 + 8 + keyBytesAtMost;
  const extent = 64 * (Math.ceil(header / 64) + Math.ceil(bytes / 64));
  return Math.max(64, Math.ceil((objects * extent) / 0.85 / 2 ** 20));
}

function runOf(block: number): KeyedRun {
  return { memory: "m", prefix: `o${block}_`, suffixes: ["k"], iterations: callsOfBlock };
}

async function timed(client: BenchClient, op: "set" | "get", block: number): Promise<number> {
  const { beginNs, endNs } = await client.run(op, runOf(block));
  return (endNs - beginNs) / 1e6;
}

async function memoryAndIdle(
  address: string,
  probe: WorkerProbe,
  idleMs: number,
): Promise<Omit<ObjectsRow, "objects" | "setPerSecond" | "getPerSecond">> {
  const health = await probe.health(address);
  const { control, sidecar } = probe.processesOf(address);
  const begin = { sidecar: cpuMs(sidecar), control: cpuMs(control), at: performance.now() };
  await new Promise((resolve) => setTimeout(resolve, idleMs));
  const passed = performance.now() - begin.at;
  return {
    tableBytes: Number(health.tableBytes),
    indexBytes: Number(health.indexBytes),
    sidecarPrivateBytes: statusBytes(sidecar, "RssAnon"),
    sidecarSharedBytes: statusBytes(sidecar, "RssShmem"),
    controlBytes: statusBytes(control, "RssAnon"),
    sidecarIdlePercent: (100 * (cpuMs(sidecar) - begin.sidecar)) / passed,
    controlIdlePercent: (100 * (cpuMs(control) - begin.control)) / passed,
  };
}

async function adoption(
  address: string,
  probe: WorkerProbe,
  before: WorkerFigures,
  context: BenchContext,
): Promise<{ adoptionMs: number; health: WorkerFigures }> {
  const begin = performance.now();
  process.kill(probe.processesOf(address).sidecar, "SIGKILL");
  for (;;) {
    context.signal.throwIfAborted();
    const health = await probe.health(address).catch(() => undefined);
    const adoptionMs = performance.now() - begin;
    if ((health?.ready === true && health.objects === before.objects) || adoptionMs > adoptionTimeoutMs) {
      return { adoptionMs, health: health ?? before };
    }
    await new Promise((resolve) => setTimeout(resolve, pollMs));
  }
}

/** Gets some of them through the new sidecar. Rejects if one is gone, or has other bytes. */
async function expectWhole(address: string, options: ObjectsOptions, blocks: number): Promise<void> {
  await withClosers(async (defer) => {
    const client = await BenchClient.start("client after the restart", address);
    defer(() => client.end());
    await client.allocate("m", { device: 0, threads: 1, keys: options.batch, blobs: 1, bytes: options.bytes }, 0);
    for (const block of new Set([0, Math.floor(blocks / 2), blocks - 1])) {
      await client.run("get", runOf(block));
    }
    await client.expectBytes("m", 1);
  });
}

/** Of all its threads. */
function cpuMs(pid: number): number {
  let ns = 0;
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    ns += Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, "utf8").split(" ")[0]);
  }
  return ns / 1e6;
}

function statusBytes(pid: number, field: string): number {
  const line = new RegExp(`^${field}:\\s+(\\d+) kB$`, "m").exec(readFileSync(`/proc/${pid}/status`, "utf8"));
  return Number(line?.[1] ?? 0) * 1024;
}
