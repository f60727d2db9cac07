/**
 * Taking over a sidecar that outlived its control process (it waits for --orphan_grace_ms): its clients stay connected,
 * and what it holds is announced anew.
 *
 * It is no child of this process: its process id is found by its command line, in this network namespace, and its end
 * is seen by looking.
 */
import { closeSync } from "node:fs";
import { type Clock, createSystemClock } from "../base/clock.js";
import { pause } from "../base/deadline.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { findProcesses, loadOf } from "../base/processes.js";
import { type ConnectSidecarOptions, connectSidecar, type NativeSidecarPort } from "./native-port.js";
import {
  type SidecarExit,
  type SidecarProcess,
  type SidecarProcessOptions,
  sidecarArguments,
} from "./sidecar-process.js";
import { type StartedSidecar, startSidecar } from "./start-sidecar.js";

/** A process and the arguments that it was started with. */
export interface FoundProcess {
  pid: number;
  args: readonly string[];
}

export interface TakeOverDependencies {
  connect: (workerAddress: string, options: ConnectSidecarOptions) => Promise<NativeSidecarPort>;
  find: (workerAddress: string) => FoundProcess | undefined;
  start: typeof startSidecar;
  /** False: no such process. Signal 0 only looks. */
  signal: (pid: number, signal: NodeJS.Signals | 0) => boolean;
  closeFd: (fd: number) => void;
}

const CONNECT_TIMEOUT_MS = 5_000;
const LOOK_MS = 20;

const SYSTEM: TakeOverDependencies = {
  connect: connectSidecar,
  find: findSidecar,
  start: startSidecar,
  signal: sendSignal,
  closeFd: closeSync,
};

/**
 * Undefined when nobody listens for this worker address. A sidecar that runs with other settings is ended, and its
 * successor adopts its objects. Rejects as connectSidecar does when one listens but doesn't answer, or has a control
 * process.
 */
export async function takeOverSidecar(
  options: SidecarProcessOptions,
  dependencies: TakeOverDependencies = SYSTEM,
): Promise<StartedSidecar | undefined> {
  const { workerAddress, log } = options;
  const clock = options.clock ?? createSystemClock();
  let port: NativeSidecarPort;
  try {
    port = await dependencies.connect(workerAddress, { connectTimeoutMs: CONNECT_TIMEOUT_MS, clock });
  } catch (reason) {
    if (reason instanceof HbmeshError && reason.code === StatusCode.NO_AVAILABLE_WORKER) {
      return undefined;
    }
    throw reason;
  }
  const found = dependencies.find(workerAddress);
  const process = new ForeignProcess(found?.pid ?? -1, clock, dependencies, options.stopTimeoutMs ?? 5_000);
  const { storeFd } = port;
  let stopped: Promise<void> | undefined;
  const end = async (): Promise<void> => {
    port.close();
    await process.stop();
  };
  const taken: StartedSidecar = {
    port,
    process,
    storeFd,
    load: () => loadOf(process.pid),
    kill: () => process.kill(),
    end,
    stop: () => {
      stopped ??= end().then(() => dependencies.closeFd(storeFd));
      return stopped;
    },
  };
  if (found === undefined || isSame(found.args, options)) {
    log.info({ workerAddress, pid: process.pid }, "took over the sidecar of an earlier control process");
    return taken;
  }
  log.info(
    { workerAddress, pid: process.pid },
    "the running sidecar has other settings; its successor adopts its objects",
  );
  try {
    await end();
    return await dependencies.start(options, storeFd);
  } finally {
    await taken.stop();
  }
}

function isSame(args: readonly string[], options: SidecarProcessOptions): boolean {
  const own = args.filter((arg) => !arg.startsWith("--adopt_fd="));
  return own.join("\n") === sidecarArguments(options, false).join("\n");
}

/** A process that is not a child: `exited` is known only by looking. */
class ForeignProcess implements SidecarProcess {
  readonly pid: number;
  readonly #clock: Clock;
  readonly #signal: TakeOverDependencies["signal"];
  readonly #stopTimeoutMs: number;
  #stopping: Promise<SidecarExit> | undefined;

  constructor(pid: number, clock: Clock, { signal }: TakeOverDependencies, stopTimeoutMs: number) {
    this.pid = pid;
    this.#clock = clock;
    this.#signal = signal;
    this.#stopTimeoutMs = stopTimeoutMs;
  }

  get exited(): Promise<SidecarExit> {
    return this.#awaitEnd(Number.POSITIVE_INFINITY).then(() => GONE);
  }

  kill(): void {
    if (this.pid > 0) {
      this.#signal(this.pid, "SIGKILL");
    }
  }

  stop(): Promise<SidecarExit> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async #stop(): Promise<SidecarExit> {
    if (this.pid > 0 && this.#signal(this.pid, "SIGTERM") && !(await this.#awaitEnd(this.#stopTimeoutMs))) {
      this.#signal(this.pid, "SIGKILL");
      await this.#awaitEnd(this.#stopTimeoutMs);
    }
    return GONE;
  }

  /** Has it ended within this time? */
  async #awaitEnd(timeoutMs: number): Promise<boolean> {
    const deadlineMs = this.#clock.monotonicMs() + timeoutMs;
    while (this.pid > 0 && this.#signal(this.pid, 0)) {
      if (this.#clock.monotonicMs() >= deadlineMs) {
        return false;
      }
      await pause(this.#clock, LOOK_MS);
    }
    return true;
  }
}

const GONE: SidecarExit = { code: null, signal: null, text: "it is gone" };

function sendSignal(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(pid, signal);
  } catch {
    return false;
  }
}

function findSidecar(workerAddress: string): FoundProcess | undefined {
  const wanted = `--worker_address=${workerAddress}`;
  const [found] = findProcesses(
    ([program = "", ...args]) => program.endsWith("hbmesh-sidecar") && args.includes(wanted),
  );
  return found === undefined ? undefined : { pid: found.pid, args: found.args.slice(1) };
}
