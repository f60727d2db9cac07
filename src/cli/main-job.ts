/**
 * The main job: two workers, two client processes; bytes set from HBM of one device at worker 1 are read into HBM of another at
 * worker 2 and compared by SHA-256. Several rounds, the first is a warm-up; every round uses new keys, is verified and
 * deleted. The limits are measured in the same run, on the same machine, with as many threads or connections.
 */
import { randomBytes } from "node:crypto";
import { stat } from "node:fs/promises";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { type CarriedBy, type ClientSettings, layOut } from "./demo-job.js";
import { ClientProcess } from "./demo-process.js";
import { startLocalCluster, type TransportChoice } from "./local-cluster.js";
import type { Shape } from "./options.js";
import { measureRawSockets } from "./raw-sockets.js";

export interface MainJobOptions {
  file: string;
  shape: Shape;
  transport: TransportChoice;
  devices: number;
  /** Measured rounds after the warm-up. */
  rounds: number;
  setDevice: number;
  getDevice: number;
  /** Told of each step, for people. */
  progress: (text: string) => void;
  /** Aborted: the job ends at the next step and cleans up. */
  signal: AbortSignal;
}

/** One direction of the job: medians over the measured rounds. */
export interface Measured {
  objects: number;
  blobs: number;
  bytes: number;
  seconds: number;
  /** 10^9 bytes a second. */
  gbps: number;
  limitGbps: number;
  limit: string;
  ratio: number;
  /** Copy threads or connections. */
  lanes: number;
}

export interface MainJobResult {
  ok: true;
  sha256: string;
  /** What carried the bytes from worker to worker. */
  path: string;
  paths: CarriedBy[];
  file: string;
  rounds: number;
  set: Measured;
  get: Measured;
}

const keptRoomBytes = 64 * 1024 * 1024;
const getTimeoutMs = 60_000;

export async function runMainJob(options: MainJobOptions): Promise<MainJobResult> {
  const totalBytes = await sizeOf(options.file);
  const layout = layOut(totalBytes, options.shape);
  const closers: (() => Promise<void>)[] = [];
  try {
    options.progress(`two workers, ${options.devices} simulated devices each, ${options.transport} between them`);
    // Header and alignment cost under 1% for the smallest useful shapes; a few blobs of bytes need more.
    const headerBytes = layout.objects.reduce((sum, blobs) => sum + 256 + 8 * blobs.length, 0);
    const cluster = await startLocalCluster({
      devices: options.devices,
      transport: options.transport,
      sharedMemorySizeMb: Math.ceil((totalBytes + headerBytes + keptRoomBytes) / 2 ** 20),
    });
    closers.push(() => cluster.close());
    const [first, second] = cluster.workers.map((worker) => worker.ready.workerAddress);
    const common = { file: options.file, shape: options.shape, totalBytes, timeoutMs: getTimeoutMs };
    const keyPrefix = `main-job:${randomBytes(6).toString("hex")}`;
    const open = async (settings: ClientSettings): Promise<ClientProcess> => {
      const client = new ClientProcess(`${settings.role} client`);
      closers.push(() => client.end());
      await client.ask({ t: "open", settings }, "opened");
      return client;
    };
    options.progress(`client 1: ${options.file} into HBM of device ${options.setDevice} at worker 1 (${first})`);
    const setSettings = { ...common, keyPrefix, role: "set" as const, deviceIndex: options.setDevice };
    const setter = await open({ ...setSettings, workerAddress: first ?? "" });
    options.progress(`client 2: empty HBM of device ${options.getDevice} at worker 2 (${second})`);
    const getSettings = { ...common, keyPrefix, role: "get" as const, deviceIndex: options.getDevice };
    const getter = await open({ ...getSettings, workerAddress: second ?? "" });

    const result = await runRounds({ options, layout, setter, getter });
    await finish(setter);
    await finish(getter);
    return result;
  } finally {
    // Clients before workers.
    for (const close of closers.reverse()) {
      await close();
    }
  }
}

interface Job {
  options: MainJobOptions;
  layout: ReturnType<typeof layOut>;
  setter: ClientProcess;
  getter: ClientProcess;
}

