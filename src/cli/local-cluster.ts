/**
 * Two or more workers on this machine, for `hbmesh demo`, `hbmesh dev`, tests and the bench. This process serves the
 * embedded store; each worker is a process of its own (`hbmesh worker`), which starts its own sidecar process.
 *
 * Nothing outlives this process: a worker watches the channel to its parent and ends when that closes, however the
 * parent ended, and a sidecar ends with its control process (orphan grace 0).
 */
import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { findFreePorts } from "../base/free-port.js";
import { type HostedStore, hostEmbeddedStore } from "./embedded-store.js";

export type TransportChoice = "auto" | "tcp" | "shm";

export interface LocalClusterOptions {
  /** Defaults to 2. */
  workers?: number;
  /** Simulated devices of each worker. Defaults to what `hbmesh worker` has, as do the others. */
  devices?: number;
  /** Between the workers. Defaults to "tcp": they behave as two hosts. */
  transport?: TransportChoice;
  /** Arena of each worker. */
  sharedMemorySizeMb?: number;
  /** Most of it that copies of remotely read objects may take, in percent. */
  replicaPercent?: number;
  /** Where members are kept. Defaults to a store that this process serves. */
  metadataAddress?: string;
  /** First worker's port, counting up; 0 (the default) picks free ones. */
  port?: number;
  /** Further arguments for `hbmesh worker`: the same for each, or those of the worker with this number. */
  workerArgs?: readonly string[] | ((index: number) => readonly string[]);
  /** How long a worker may take to be ready. Defaults to 30,000. */
  startTimeoutMs?: number;
  /** Called when a worker ends that was not asked to. */
  onWorkerExit?: (worker: LocalWorker, reason: string) => void;
  /** Ends the start, which rejects with its reason then. Without effect when the workers are ready. */
  signal?: AbortSignal;
}

/** What a worker tells its parent over the process channel when it is ready. */
export interface WorkerReady {
  t: "ready";
  workerAddress: string;
  linkAddress: string;
  sidecarPid: number;
  backend: string;
  deviceCount: number;
  transports: { name: string; address: string }[];
}

/** What a parent tells its worker over the process channel: to live on without it. */
export const STAY = { t: "stay" };

export interface LocalWorker {
  readonly index: number;
  readonly ready: WorkerReady;
  readonly process: ChildProcess;
  /** Resolves with how it ended. */
  readonly ended: Promise<string>;
  /** Its last lines on stderr. */
  readonly lastOutput: () => string;
}

export interface LocalCluster {
  readonly workers: readonly LocalWorker[];
  readonly metadataAddress: string;
  /** Ends the workers (and with them the sidecars) and the store. Resolves when all are gone. */
  close(): Promise<void>;
}

const mainPath = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));
const keptOutputBytesMax = 16_384;
/** Longer than a worker takes to end a sidecar that follows neither the request nor SIGTERM. */
const closeTimeoutMs = 20_000;

