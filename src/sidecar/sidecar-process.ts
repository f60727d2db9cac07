/**
 * The sidecar as a child process: started with its settings as flags, awaited until it says `ready` on a descriptor of
 * its own, watched, and ended by its process id. What it writes goes to the log, line by line.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { type Clock, createSystemClock, type Timer } from "../base/clock.js";
import type { KeyRuleChoice, LocalTokenChoice, TransportChoice } from "../base/config.js";
import { createDeferred } from "../base/deadline.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import { nativePath } from "./addon.js";

/** Settings that become flags of hbmesh-sidecar. */
export interface SidecarFlags {
  /** IP:PORT; names the session socket. */
  workerAddress: string;
  devices: number;
  /** Rounded up to whole MiB. A store that is adopted keeps its own size. */
  arenaBytes: number;
  /** Most of the arena that copies of remotely read objects may take. Default: none are kept. */
  replicaPercent?: number | undefined;
  /** False: objects of other workers go to host memory first. Default true. */
  remoteH2d?: boolean | undefined;
  /** When objects make room, in percent of the arena. Default: the sidecar's own choice. */
  evictionHighPercent?: number | undefined;
  evictionLowPercent?: number | undefined;
  /** Absolute. Default: no SSD tier. */
  spillDirectory?: string | undefined;
  /** Size of the SSD tier, rounded up to whole MiB. */
  spillBytes?: number | undefined;
  transport: TransportChoice;
  /** IP:PORT of the tcp transport. Default: the worker's IP and a free port. */
  transportListen?: string | undefined;
  /** Connections to each peer. */
  lanes: number;
  /** Largest piece of a transfer. Default: the sidecar's own. */
  sliceBytesMax?: number | undefined;
  /** Threads of the copy engines. Default: the sidecar's own choice. */
  copyThreads?: number | undefined;
  spinMicros: number;
  orphanGraceMs: number;
  keyRule: KeyRuleChoice;
  hugePages: boolean;
  /** File with the tenants and their tokens. Default: one tenant, without a token. */
  tenantsFile?: string | undefined;
  /** File with the token that the sidecars of a cluster prove to each other, and clients may show. Default: none. */
  clusterTokenFile?: string | undefined;
  /** Must clients show a token? Default: the sidecar's own choice, `optional`. */
  localToken?: LocalTokenChoice | undefined;
  /** Users that are served beside the sidecar's own and root. Default: none. */
  clientUids?: readonly number[] | undefined;
  /** A group whose members are served too. Default: none. */
  clientGid?: number | undefined;
  /** Slows simulated devices down, for tests; 0 and absent: as fast as the machine. */
  sim?: { bandwidthMbPerSecond: number; latencyMicros: number } | undefined;
}

export interface SidecarProcessOptions extends SidecarFlags {
  log: Logger;
  /** A store's descriptor of this process, whose objects the sidecar takes over. It stays the caller's. */
  adoptFd?: number | undefined;
  /** How long it may take until it is ready. Touching a large arena takes its time. Default 30,000 ms. */
  startTimeoutMs?: number | undefined;
  /** How long it may take to end after SIGTERM, before SIGKILL. Default 5,000 ms. */
  stopTimeoutMs?: number | undefined;
  /** The program. Default: hbmesh-sidecar beside the addon. */
  program?: string | undefined;
  clock?: Clock | undefined;
}

/** How the process ended: `exit code 1`, `signal SIGKILL`. */
export interface SidecarExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly text: string;
}

export interface SidecarProcess {
  readonly pid: number;
  /** Resolves when it has ended, for whatever reason; never rejects. */
  readonly exited: Promise<SidecarExit>;
  /** SIGKILL, now. */
  kill(): void;
  /**
   * SIGTERM, then SIGKILL after the time limit; resolves when it has ended. May be called again, and after it ended.
   */
  stop(): Promise<SidecarExit>;
}

const READY_FD = 3;
const ADOPT_FD = 4;
/** Lines of its output that are quoted when it doesn't start. */
const QUOTED_LINES_MAX = 5;

