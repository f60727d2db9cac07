/**
 * `hbmesh worker`: one host's pair of a control process (this one) and its sidecar (its child), in the foreground until SIGTERM
 * or Ctrl-C, or until the parent that started it with a process channel is gone.
 */
import { type Command, Option } from "commander";
import { resolveWorkerConfig, type WorkerSettings } from "../base/config.js";
import { createLogger } from "../base/log.js";
import type { TransportChoice, WorkerReady } from "./local-cluster.js";
import { address, ExitError, usageError, wholeNumber, yesOrNo } from "./options.js";
import { type RoomOptions, roomSettings, ssdTierHelp, withRoomOptions } from "./room-options.js";
import { startWorker } from "./worker-parts.js";

/** As commander names them, after the options' spelling with underscores. */
interface WorkerOptions extends RoomOptions {
  worker_address: string;
  metadata_address?: string;
  etcd_address?: string;
  cluster: string;
  link_address?: string;
  weight: number;
  devices: number;
  shared_memory_size_mb: number;
  replica_percent: number;
  enable_huge_tlb: boolean;
  transport: TransportChoice;
  key_rule: "strict" | "extended";
  lease_ms: number;
  lanes: number;
  slice_kb: number;
  spin_us: number;
  dead_after_ms: number;
  orphan_grace_ms: number;
  sim_bandwidth_mb_per_s: number;
  sim_latency_us: number;
  sidecar: boolean;
  tenants_file?: string;
  insecure: boolean;
}

const help = `
Where members are kept: --metadata_address memory (a cluster of this one process), hbmesh://IP:PORT (the embedded store that
hbmesh dev serves), or --etcd_address A,B,C for a cluster over several hosts. Nothing is written there for each object.

Examples:
  $ hbmesh worker --worker_address 127.0.0.1:31501
  $ hbmesh worker --worker_address 10.0.0.1:31501 --etcd_address 10.0.0.9:2379 --tenants_file tenants --shared_memory_size_mb 16384
  $ hbmesh worker --worker_address 10.0.0.2:31501 --etcd_address 10.0.0.9:2379 --tenants_file tenants --no-sidecar

${ssdTierHelp.trimStart()}

Without --tenants_file everyone who can connect is one tenant, and only loopback addresses are served, unless --insecure is given.

Exit codes: 0 after SIGTERM or Ctrl-C, 1 when it could not start or go on, 2 wrong arguments.
HBMESH_LOG sets what is logged to stderr: error, warn, info (default), debug, trace, silent.`;

function metadataAddressOf(options: WorkerOptions): string {
  if (options.metadata_address !== undefined && options.etcd_address !== undefined) {
    throw usageError("give --metadata_address or --etcd_address, not both");
  }
  return options.etcd_address ?? options.metadata_address ?? "memory";
}

function settingsOf(options: WorkerOptions): WorkerSettings {
  return {
    workerAddress: options.worker_address,
    metadataAddress: metadataAddressOf(options),
    clusterName: options.cluster,
    ...(options.link_address === undefined ? {} : { linkAddress: options.link_address }),
    weight: options.weight,
    devices: options.devices,
    arenaBytes: options.shared_memory_size_mb * 2 ** 20,
    replicaPercent: options.replica_percent,
    ...roomSettings(options),
    hugePages: options.enable_huge_tlb,
    transport: options.transport,
    keyRule: options.key_rule,
    leaseMs: options.lease_ms,
    lanes: options.lanes,
    sliceBytesMax: options.slice_kb * 1024,
    spinMicros: options.spin_us,
    deadAfterMs: options.dead_after_ms,
    orphanGraceMs: options.orphan_grace_ms,
    ...(options.tenants_file === undefined ? {} : { tenantsFile: options.tenants_file }),
    insecure: options.insecure,
  };
}