/** Starts the store and the workers. Rejects with the first cause after everything started was ended again. */
export async function startLocalCluster(options: LocalClusterOptions = {}): Promise<LocalCluster> {
  const store = options.metadataAddress === undefined ? await hostEmbeddedStore() : foreign(options.metadataAddress);
  const starting: StartingWorker[] = [];
  let isClosing = false;
  const close = async (): Promise<void> => {
    isClosing = true;
    await Promise.all(starting.map(endWorker));
    await store.close();
  };
  try {
    const addresses = await pickAddresses(options.workers ?? 2, options.port ?? 0);
    options.signal?.throwIfAborted();
    for (const [index, workerAddress] of addresses.entries()) {
      starting.push(spawnWorker(workerArgs(workerAddress, index, store, options)));
    }
    const timeoutMs = options.startTimeoutMs ?? 30_000;
    const started = Promise.all(
      starting.map(async (worker, index): Promise<LocalWorker> => {
        const ready = await waitUntilReady(worker, addresses[index] ?? "", timeoutMs);
        return { index, ready, process: worker.process, ended: worker.ended, lastOutput: worker.lastOutput };
      }),
    );
    const workers = await Promise.race([started, aborted(options.signal)]);
    for (const worker of workers) {
      void worker.ended.then((reason) => {
        if (!isClosing) {
          options.onWorkerExit?.(worker, reason);
        }
      });
    }
    return { workers, metadataAddress: store.address, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Never resolves. */
function aborted(signal: AbortSignal | undefined): Promise<never> {
  return new Promise((_resolve, reject) => {
    signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

function workerArgs(workerAddress: string, index: number, store: HostedStore, options: LocalClusterOptions): string[] {
  const { workerArgs: further = [] } = options;
  const flags: [string, string | number | undefined][] = [
    ["--worker_address", workerAddress],
    ["--metadata_address", store.address],
    ["--devices", options.devices],
    ["--transport", options.transport ?? "tcp"],
    ["--shared_memory_size_mb", options.sharedMemorySizeMb],
    ["--replica_percent", options.replicaPercent],
    ["--orphan_grace_ms", 0],
  ];
  const given = flags.flatMap(([name, value]) => (value === undefined ? [] : [name, String(value)]));
  return ["worker", ...given, ...(typeof further === "function" ? further(index) : further)];
}

/** A store that others serve, and that stays. */
function foreign(address: string): HostedStore {
  return { address, close: () => Promise.resolve() };
}

interface StartingWorker {
  process: ChildProcess;
  ended: Promise<string>;
  lastOutput: () => string;
}

function spawnWorker(args: readonly string[]): StartingWorker {
  const child = fork(mainPath, args, { execArgv: [], stdio: ["ignore", "ignore", "pipe", "ipc"] });
  let output = "";
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    output = (output + text).slice(-keptOutputBytesMax);
  });
  const ended = new Promise<string>((resolve) => {
    child.once("error", (cause) => resolve(cause.message));
    // "close" comes after the last output, "exit" may come before it.
    child.once("close", (code, signal) => resolve(signal === null ? `exit code ${code}` : `signal ${signal}`));
  });
  return { process: child, ended, lastOutput: () => output.trim() };
}

async function waitUntilReady(worker: StartingWorker, address: string, timeoutMs: number): Promise<WorkerReady> {
  const ready = new Promise<WorkerReady>((resolve) => {
    worker.process.on("message", (message: WorkerReady) => {
      if (message.t === "ready") {
        resolve(message);
      }
    });
  });
  const failed = worker.ended.then((reason): never => {
    throw startFailure(address, `ended with ${reason}`, worker.lastOutput());
  });
  // The race below may be decided without it.
  failed.catch(() => undefined);
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => {
      reject(startFailure(address, `was not ready after ${timeoutMs} ms`, worker.lastOutput()));
    }, timeoutMs);
  });
  try {
    return await Promise.race([ready, failed, late]);
  } finally {
    clearTimeout(timer);
  }
}

function startFailure(address: string, what: string, output: string): HbmeshError {
  const said = output === "" ? "" : `; its last output:\n${output}`;
  return new HbmeshError(StatusCode.NOT_READY, `the worker at ${address} ${what}${said}`, { node: address });
}

/** SIGTERM, then SIGKILL for one that does not follow. */
async function endWorker(worker: StartingWorker): Promise<void> {
  if (worker.process.exitCode === null && worker.process.signalCode === null) {
    worker.process.kill("SIGTERM");
  }
  const timer = setTimeout(() => worker.process.kill("SIGKILL"), closeTimeoutMs);
  await worker.ended;
  clearTimeout(timer);
}

/** 127.0.0.1 addresses: consecutive ports from `port`, or free ones that differ from each other when it is 0. */
async function pickAddresses(count: number, port: number): Promise<string[]> {
  if (port !== 0) {
    return Array.from({ length: count }, (_, index) => `127.0.0.1:${port + index}`);
  }
  return (await findFreePorts(count)).map((free) => `127.0.0.1:${free}`);
}
