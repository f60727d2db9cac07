/**
 * The main job: two workers, two client processes; bytes set from HBM of one device at worker 1 are read into HBM of
 * another at worker 2 and compared by SHA-256. Several rounds, the first is a warm-up; every round uses new keys, is
 * verified and deleted. The limits are measured in the same run, on the same machine, with as many threads or
 * connections.
 */
import { randomBytes } from "node:crypto";
import { stat } from "node:fs/promises";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { measureRawSockets } from "../bench/limits.js";
import { median } from "../bench/statistics.js";
import { type CarriedBy, type ClientSettings, layOut } from "./demo-job.js";
import { ClientProcess } from "./demo-process.js";
import { startLocalCluster, type TransportChoice } from "./local-cluster.js";
import type { Shape } from "./options.js";

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
  const { options, setter } = job;
  const { sha256 } = await setter.ask({ t: "hash" }, "hashed");
  await runRound(job, 0, sha256);
  const rounds: Round[] = [];
  for (let number = 1; number <= options.rounds; number += 1) {
    rounds.push(await runRound(job, number, sha256));
  }
  const paths = rounds.at(-1)?.paths ?? [];
  const path = transportsOf(paths);
  if (options.transport !== "auto" && path !== options.transport) {
    const message = `the bytes went over ${path === "" ? "no path" : path}, not over ${options.transport} as asked`;
    throw new HbmeshError(StatusCode.RUNTIME_ERROR, message);
  }
  const set = measured(
    job,
    rounds.map((round) => round.set),
  );
  const get = measured(
    job,
    rounds.map((round) => round.get),
  );
  return { ok: true, sha256, path, paths, file: options.file, rounds: options.rounds, set, get };
}

/** One direction in one round, and the limit measured right after it: both meet the machine in the same state. */
interface Sample {
  seconds: number;
  lanes: number;
  limit: string;
  limitBytesPerSecond: number;
}

interface Round {
  set: Sample;
  get: Sample;
  paths: CarriedBy[];
}

/** Sets, gets, compares, deletes, and measures the limits. The warm-up, round 0, measures none. */
async function runRound(job: Job, number: number, sha256: string): Promise<Round> {
  const { options, setter, getter } = job;
  options.signal.throwIfAborted();
  options.progress(number === 0 ? "warm-up: set, get, compare, delete" : `round ${number} of ${options.rounds}`);
  const set = await setter.ask({ t: "run", round: number }, "ran");
  const get = await getter.ask({ t: "run", round: number }, "ran");
  const arrived = await getter.ask({ t: "hash" }, "hashed");
  if (arrived.sha256 !== sha256) {
    const message = `what arrived is not what was set: SHA-256 ${arrived.sha256} instead of ${sha256} in round ${number}`;
    throw new HbmeshError(StatusCode.DATA_INCONSISTENCY, message);
  }
  await getter.ask({ t: "delete", round: number }, "deleted");
  const copyLimit = async (threads: number): Promise<number> => {
    const order = { t: "limit", threads, pieceBytes: options.shape.blobBytes } as const;
    return number === 0 ? 0 : (await getter.ask(order, "limited")).bytesPerSecond;
  };
  const wireLimit = async (connections: number): Promise<number> =>
    number === 0 ? 0 : await measureRawSockets({ connections, bytes: job.layout.totalBytes, rounds: 1 });
  const setLanes = lanesOf(set.paths);
  const getLanes = lanesOf(get.paths);
  const isTcp = transportsOf(get.paths).includes("tcp");
  const setLimit = await copyLimit(setLanes);
  const getLimit = isTcp ? await wireLimit(getLanes) : await copyLimit(getLanes);
  return {
    set: { seconds: set.seconds, lanes: setLanes, limit: "one copy", limitBytesPerSecond: setLimit },
    get: {
      seconds: get.seconds,
      lanes: getLanes,
      limit: isTcp ? "raw sockets" : "one copy",
      limitBytesPerSecond: getLimit,
    },
    paths: get.paths,
  };
}

function transportsOf(paths: readonly CarriedBy[]): string {
  return [...new Set(paths.map((each) => each.transport))].join("+");
}

function lanesOf(paths: readonly CarriedBy[]): number {
  return Math.max(1, ...paths.map((path) => path.lanes));
}

function measured(job: Job, samples: readonly Sample[]): Measured {
  const bytes = job.layout.totalBytes;
  const seconds = median(samples.map((sample) => sample.seconds));
  const limit = median(samples.map((sample) => sample.limitBytesPerSecond));
  return {
    objects: job.layout.objects.length,
    blobs: job.layout.objects.reduce((sum, blobs) => sum + blobs.length, 0),
    bytes,
    seconds,
    gbps: bytes / seconds / 1e9,
    limitGbps: limit / 1e9,
    limit: samples[0]?.limit ?? "",
    ratio: bytes / seconds / limit,
    lanes: samples[0]?.lanes ?? 0,
  };
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
