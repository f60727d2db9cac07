/**
 * `hbmesh start -w`: a worker in the background. Returns when it answers questions with certainty, or says why it
 * doesn't and leaves nothing running.
 *
 * The worker is `hbmesh worker` in a session of its own, bound by numactl if that is asked for, and writes to a log
 * file. Until it is ready it ends with this process.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { Command } from "commander";
import type { WorkerConfig } from "../base/config.js";
import { isRunning, signalProcess } from "../base/processes.js";
import { STAY, type WorkerReady } from "./local-cluster.js";
import { type NumaOptions, numaPrefix } from "./numa.js";
import { directoryPath, ExitError, usageError, wholeNumber } from "./options.js";
import { onEndingSignal } from "./signals.js";
import { toJson } from "./table.js";
import { until } from "./until.js";
import { openWorkerLog, type WorkerLog } from "./worker-log.js";
import { givenArguments, type WorkerOptions, withWorkerOptions, workerConfig } from "./worker-options.js";
import { findSidecars, findWorkers } from "./worker-processes.js";

interface StartOptions extends WorkerOptions, NumaOptions {
  worker?: boolean;
  log_dir?: string;
  start_timeout_ms?: number;
  json?: boolean;
}

const mainPath = fileURLToPath(new URL("./main.js", import.meta.url));
/** Longer than a worker takes to end a sidecar that follows neither the request nor SIGTERM. */
const END_TIMEOUT_MS = 20_000;
const SIDECAR_END_TIMEOUT_MS = 5_000;

const help = `
Start it on each host with the same --etcd_address; options may be spelled with underscores or dashes. It logs to
DIR/worker-IP_PORT.log; DIR is /var/log/hbmesh for root, else ~/.local/state/hbmesh.

Examples:
  $ hbmesh start -w --worker_address 127.0.0.1:31501
  $ hbmesh start --cpunodebind 0 --localalloc -w --worker_address 10.0.0.1:31501 --etcd_address 10.0.0.7:2379,10.0.0.8:2379,10.0.0.9:2379 \\
      --cluster_token_file /etc/hbmesh/token --remote_h2d_device_ids "0,1,2,3,4,5,6,7" --arena_per_tenant 1 --enable_huge_tlb true \\
      --enable_worker_worker_batch_get true --shared_memory_size_mb 65536
  $ hbmesh status
  $ hbmesh stop --worker_address 10.0.0.1:31501

Exit codes: 0 it is ready, 1 it isn't (the cause is on stderr, nothing is left running), 2 wrong arguments, 130 interrupted.
hbmesh worker --help says more of the options; it is the same worker in the foreground.`;

type Outcome = { t: "ready"; facts: WorkerReady } | { t: "ended"; how: string } | { t: "late" } | { t: "interrupted" };

async function start(options: StartOptions, command: Command, worker: Command): Promise<void> {
  if (options.worker !== true) {
    throw usageError("hbmesh start starts a worker: give -w and --worker_address IP:PORT");
  }
  const config = workerConfig(options);
  const prefix = numaPrefix(options);
  refuseSecond(config.workerAddress);
  const sidecarsBefore = new Set(findSidecars([config.workerAddress]).map(({ pid }) => pid));
  const log = openWorkerLog(config.workerAddress, options.log_dir);
  const line = [...prefix, process.execPath, mainPath, "worker", ...givenArguments(command, worker)];
  const child = spawnDetached(line, log);
  const timeoutMs = options.start_timeout_ms ?? startTimeoutMs(config);
  const outcome = await outcomeOf(child, timeoutMs);
  if (outcome.t === "ready") {
    await release(child);
    process.stdout.write(describe(outcome.facts, child.pid ?? 0, log.path, options.json === true));
    return;
  }
  await endWorker(child, config.workerAddress, sidecarsBefore);
  throw failure(outcome, config.workerAddress, timeoutMs, log);
}

function refuseSecond(workerAddress: string): void {
  const [running] = findWorkers([workerAddress]);
  if (running !== undefined) {
    const remedy = `hbmesh stop --worker_address ${workerAddress}`;
    throw new ExitError(
      1,
      `a worker runs at ${workerAddress} already (process ${running.pid}); end it first: ${remedy}`,
    );
  }
}

/** The sidecar's memory is touched first, then the members announce what they hold. */
function startTimeoutMs(config: WorkerConfig): number {
  return 2 * config.sidecarStartTimeoutMs + 30_000;
}

