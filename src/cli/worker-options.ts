/**
 * The options of a worker, in one place for `hbmesh worker` and `hbmesh start`: what they are called, what they mean,
 * and the settings that come of them.
 */
import { resolve } from "node:path";
import { type Command, InvalidArgumentError, Option } from "commander";
import { checkTransportExposure, resolveWorkerConfig, type WorkerConfig, type WorkerSettings } from "../base/config.js";
import type { TransportChoice } from "./local-cluster.js";
import { ownAddress, usageError, wholeNumber, yesOrNo } from "./options.js";
import { type RoomOptions, roomSettings, withRoomOptions } from "./room-options.js";

/** As commander names them, after the options' spelling with underscores. */
export interface WorkerOptions extends RoomOptions {
  worker_address: string;
  metadata_address?: string;
  etcd_address?: string;
  etcd_ca?: string;
  etcd_cert?: string;
  etcd_key?: string;
  etcd_user?: string;
  etcd_password_file?: string;
  cluster_name: string;
  cluster?: string;
  link_address?: string;
  weight: number;
  devices: number;
  remote_h2d_device_ids?: number[];
  shared_memory_size_mb: number;
  arena_per_tenant: number;
  replica_percent: number;
  enable_huge_tlb: boolean;
  enable_worker_worker_batch_get: boolean;
  transport: TransportChoice;
  key_rule: "strict" | "extended";
  lease_ms: number;
  lanes?: number;
  slice_kb: number;
  spin_us: number;
  dead_after_ms: number;
  orphan_grace_ms: number;
  sidecar_hang_ms: number;
  sim_bandwidth_mb_per_s: number;
  sim_latency_us: number;
  sidecar: boolean;
  tenants_file?: string;
  cluster_token_file?: string;
  tls_cert?: string;
  tls_key?: string;
  tls_ca?: string;
  insecure: boolean;
}

/** Whichever are more: these, or one for each device of remote_h2d_device_ids. */
const LANES = 4;

function metadataAddressOf(options: WorkerOptions): string {
  if (options.metadata_address !== undefined && options.etcd_address !== undefined) {
    throw usageError("give --metadata_address or --etcd_address, not both");
  }
  return options.etcd_address ?? options.metadata_address ?? "memory";
}

/** Throws a usage error for options that contradict each other, and INVALID for what can't be. */
export function workerConfig(options: WorkerOptions): WorkerConfig {
  const config = resolveWorkerConfig(settingsOf(options));
  if (options.sidecar) {
    checkTransportExposure(config);
  }
  return config;
}

function settingsOf(options: WorkerOptions): WorkerSettings {
  const { remote_h2d_device_ids: deviceIds } = options;
  return {
    workerAddress: options.worker_address,
    metadataAddress: metadataAddressOf(options),
    clusterName: options.cluster ?? options.cluster_name,
    ...(options.link_address === undefined ? {} : { linkAddress: options.link_address }),
    weight: options.weight,
    devices: options.devices,
    ...(deviceIds === undefined ? {} : { remoteH2dDeviceIds: deviceIds, remoteH2d: deviceIds.length > 0 }),
    arenaBytes: options.shared_memory_size_mb * 2 ** 20,
    replicaPercent: options.replica_percent,
    ...roomSettings(options),
    hugePages: options.enable_huge_tlb,
    transport: options.transport,
    keyRule: options.key_rule,
    leaseMs: options.lease_ms,
    lanes: options.lanes ?? Math.max(LANES, deviceIds?.length ?? 0),
    sliceBytesMax: options.slice_kb * 1024,
    spinMicros: options.spin_us,
    deadAfterMs: options.dead_after_ms,
    orphanGraceMs: options.orphan_grace_ms,
    sidecarHangMs: options.sidecar_hang_ms,
    tenantsFile: options.tenants_file,
    clusterTokenFile: options.cluster_token_file,
    tlsCert: options.tls_cert,
    tlsKey: options.tls_key,
    tlsCa: options.tls_ca,
    etcdCa: options.etcd_ca,
    etcdCert: options.etcd_cert,
    etcdKey: options.etcd_key,
    etcdUser: options.etcd_user,
    etcdPasswordFile: options.etcd_password_file,
    insecure: options.insecure,
  };
}

/** "0,1,2" or "". */
function deviceIds(text: string): number[] {
  const ids = text.trim() === "" ? [] : text.split(",").map((id) => id.trim());
  if (ids.some((id) => !/^\d{1,2}$/.test(id)) || new Set(ids.map(Number)).size < ids.length) {
    throw new InvalidArgumentError('Give device ids that differ from each other, as in "0,1,2", or "" for none.');
  }
  return ids.map(Number);
}

/** hbmesh has one arena: all tenants' objects in one piece of memory, that devices and transports register once. */
function oneArena(text: string): number {
  if (text !== "1") {
    throw new InvalidArgumentError("hbmesh keeps all objects of a worker in one arena: give 1.");
  }
  return 1;
}

/** Absolute, so that a worker in the background finds it too. */
export function filePath(text: string): string {
  if (text === "") {
    throw new InvalidArgumentError("Give the path of a file.");
  }
  return resolve(text);
}

export function withWorkerOptions(command: Command): Command {
  withPlaceOptions(command);
  withMemoryOptions(command);
  withTransferOptions(command);
  withEtcdOptions(command);
  return withSecurityOptions(command).option(
    "--no-sidecar",
    "keep metadata and serve the API only, on a node without devices",
  );
}

