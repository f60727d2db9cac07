/**
 * `hbmesh worker`: one host's pair of a control process (this one) and its sidecar (its child), in the foreground until
 * a signal that asks it to end, or until the parent that started it with a process channel is gone.
 */
import { setFlagsFromString } from "node:v8";
import type { Command } from "commander";
import type { WorkerConfig } from "../base/config.js";
import { createLogger } from "../base/log.js";
import { STAY, type WorkerReady } from "./local-cluster.js";
import { ExitError } from "./options.js";
import { ssdTierHelp } from "./room-options.js";
import { onEndingSignal } from "./signals.js";
import { describeAccess } from "./worker-access.js";
import { type WorkerOptions, withWorkerOptions, workerConfig } from "./worker-options.js";
import { startWorker } from "./worker-parts.js";

const help = `
Where members are kept: --metadata_address memory (a cluster of this one process), hbmesh://HOST:PORT (the embedded store that
hbmesh dev serves), or --etcd_address A,B,C for a cluster over several hosts. Nothing is written there for each object.

Examples:
  $ hbmesh worker --worker_address 127.0.0.1:31501
  $ hbmesh worker --worker_address 10.0.0.1:31501 --etcd_address 10.0.0.9:2379 --cluster_token_file token --shared_memory_size_mb 16384
  $ hbmesh worker --worker_address 10.0.0.2:31501 --etcd_address 10.0.0.9:2379 --cluster_token_file token --no-sidecar

${ssdTierHelp.trimStart()}

An address that other machines reach takes --cluster_token_file FILE: one token, the same on all hosts (openssl rand -hex 32). Control processes
and sidecars prove to each other that they have it; tools show it to the API (--token_file). --tls_cert, --tls_key and --tls_ca add mutual TLS
to the API and the control link; certificates name the IP in their subjectAltName, or the worker does not start. What sidecars send each other is not encrypted.
Without --tenants_file everyone who may ask is one tenant. On its own host a worker serves clients of its user and of root, of --client_uids
and --client_gid, and of any user who shows a right token; with --local_token required only those.

SIGTERM, SIGHUP, SIGQUIT and Ctrl-C end it as planned, without moving its objects (hbmesh stop does). To keep it when its terminal
closes start it with hbmesh start, or under setsid: Node takes no notice of nohup.

Exit codes: 0 after such a signal, 1 when it could not start or go on, 2 wrong arguments.
HBMESH_LOG sets what is logged to stderr: error, warn, info (default), debug, trace, silent.`;

async function worker(options: WorkerOptions): Promise<void> {
  // The first requests of a worker cost half as much when its functions are compiled at their first call, not
  // interpreted; steady ones cost the same. Price: 40 ms of core more until it is ready, and 5 MB.
  setFlagsFromString("--always-sparkplug");
  const config = workerConfig(options);
  try {
    await serve(config, options);
  } finally {
    // An open channel would keep a worker that failed from ending.
    if (process.connected) {
      process.disconnect();
    }
  }
}

async function serve(config: WorkerConfig, options: WorkerOptions): Promise<void> {
  const log = createLogger("worker");
  const stopped = untilStopped();
  if (!options.enable_worker_worker_batch_get) {
    const what = "another worker is always asked for many objects at once";
    log.warn({}, `${what}; --enable_worker_worker_batch_get false has no effect`);
  }
  log.info({ ...describeAccess(config) }, "who may ask this worker");
  const sim = { bandwidthMbPerSecond: options.sim_bandwidth_mb_per_s, latencyMicros: options.sim_latency_us };
  const running = await startWorker({ config, log, sim, hasSidecar: options.sidecar });
  const ready: WorkerReady = { t: "ready", ...running.facts };
  log.info({ ...running.facts }, `ready at ${config.workerAddress}`);
  if (process.connected) {
    // With nobody there to hear it, the channel's end is what counts, and is on its way.
    process.send?.(ready, undefined, undefined, () => {});
  }
  const reason = await Promise.race([stopped, running.failed]);
  log.info({}, `ending: ${reason instanceof Error ? reason.message : reason}`);
  await running.close();
  if (reason instanceof Error) {
    throw new ExitError(1, `the worker at ${config.workerAddress} can't go on: ${reason.message}`);
  }
}

/** Resolves with who wants this worker to end. */
function untilStopped(): Promise<string> {
  return new Promise((resolve) => {
    onEndingSignal(resolve);
    // Started with a process channel (hbmesh dev, demo, start): ends with its parent, however that one ended, unless it
    // is told to stay.
    let stays = false;
    process.on("message", (message: { t?: unknown }) => {
      stays ||= message.t === STAY.t;
    });
    process.on("disconnect", () => {
      if (!stays) {
        resolve("the parent process is gone");
      }
    });
    // False only where there was a channel: its end may have been seen while the modules were loaded, before anyone
    // listened.
    if (process.connected === false) {
      resolve("the parent process is gone");
    }
  });
}

/** Returns the command, whose options others pass on. */
export function addWorkerCommand(program: Command): Command {
  const command = program
    .command("worker")
    .description("Run one worker in the foreground: a control process and, unless --no-sidecar, its sidecar.");
  return withWorkerOptions(command).addHelpText("after", help).action(worker);
}