function spawnDetached([program = "", ...args]: string[], log: WorkerLog): ChildProcess {
  // The token of this command's user is none of the worker's business.
  const { HBMESH_TOKEN: _token, ...env } = process.env;
  return spawn(program, args, {
    cwd: "/",
    detached: true,
    env,
    stdio: ["ignore", log.fd, log.fd, "ipc"],
  });
}

function outcomeOf(child: ChildProcess, timeoutMs: number): Promise<Outcome> {
  return new Promise((resolve) => {
    const settle = (outcome: Outcome): void => {
      clearTimeout(timer);
      stopListening();
      resolve(outcome);
    };
    const onInterrupt = (): void => settle({ t: "interrupted" });
    const timer = setTimeout(() => settle({ t: "late" }), timeoutMs);
    const stopListening = onEndingSignal(onInterrupt);
    child.on("message", (message: WorkerReady) => {
      if (message.t === "ready") {
        settle({ t: "ready", facts: message });
      }
    });
    child.once("error", (cause) => settle({ t: "ended", how: cause.message }));
    child.once("exit", (code, signal) =>
      settle({ t: "ended", how: signal === null ? `exit code ${code}` : `signal ${signal}` }),
    );
  });
}

/** From here on the worker lives without this process. */
async function release(child: ChildProcess): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    child.send(STAY, (cause) => (cause === null ? resolve() : reject(cause)));
  });
  child.disconnect();
  child.unref();
}

/** Ends what was started, and the sidecar of a worker that had to be killed. */
async function endWorker(
  child: ChildProcess,
  workerAddress: string,
  sidecarsBefore: ReadonlySet<number>,
): Promise<void> {
  const hasEnded = (): boolean => child.exitCode !== null || child.signalCode !== null || child.pid === undefined;
  if (!hasEnded()) {
    child.kill("SIGTERM");
    if (!(await until(hasEnded, END_TIMEOUT_MS))) {
      child.kill("SIGKILL");
      await until(hasEnded, END_TIMEOUT_MS);
    }
  }
  for (const sidecar of findSidecars([workerAddress]).filter(({ pid }) => !sidecarsBefore.has(pid))) {
    signalProcess(sidecar, "SIGTERM");
    if (!(await until(() => !isRunning(sidecar), SIDECAR_END_TIMEOUT_MS))) {
      signalProcess(sidecar, "SIGKILL");
    }
  }
}

function failure(
  outcome: Exclude<Outcome, { t: "ready" }>,
  workerAddress: string,
  timeoutMs: number,
  log: WorkerLog,
): ExitError {
  const said = log.readNew();
  const tail = said.lines.length === 0 ? "" : `\nthe end of its log, ${log.path}:\n${said.lines.join("\n")}`;
  switch (outcome.t) {
    case "interrupted":
      return new ExitError(130, `interrupted: the worker at ${workerAddress} was ended before it was ready`);
    case "late":
      return new ExitError(
        1,
        `the worker at ${workerAddress} was not ready after ${timeoutMs} ms and was ended; give it longer with --start_timeout_ms, or see why${tail}`,
      );
    case "ended": {
      const why = said.cause ?? `it ended with ${outcome.how}`;
      return new ExitError(1, `the worker at ${workerAddress} could not start: ${why}${tail}`);
    }
    default:
      return outcome satisfies never;
  }
}

function describe(facts: WorkerReady, pid: number, log: string, asJson: boolean): string {
  const { t: _t, ...known } = facts;
  if (asJson) {
    return `${toJson({ ...known, pid, log })}\n`;
  }
  const sidecar =
    facts.sidecarPid === 0
      ? "no sidecar"
      : `sidecar ${facts.sidecarPid} with ${facts.deviceCount} ${facts.backend} devices`;
  return `worker ${facts.workerAddress} is ready: process ${pid}, ${sidecar}, log ${log}\n`;
}

/** `worker` is the command whose options it passes on. */
export function addStartCommand(program: Command, worker: Command): void {
  const command = program
    .command("start")
    .description("Start a worker in the background, and return when it is ready.")
    .option("-w, --worker", "a worker; what there is to start")
    .option("--cpunodebind <NODES>", "run its two processes on the CPUs of these NUMA nodes (numactl), as in 0 or 0,1")
    .option("--localalloc", "and take memory from the node that they run on");
  withWorkerOptions(command)
    .option("--log_dir <DIR>", "where it logs", directoryPath)
    .option(
      "--start_timeout_ms <N>",
      "how long it may take (default: by the size of its memory)",
      wholeNumber(1, 3_600_000),
    )
    .option("--json", "print what was started as one JSON document")
    .addHelpText("after", help)
    .action((options: StartOptions) => start(options, command, worker));
}