/** The flags that hbmesh-sidecar understands (native/sidecar/main.cc). */
export function sidecarArguments(flags: SidecarFlags, adopts: boolean): string[] {
  const settings: [string, string | number | boolean | undefined][] = [
    ["worker_address", flags.workerAddress],
    ["devices", flags.devices],
    ["arena_mb", Math.max(1, Math.ceil(flags.arenaBytes / 2 ** 20))],
    ["replica_percent", flags.replicaPercent === 0 ? undefined : flags.replicaPercent],
    ["stage_remote_gets", flags.remoteH2d === false ? true : undefined],
    ["eviction_high", flags.evictionHighPercent],
    ["eviction_low", flags.evictionLowPercent],
    ["spill_directory", flags.spillDirectory],
    ["spill_mb", flags.spillDirectory === undefined ? undefined : Math.ceil((flags.spillBytes ?? 0) / 2 ** 20)],
    ["transport", flags.transport],
    ["transport_listen", flags.transportListen],
    ["lanes", flags.lanes],
    ["slice_kb", flags.sliceBytesMax === undefined ? undefined : Math.ceil(flags.sliceBytesMax / 1024)],
    ["copy_threads", flags.copyThreads],
    ["spin_us", flags.spinMicros],
    ["orphan_grace_ms", flags.orphanGraceMs],
    // Where nobody may take over a sidecar, nobody may take over its memory either.
    ["keep_memory", flags.orphanGraceMs > 0 ? true : undefined],
    ["key_rule", flags.keyRule],
    ["huge_pages", flags.hugePages],
    ["tenants_file", flags.tenantsFile],
    ["cluster_token_file", flags.clusterTokenFile],
    ["local_token", flags.localToken === "required" ? flags.localToken : undefined],
    [
      "client_uids",
      flags.clientUids === undefined || flags.clientUids.length === 0 ? undefined : flags.clientUids.join(),
    ],
    ["client_gid", flags.clientGid],
    ["sim_bandwidth_mb_per_s", flags.sim?.bandwidthMbPerSecond],
    ["sim_latency_us", flags.sim?.latencyMicros],
    ["ready_fd", READY_FD],
    ["adopt_fd", adopts ? ADOPT_FD : undefined],
  ];
  return settings.filter(([, value]) => value !== undefined).map(([name, value]) => `--${name}=${value}`);
}

/**
 * Starts a sidecar and resolves when it is ready. Rejects with what the sidecar gave as the reason, with NOT_READY when
 * it ended or could not be started, and with WORKER_TIMEOUT when the time was over; then no process is left.
 */
export async function startSidecarProcess(options: SidecarProcessOptions): Promise<SidecarProcess> {
  const program = options.program ?? nativePath("hbmesh-sidecar");
  if (!existsSync(program)) {
    throw notReady(options, `the sidecar is not built (${program} is missing): run npm run setup`);
  }
  if (options.adoptFd === undefined && options.hugePages !== true) {
    checkMemory(options, memoryOfHost());
  }
  const child = spawn(program, sidecarArguments(options, options.adoptFd !== undefined), {
    stdio: ["ignore", "pipe", "pipe", "pipe", ...(options.adoptFd === undefined ? [] : [options.adoptFd])],
  });
  const running = new RunningSidecar(child, options);
  try {
    await running.whenReady();
  } catch (error) {
    await running.stop();
    throw error;
  }
  return running;
}

/**
 * All that this host has; undefined where the kernel does not say. What is free does not count: a keeper may hold what
 * is to be adopted.
 */
function memoryOfHost(): number | undefined {
  try {
    const kibibytes = /^MemTotal:\s+(\d+) kB/m.exec(readFileSync("/proc/meminfo", "utf8"))?.[1];
    return kibibytes === undefined ? undefined : Number(kibibytes) * 1_024;
  } catch {
    return undefined;
  }
}

/**
 * A sidecar touches all of its arena first: one that is too large would take memory until the kernel kills a process,
 * and not always this one.
 */
export function checkMemory(
  { workerAddress, arenaBytes }: Pick<SidecarFlags, "workerAddress" | "arenaBytes">,
  hostBytes: number | undefined,
): void {
  if (hostBytes !== undefined && arenaBytes > hostBytes) {
    const mebibytes = (bytes: number): number => Math.floor(bytes / 2 ** 20);
    const sizes = `${mebibytes(arenaBytes)} MiB for objects, and this host has ${mebibytes(hostBytes)} MiB of memory`;
    throw new HbmeshError(
      StatusCode.OUT_OF_MEMORY,
      `the sidecar of ${workerAddress} would take ${sizes}: give a smaller --shared_memory_size_mb`,
      { node: workerAddress },
    );
  }
}

class RunningSidecar implements SidecarProcess {
  readonly exited: Promise<SidecarExit>;
  readonly #child: ChildProcess;
  readonly #options: SidecarProcessOptions;
  readonly #clock: Clock;
  readonly #lastLines: string[] = [];
  #ended = false;

