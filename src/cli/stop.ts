/**
 * `hbmesh stop`: the planned end of a worker. It moves what it holds to others, leaves the cluster as planned (others
 * know then that it isn't lost), ends what its clients have under way, and is waited for.
 */
import type { Command } from "commander";
import { readOperatorProof } from "../base/operator-proof.js";
import { type FoundProcess, isRunning, maySignal, ownerOf, signalProcess } from "../base/processes.js";
import { type AccessOptions, clusterClient, withAccessOptions } from "./api-client.js";
import { type DrainChoice, type DrainReport, describeDeviceObjects, drainWorker } from "./drain.js";
import { address, ExitError, wholeNumber, yesOrNo } from "./options.js";
import { toJson } from "./table.js";
import { until } from "./until.js";
import { addressesOf, findKeepers, findSidecars, findWorkers, type WorkerProcess } from "./worker-processes.js";

interface StopOptions extends AccessOptions, DrainChoice {
  worker_address: string;
  stop_timeout_ms: number;
  drain: boolean;
  quiet?: boolean;
  json?: boolean;
}

const LOOK_MS = 1_000;
const ASK_TIMEOUT_MS = 9_000;
const SIDECAR_END_TIMEOUT_MS = 10_000;

const help = `
First the worker's host objects, in memory and on its SSD tier, are moved to other workers that have room, no faster than --drain_mb_per_second; it takes
no new ones meanwhile (SCALING), and serves what it has. If not all finds room, or there is no other worker, nothing is moved, and the worker stays: end
it with --drain false, or --force, if what it holds may be lost. Bytes in device memory (devMSet, devPublish) can't be moved: how many end with it is
said. Then the worker leaves its cluster as planned: the store says so, and nobody waits for it to come back. Progress is on stderr.

Ctrl-C (SIGTERM, SIGHUP, SIGQUIT) while objects are moved: it stays after all, with what has not been moved. The same command a second time: goes on with the first one's work, at its own rate.
The worker's own user and root need no token. Root names the files of TLS (--tls_ca, --tls_cert, --tls_key) for another user's worker.

Examples:
  $ hbmesh stop --worker_address 10.0.0.1:31501
  $ hbmesh stop --worker_address 10.0.0.1:31501 --drain_mb_per_second 100 --drain_timeout_ms 1800000
  $ hbmesh stop --worker_address 10.0.0.1:31501 --drain false

Exit codes: 0 it has ended; 1 there was none, it stays because not all could be moved, or it has not ended in time (it goes on leaving
unless --force); 2 wrong arguments; 130 interrupted, it stays.`;

async function stop(options: StopOptions): Promise<void> {
  const named = await addressesOf(options.worker_address);
  const say = (text: string): void => {
    if (options.quiet !== true) {
      process.stderr.write(`${text}\n`);
    }
  };
  const startMs = performance.now();
  const [worker] = findWorkers(named);
  if (worker === undefined) {
    await stopLeftSidecar(named, say);
    return;
  }
  const { workerAddress } = worker;
  // Before anything is moved: who can't end it would leave it empty and running.
  refuseForeign(worker, "worker", workerAddress);
  const drained = await drain(worker, options, say);
  signal(worker, "SIGTERM");
  say(`worker ${workerAddress} (process ${worker.pid}) is leaving its cluster`);
  if (!(await waitForEnd(worker, options, say))) {
    if (!options.force) {
      const remedy = "wait for it with the same command, or end it with --force: what only it holds is lost then";
      throw new ExitError(
        1,
        `the worker at ${workerAddress} (process ${worker.pid}) has not ended in ${options.stop_timeout_ms} ms and goes on leaving; ${remedy}`,
      );
    }
    signal(worker, "SIGKILL");
    await until(() => !isRunning(worker), SIDECAR_END_TIMEOUT_MS);
  }
  await endSidecars([workerAddress]);
  const seconds = ((performance.now() - startMs) / 1_000).toFixed(1);
  const facts = { workerAddress, pid: worker.pid, seconds: Number(seconds), drain: drained ?? null };
  process.stdout.write(
    options.json === true
      ? `${toJson(facts)}\n`
      : `worker ${workerAddress} (process ${worker.pid}) has ended, ${seconds} s\n`,
  );
}

async function drain(
  worker: WorkerProcess,
  options: StopOptions,
  say: (text: string) => void,
): Promise<DrainReport | undefined> {
  if (!options.drain) {
    return undefined;
  }
  const access = { ...accessTo(worker, options), timeout_ms: ASK_TIMEOUT_MS };
  say(`worker ${worker.workerAddress} (process ${worker.pid}) moves its objects to others`);
  const report = await drainWorker(access, options, { say, isRunning: () => isRunning(worker) });
  const device = describeDeviceObjects(report);
  if (device !== undefined) {
    say(`  ${device}`);
  }
  return report;
}