async function worker(options: WorkerOptions): Promise<void> {
  const config = resolveWorkerConfig(settingsOf(options));
  const log = createLogger("worker");
  const stopped = new Promise<string>((resolve) => {
    process.on("SIGTERM", () => resolve("SIGTERM"));
    process.on("SIGINT", () => resolve("SIGINT"));
    // Started with a process channel (hbmesh dev, hbmesh demo): ends with its parent, however that one ended.
    process.on("disconnect", () => resolve("the parent process is gone"));
  });
  const sim = { bandwidthMbPerSecond: options.sim_bandwidth_mb_per_s, latencyMicros: options.sim_latency_us };
  const running = await startWorker({ config, log, sim, hasSidecar: options.sidecar });
  const ready: WorkerReady = { t: "ready", ...running.facts };
  log.info({ ...running.facts }, `ready at ${config.workerAddress}`);
  process.send?.(ready);
  const reason = await Promise.race([stopped, running.failed]);
  log.info({}, `ending: ${reason instanceof Error ? reason.message : reason}`);
  await running.close();
  if (process.connected) {
    process.disconnect();
  }
  if (reason instanceof Error) {
    throw new ExitError(1, `the worker at ${config.workerAddress} can't go on: ${reason.message}`);
  }
}

export function addWorkerCommand(program: Command, _setExitCode: (code: number) => void): void {
  const command = program
    .command("worker")
    .description("Run one worker in the foreground: a control process and, unless --no-sidecar, its sidecar.")
    .requiredOption(
      "--worker_address <IP:PORT>",
      "its name and the address of its API; 31501 is the usual port",
      address,
    )
    .option("--metadata_address <WHERE>", "memory (default) or hbmesh://IP:PORT")
    .option("--etcd_address <A,B,C>", "etcd endpoints, each HOST:PORT")
    .option("--cluster <NAME>", "clusters with different names share a store without meeting", "default")
    .option("--link_address <IP:PORT>", "for other control processes (default: the worker's IP, a free port)", address)
    .option("--weight <N>", "share of the metadata it keeps; 0 keeps none", wholeNumber(0, 1_000), 1)
    .option("--devices <N>", "simulated devices", wholeNumber(0, 64), 8)
    .option("--shared_memory_size_mb <N>", "host memory for objects", wholeNumber(1, 16_777_216), 1_024)
    .option(
      "--replica_percent <N>",
      "most of it that copies of remotely read objects may take; 0 keeps none",
      wholeNumber(0, 100),
      0,
    );
  withRoomOptions(command, "a directory of this worker alone, on an SSD, for what makes room; see below")
    .option("--enable_huge_tlb <BOOL>", "back it with huge pages", yesOrNo, false)
    .addOption(
      new Option("--transport <NAME>", "between sidecars; auto: shm on one host, else tcp")
        .choices(["auto", "tcp", "shm"])
        .default("auto"),
    )
    .addOption(
      new Option("--key_rule <RULE>", "which keys are allowed; the same in the whole cluster")
        .choices(["strict", "extended"])
        .default("strict"),
    )
    .option("--lease_ms <N>", "silent for so long, it counts as gone", wholeNumber(1_000, 600_000), 5_000)
    .option("--lanes <N>", "connections to each other worker", wholeNumber(1, 16), 4)
    .option("--slice_kb <N>", "largest piece of a transfer", wholeNumber(4, 1_048_576), 1_024)
    .option("--spin_us <N>", "how long the sidecar polls before it sleeps", wholeNumber(0, 10_000), 0)
    .option(
      "--dead_after_ms <N>",
      "so long after a worker vanished without leaving, what only it held may come back: no sure misses",
      wholeNumber(0, 3_600_000),
      30_000,
    )
    .option(
      "--orphan_grace_ms <N>",
      "how long the sidecar outlives this process, for the next one to take it over",
      wholeNumber(0, 3_600_000),
      60_000,
    )
    .option("--sim_bandwidth_mb_per_s <N>", "slow the simulated devices down to this; 0: don't", wholeNumber(0, 1e9), 0)
    .option("--sim_latency_us <N>", "delay each simulated copy by this", wholeNumber(0, 60_000_000), 0)
    .option("--tenants_file <FILE>", "who may ask, and whose keys they see: lines of `token tenant`")
    .option("--insecure", "serve other machines although there is no tenants file", false)
    .option("--no-sidecar", "keep metadata and serve the API only, on a node without devices")
    .addHelpText("after", help)
    .action(worker);
}