  constructor(child: ChildProcess, options: SidecarProcessOptions) {
    this.#child = child;
    this.#options = options;
    this.#clock = options.clock ?? createSystemClock();
    const exited = createDeferred<SidecarExit>();
    this.exited = exited.promise;
    const finish = (code: number | null, signal: NodeJS.Signals | null, text: string): void => {
      this.#ended = true;
      exited.resolve({ code, signal, text });
    };
    // Without a process id there is no exit event: the program could not be started at all.
    child.once("error", (error) => {
      if (child.pid === undefined) {
        finish(null, null, error.message);
      }
    });
    child.once("exit", (code, signal) =>
      finish(code, signal, signal === null ? `exit code ${code}` : `signal ${signal}`),
    );
    for (const stream of [child.stdout, child.stderr]) {
      this.#forward(stream);
    }
  }

  get pid(): number {
    return this.#child.pid ?? -1;
  }

  /** Settles with the first line on the ready descriptor, the process's end, or the time limit. */
  async whenReady(): Promise<void> {
    const { workerAddress } = this.#options;
    const timeoutMs = this.#options.startTimeoutMs ?? 30_000;
    const outcome = createDeferred<void>();
    const timer = this.#clock.setTimer(timeoutMs, () =>
      outcome.reject(
        new HbmeshError(
          StatusCode.WORKER_TIMEOUT,
          `waited ${timeoutMs} ms for the sidecar of ${workerAddress} (process ${this.pid}) to be ready${this.#quote()}; ` +
            "give it longer, or a smaller arena",
          { node: workerAddress },
        ),
      ),
    );
    const ready = this.#child.stdio[READY_FD] as Readable;
    ready.on("error", () => undefined); // its end is told by the exit event
    const lines = createInterface({ input: ready });
    lines.once("line", (line) => {
      if (line === "ready" || line.startsWith("ready ")) {
        outcome.resolve();
      } else {
        outcome.reject(this.#startError(line));
      }
    });
    // The descriptor closes after its last line was read, so a reason that was given is not overtaken by the exit.
    ready.once("close", () => {
      void this.exited.then(({ text }) =>
        outcome.reject(
          notReady(
            this.#options,
            `the sidecar of ${workerAddress} ended before it was ready (${text})${this.#quote()}`,
          ),
        ),
      );
    });
    try {
      await outcome.promise;
    } finally {
      timer.cancel();
      lines.close();
      ready.destroy();
    }
  }

  kill(): void {
    this.#child.kill("SIGKILL");
  }

  async stop(): Promise<SidecarExit> {
    if (this.#ended) {
      return await this.exited;
    }
    this.#child.kill("SIGTERM");
    const timeoutMs = this.#options.stopTimeoutMs ?? 5_000;
    const timer: Timer = this.#clock.setTimer(timeoutMs, () => {
      this.#options.log.warn(
        { workerAddress: this.#options.workerAddress, pid: this.pid, timeoutMs },
        "the sidecar did not end after SIGTERM and is killed",
      );
      this.#child.kill("SIGKILL");
    });
    try {
      return await this.exited;
    } finally {
      timer.cancel();
    }
  }

  /** `error: OUT_OF_MEMORY: the arena …`, or without the code. */
  #startError(line: string): HbmeshError {
    const match = /^error: (?:([A-Z_]+): )?(.*)$/.exec(line);
    const code = StatusCode[(match?.[1] ?? "") as keyof typeof StatusCode] ?? StatusCode.NOT_READY;
    const { workerAddress } = this.#options;
    return new HbmeshError(code, `the sidecar of ${workerAddress} could not start: ${match?.[2] ?? line}`, {
      node: workerAddress,
    });
  }

  #quote(): string {
    return this.#lastLines.length === 0 ? "" : `; its last words: ${this.#lastLines.join(" | ")}`;
  }

  #forward(stream: Readable | null): void {
    if (stream === null) {
      return;
    }
    stream.on("error", () => undefined); // a broken pipe means that it ended, which is told elsewhere
    createInterface({ input: stream }).on("line", (line) => {
      this.#lastLines.push(line);
      if (this.#lastLines.length > QUOTED_LINES_MAX) {
        this.#lastLines.shift();
      }
      this.#options.log.info({ sidecar: this.#options.workerAddress, pid: this.pid }, `[sidecar] ${line}`);
    });
  }
}

function notReady(options: SidecarProcessOptions, message: string): HbmeshError {
  return new HbmeshError(StatusCode.NOT_READY, message, { node: options.workerAddress });
}