/** As the options say; else as the worker's own user, which whoever may look into the process is. */
function accessTo(worker: WorkerProcess, options: StopOptions): AccessOptions & { worker: string } {
  const token = options.token_file === undefined ? readOperatorProof(worker.pid) : undefined;
  return { ...worker.access, ...options, token, worker: worker.workerAddress };
}

/** A sidecar outlives a killed control process for a while, to be taken over by the next. */
async function stopLeftSidecar(workerAddresses: readonly string[], say: (text: string) => void): Promise<void> {
  const workerAddress = workerAddresses.join(" or ");
  const kept = findKeepers(workerAddresses).length > 0;
  const ended = await endSidecars(workerAddresses);
  if (ended.length === 0 && kept) {
    process.stdout.write(
      `both processes of worker ${workerAddress} were gone already; the objects that were kept for the next ones are lost\n`,
    );
    return;
  }
  if (ended.length === 0) {
    const remedy = "hbmesh status lists those that do; a worker in another container or host is stopped there";
    throw new ExitError(1, `no worker runs at ${workerAddress} on this host; ${remedy}`);
  }
  say(`its control process was gone already; the objects that its sidecar held are lost`);
  process.stdout.write(`the sidecar of worker ${workerAddress} (process ${ended.join(", ")}) has ended\n`);
}

function refuseForeign(found: FoundProcess, what: string, workerAddress: string): void {
  if (!maySignal(found)) {
    const owner = ownerOf(found.pid);
    throw new ExitError(
      1,
      `the ${what} at ${workerAddress} (process ${found.pid}) belongs to another user (user id ${owner}): only that user and root can stop it`,
    );
  }
}

function signal(worker: WorkerProcess, name: NodeJS.Signals): void {
  refuseForeign(worker, "worker", worker.workerAddress);
  signalProcess(worker, name);
}

/** Says what the worker says of itself, each time that this changes. */
async function waitForEnd(worker: WorkerProcess, options: StopOptions, say: (text: string) => void): Promise<boolean> {
  const endMs = performance.now() + options.stop_timeout_ms;
  const client = clusterClient({ ...accessTo(worker, options), timeout_ms: LOOK_MS });
  let told = "";
  while (isRunning(worker)) {
    const leftMs = endMs - performance.now();
    if (leftMs <= 0) {
      return false;
    }
    // Without an answer there is just nothing to say.
    const reason = await client.health({}).then(
      (health) => health.reason,
      () => "",
    );
    if (reason !== "" && reason !== told) {
      told = reason;
      say(`  ${reason}`);
    }
    await until(() => !isRunning(worker), Math.min(LOOK_MS, leftMs));
  }
  return true;
}

/** Process ids of those that were there. */
async function endSidecars(workerAddresses: readonly string[]): Promise<number[]> {
  const left = findSidecars(workerAddresses);
  for (const sidecar of left) {
    refuseForeign(sidecar, "sidecar", workerAddresses[0] ?? "");
    await end(sidecar);
  }
  // Of one that had to be killed.
  for (const keeper of findKeepers(workerAddresses)) {
    refuseForeign(keeper, "keeper", workerAddresses[0] ?? "");
    await end(keeper);
  }
  return left.map(({ pid }) => pid);
}

async function end(found: FoundProcess): Promise<void> {
  signalProcess(found, "SIGTERM");
  if (!(await until(() => !isRunning(found), SIDECAR_END_TIMEOUT_MS))) {
    signalProcess(found, "SIGKILL");
    await until(() => !isRunning(found), SIDECAR_END_TIMEOUT_MS);
  }
}

export function addStopCommand(program: Command): void {
  const command = program
    .command("stop")
    .description("End a worker of this host as planned, and wait until it has ended.")
    .requiredOption("--worker_address <HOST:PORT>", "which one", address)
    .option(
      "--drain_mb_per_second <N>",
      "MiB of objects that are moved to others in a second, at most; 0: as fast as it goes",
      wholeNumber(0, 1_048_576),
      256,
    )
    .option(
      "--drain_timeout_ms <N>",
      "how long that may take; then the worker stays, unless --force; 0: as long as it takes",
      wholeNumber(0, 86_400_000),
      600_000,
    )
    .option("--drain <BOOL>", "false: move nothing; what only this worker holds is lost", yesOrNo, true)
    .option("--stop_timeout_ms <N>", "how long to wait for its end after that", wholeNumber(1, 86_400_000), 300_000)
    .option("--force", "end it also when not all could be moved, and kill it when --stop_timeout_ms is over", false)
    .option("--json", "print one JSON document at the end: what was moved, and how long it took")
    .option("--quiet", "no progress");
  withAccessOptions(command).addHelpText("after", help).action(stop);
}