async function runRounds(job: Job): Promise<MainJobResult> {
  const { options, setter, getter } = job;
  const { sha256 } = await setter.ask({ t: "hash" }, "hashed");
  const setSeconds: number[] = [];
  const getSeconds: number[] = [];
  let setPaths: CarriedBy[] = [];
  let paths: CarriedBy[] = [];
  for (let round = 0; round <= options.rounds; round += 1) {
    options.signal.throwIfAborted();
    options.progress(round === 0 ? "warm-up: set, get, compare, delete" : `round ${round} of ${options.rounds}`);
    const set = await setter.ask({ t: "run", round }, "ran");
    const get = await getter.ask({ t: "run", round }, "ran");
    const arrived = await getter.ask({ t: "hash" }, "hashed");
    if (arrived.sha256 !== sha256) {
      const message = `what arrived is not what was set: SHA-256 ${arrived.sha256} instead of ${sha256} in round ${round}`;
      throw new HbmeshError(StatusCode.DATA_INCONSISTENCY, message);
    }
    await getter.ask({ t: "delete", round }, "deleted");
    setPaths = set.paths;
    paths = get.paths;
    if (round > 0) {
      setSeconds.push(set.seconds);
      getSeconds.push(get.seconds);
    }
  }
  options.signal.throwIfAborted();
  const path = [...new Set(paths.map((each) => each.transport))].join("+");
  if (options.transport !== "auto" && path !== options.transport) {
    const message = `the bytes went over ${path === "" ? "no path" : path}, not over ${options.transport} as asked`;
    throw new HbmeshError(StatusCode.RUNTIME_ERROR, message);
  }
  options.progress("limits: one copy, and what carried the get, without hbmesh");
  const setLanes = lanesOf(setPaths);
  const getLanes = lanesOf(paths);
  const set = measured(job, setSeconds, setLanes, await copyLimit(job, setLanes), "one copy");
  const isTcp = path.includes("tcp");
  const getLimit = isTcp
    ? await measureRawSockets({ connections: getLanes, bytes: job.layout.totalBytes, rounds: options.rounds })
    : await copyLimit(job, getLanes);
  const get = measured(job, getSeconds, getLanes, getLimit, isTcp ? "raw sockets" : "one copy");
  return { ok: true, sha256, path, paths, file: options.file, rounds: options.rounds, set, get };
}

async function copyLimit(job: Job, threads: number): Promise<number> {
  const order = { t: "limit", threads, pieceBytes: job.options.shape.blobBytes } as const;
  return (await job.getter.ask(order, "limited")).bytesPerSecond;
}

function lanesOf(paths: readonly CarriedBy[]): number {
  return Math.max(1, ...paths.map((path) => path.lanes));
}

function measured(job: Job, seconds: number[], lanes: number, limitBytesPerSecond: number, limit: string): Measured {
  const bytes = job.layout.totalBytes;
  const middle = median(seconds);
  return {
    objects: job.layout.objects.length,
    blobs: job.layout.objects.reduce((sum, blobs) => sum + blobs.length, 0),
    bytes,
    seconds: middle,
    gbps: bytes / middle / 1e9,
    limitGbps: limitBytesPerSecond / 1e9,
    limit,
    ratio: bytes / middle / limitBytesPerSecond,
    lanes,
  };
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? 0;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? 0)) / 2;
}

async function finish(client: ClientProcess): Promise<void> {
  await client.ask({ t: "close" }, "closed");
  const reason = await client.finished();
  if (reason !== "exit code 0") {
    throw new HbmeshError(StatusCode.RUNTIME_ERROR, `a client process ended with ${reason} after its work was done`);
  }
}

async function sizeOf(file: string): Promise<number> {
  const entry = await stat(file).catch((cause: unknown) => {
    throw new HbmeshError(StatusCode.INVALID, `${file} can't be read; give a file with --file PATH`, { cause });
  });
  if (!entry.isFile() || entry.size === 0) {
    throw new HbmeshError(StatusCode.INVALID, `${file} is no file with bytes in it; give one with --file PATH`);
  }
  return entry.size;
}