function withPlaceOptions(command: Command): void {
  command
    .requiredOption(
      "--worker_address <IP:PORT>",
      "its name and the address of its API; 31501 is the usual port",
      ownAddress,
    )
    .option("--metadata_address <WHERE>", "memory (default) or hbmesh://HOST:PORT")
    .option("--etcd_address <A,B,C>", "etcd endpoints, each HOST:PORT or https://HOST:PORT")
    .option("--cluster_name <NAME>", "clusters with different names share a store without meeting", "default")
    .addOption(new Option("--cluster <NAME>", "the same").hideHelp())
    .option(
      "--link_address <IP:PORT>",
      "for other control processes (default: the worker's IP, a free port)",
      ownAddress,
    )
    .option("--weight <N>", "share of the metadata it keeps; 0 keeps none", wholeNumber(0, 1_000), 1)
    .addOption(
      new Option("--key_rule <RULE>", "which keys are allowed; the same in the whole cluster")
        .choices(["strict", "extended"])
        .default("strict"),
    )
    .option("--lease_ms <N>", "silent for so long, it counts as gone", wholeNumber(1_000, 600_000), 4_000)
    .option(
      "--dead_after_ms <N>",
      "so long after a worker vanished without leaving, what only it held may come back: no sure misses",
      wholeNumber(0, 3_600_000),
      30_000,
    )
    .option(
      "--orphan_grace_ms <N>",
      "how long the sidecar outlives the control process, for the next one to take it over",
      wholeNumber(0, 3_600_000),
      60_000,
    )
    .option(
      "--sidecar_hang_ms <N>",
      "a sidecar that lives and has not answered for so long is killed and started again, with its objects; 0: never",
      wholeNumber(0, 3_600_000),
      30_000,
    );
}

function withEtcdOptions(command: Command): void {
  command
    .option("--etcd_ca <FILE>", "TLS to etcd: certificate of who signs etcd's (PEM)", filePath)
    .option("--etcd_cert <FILE>", "certificate that this worker shows to etcd (PEM)", filePath)
    .option("--etcd_key <FILE>", "its key (PEM)", filePath)
    .option("--etcd_user <NAME>", "user for an etcd with authentication")
    .option("--etcd_password_file <FILE>", "file with that user's password", filePath);
}

function withMemoryOptions(command: Command): void {
  command
    .option("--shared_memory_size_mb <N>", "host memory for objects", wholeNumber(1, 16_777_216), 1_024)
    .option("--arena_per_tenant <N>", "arenas of a tenant: 1, all tenants share one", oneArena, 1)
    .option("--enable_huge_tlb <BOOL>", "take the memory from huge pages", yesOrNo, false)
    .option(
      "--replica_percent <N>",
      "most of it that copies of remotely read objects may take; 0 keeps none",
      wholeNumber(0, 100),
      0,
    );
  withRoomOptions(command, "a directory of this worker alone, on an SSD, for what makes room; see below");
}

function withTransferOptions(command: Command): void {
  command
    .option("--devices <N>", "simulated devices", wholeNumber(0, 64), 8)
    .option(
      "--remote_h2d_device_ids <IDS>",
      'devices that serve remote host to device, as in "0,1,2,3": connections to another worker are taken round robin, at least one for each; "": off, what comes from others goes through host memory',
      deviceIds,
    )
    .option("--enable_worker_worker_batch_get <BOOL>", "ask another worker for many objects at once", yesOrNo, true)
    .addOption(
      new Option("--transport <NAME>", "between sidecars; auto: shm on one host, else tcp")
        .choices(["auto", "tcp", "shm"])
        .default("auto"),
    )
    .option(
      "--lanes <N>",
      `connections to each other worker (default: ${LANES}, or one for each of --remote_h2d_device_ids)`,
      wholeNumber(1, 16),
    )
    .option(
      "--slice_kb <N>",
      "piece of a transfer; of a large one up to 8 times as much",
      wholeNumber(4, 1_048_576),
      1_024,
    )
    .option("--spin_us <N>", "how long the sidecar polls before it sleeps", wholeNumber(0, 10_000), 0)
    .option("--sim_bandwidth_mb_per_s <N>", "slow the simulated devices down to this; 0: don't", wholeNumber(0, 1e9), 0)
    .option("--sim_latency_us <N>", "delay each simulated copy by this", wholeNumber(0, 60_000_000), 0);
}

function withSecurityOptions(command: Command): Command {
  return command
    .option("--tenants_file <FILE>", "who may ask, and whose keys they see: lines of `token tenant`", filePath)
    .option(
      "--cluster_token_file <FILE>",
      "the token that all workers of the cluster have, and that tools show",
      filePath,
    )
    .option(
      "--tls_cert <FILE>",
      "mutual TLS for the API and between control processes: this worker's certificate (PEM)",
      filePath,
    )
    .option("--tls_key <FILE>", "its key (PEM)", filePath)
    .option("--tls_ca <FILE>", "certificate of who signs those of all workers (PEM)", filePath)
    .option("--insecure", "serve other machines although neither a token nor TLS protects them", false);
}

/**
 * The options that were given, as arguments for a worker of its own: those of `wanted` that the user wrote, spelled as
 * declared. Nothing that was left at its default is repeated, so that a worker's command line says what somebody chose.
 */
export function givenArguments(command: Command, wanted: Command): string[] {
  const names = new Set(wanted.options.map((option) => option.long));
  return command.options.flatMap((option) => {
    const name = option.attributeName();
    if (!names.has(option.long) || command.getOptionValueSource(name) !== "cli") {
      return [];
    }
    const value: unknown = command.getOptionValue(name);
    return typeof value === "boolean" && !option.required ? [`${option.long}`] : [`${option.long}=${String(value)}`];
  });
}
