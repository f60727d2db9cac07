/**
 * The options of a worker, in one place for `hbmesh worker`, `start` and `dev`: what they are called, what they mean,
 * and the settings that come of them. Limits and defaults are those of base/config.ts.
 */
import { type Command, InvalidArgumentError, Option } from "commander";
import {
  checkTransportExposure,
  SETTING_DEFAULTS as DEFAULTS,
  type LocalTokenChoice,
  type NumericSetting,
  resolveWorkerConfig,
  SETTING_LIMITS,
  type WorkerConfig,
  type WorkerSettings,
} from "../base/config.js";
import type { TransportChoice } from "./local-cluster.js";
import { address, filePath, ownAddress, usageError, wholeNumber, yesOrNo } from "./options.js";
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
  probe_address?: string;
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
  local_token: LocalTokenChoice;
  client_uids?: number[];
  client_gid?: number;
  tls_cert?: string;
  tls_key?: string;
  tls_ca?: string;
  insecure: boolean;
}

/** The largest id of a user or a group. */
const ID_MAX = 2 ** 32 - 2;

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
    probeAddress: options.probe_address,
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
    lanes: options.lanes ?? lanesFor(deviceIds?.length ?? 0),
    sliceBytesMax: options.slice_kb * 1024,
    spinMicros: options.spin_us,
    deadAfterMs: options.dead_after_ms,
    orphanGraceMs: options.orphan_grace_ms,
    sidecarHangMs: options.sidecar_hang_ms,
    tenantsFile: options.tenants_file,
    clusterTokenFile: options.cluster_token_file,
    localToken: options.local_token,
    ...(options.client_uids === undefined ? {} : { clientUids: options.client_uids }),
    clientGid: options.client_gid,
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

/** As many as usual, or one for each device of remote_h2d_device_ids if those are more, as far as there may be. */
function lanesFor(devices: number): number {
  return Math.min(SETTING_LIMITS.lanes[1], Math.max(DEFAULTS.lanes, devices));
}

/** "0,1,2" or "". */
function deviceIds(text: string): number[] {
  const ids = text.trim() === "" ? [] : text.split(",").map((id) => id.trim());
  if (ids.some((id) => !/^\d{1,2}$/.test(id)) || new Set(ids.map(Number)).size < ids.length) {
    throw new InvalidArgumentError('Give device ids that differ from each other, as in "0,1,2", or "" for none.');
  }
  return ids.map(Number);
}

/** "1000,1001". */
function userIds(text: string): number[] {
  const ids = text.split(",").map((id) => id.trim());
  if (ids.some((id) => !/^\d{1,10}$/.test(id) || Number(id) > ID_MAX)) {
    throw new InvalidArgumentError("Give ids of users, as `id -u NAME` tells them, as in 1000,1001.");
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

/** Headings of the options in --help, in this order. */
const GROUPS = {
  basics: "Basics:",
  memory: "Memory:",
  cluster: "Cluster:",
  security: "Security:",
  tuning: "Tuning:",
} as const;

/** A whole number within the limits of a setting, and its default, both in a unit of so many bytes. */
function numberOf(setting: NumericSetting, unitBytes = 1): [parse: (text: string) => number, value: number] {
  const [low, high] = SETTING_LIMITS[setting];
  return [wholeNumber(low / unitBytes, high / unitBytes), DEFAULTS[setting] / unitBytes];
}

/**
 * The one list of a worker's options: `hbmesh worker`, `hbmesh start` and `hbmesh dev` take all of them. What a command
 * adds of its own goes under the usual heading.
 */
export function withWorkerOptions(command: Command): Command {
  withBasicOptions(command.optionsGroup(GROUPS.basics));
  withMemoryOptions(command.optionsGroup(GROUPS.memory));
  withClusterOptions(command.optionsGroup(GROUPS.cluster));
  withSecurityOptions(command.optionsGroup(GROUPS.security));
  withTuningOptions(command.optionsGroup(GROUPS.tuning));
  return command.optionsGroup("Options:");
}

function withBasicOptions(command: Command): void {
  command
    .requiredOption(
      "--worker_address <IP:PORT>",
      "its name and the address of its API; 31501 is the usual port",
      ownAddress,
    )
    .option("--devices <N>", "simulated devices", ...numberOf("devices"))
    .option("--no-sidecar", "keep metadata and serve the API only, on a node without devices")
    .addOption(
      new Option("--transport <NAME>", "between sidecars; auto: shm on one host, else tcp")
        .choices(["auto", "tcp", "shm"])
        .default(DEFAULTS.transport),
    )
    .addOption(
      new Option("--key_rule <RULE>", "which keys are allowed; the same in the whole cluster")
        .choices(["strict", "extended"])
        .default(DEFAULTS.keyRule),
    );
}

function withMemoryOptions(command: Command): void {
  command
    .option("--shared_memory_size_mb <N>", "host memory for objects", ...numberOf("arenaBytes", 2 ** 20))
    .option("--arena_per_tenant <N>", "arenas of a tenant: 1, all tenants share one", oneArena, 1)
    .option("--enable_huge_tlb <BOOL>", "take the memory from huge pages", yesOrNo, DEFAULTS.hugePages)
    .option(
      "--replica_percent <N>",
      "most of it that copies of remotely read objects may take; 0 keeps none",
      ...numberOf("replicaPercent"),
    );
  withRoomOptions(command);
}

function withClusterOptions(command: Command): void {
  command
    .option("--metadata_address <WHERE>", "memory or hbmesh://HOST:PORT (default: memory)")
    .option("--etcd_address <A,B,C>", "etcd endpoints, each HOST:PORT or https://HOST:PORT")
    .option("--etcd_ca <FILE>", "TLS to etcd: certificate of who signs etcd's (PEM)", filePath)
    .option("--etcd_cert <FILE>", "certificate that this worker shows to etcd (PEM)", filePath)
    .option("--etcd_key <FILE>", "its key (PEM)", filePath)
    .option("--etcd_user <NAME>", "user for an etcd with authentication")
    .option("--etcd_password_file <FILE>", "file with that user's password", filePath)
    .option(
      "--cluster_name <NAME>",
      "clusters with different names share a store without meeting",
      DEFAULTS.clusterName,
    )
    .addOption(new Option("--cluster <NAME>", "the same").hideHelp())
    .option(
      "--link_address <IP:PORT>",
      "for other control processes (default: the worker's IP, a free port)",
      ownAddress,
    )
    .option(
      "--probe_address <IP:PORT>",
      "for /healthz and /readyz alone, over plain HTTP, where the API has TLS (default: only the API answers them)",
      address,
    )
    .option("--weight <N>", "share of the metadata it keeps; 0 keeps none", ...numberOf("weight"))
    .option("--lease_ms <N>", "silent for so long, it counts as gone", ...numberOf("leaseMs"))
    .option(
      "--dead_after_ms <N>",
      "so long after a worker vanished without leaving, what only it held may come back: no sure misses",
      ...numberOf("deadAfterMs"),
    )
    .option(
      "--orphan_grace_ms <N>",
      "how long the sidecar outlives the control process, for the next one to take it over",
      ...numberOf("orphanGraceMs"),
    )
    .option(
      "--sidecar_hang_ms <N>",
      "a sidecar that lives and has not answered for so long is killed and started again, with its objects; 0: never",
      ...numberOf("sidecarHangMs"),
    );
}

function withSecurityOptions(command: Command): void {
  command
    .option("--tenants_file <FILE>", "who may ask, and whose keys they see: lines of `token tenant`", filePath)
    .option(
      "--cluster_token_file <FILE>",
      "the token that all workers of the cluster have, and that tools show",
      filePath,
    )
    .addOption(
      new Option(
        "--local_token <WHEN>",
        "clients of this host: optional: known by their user, a token that is given must be right; required: only a right token lets in",
      )
        .choices(["optional", "required"])
        .default(DEFAULTS.localToken),
    )
    .option(
      "--client_uids <A,B,C>",
      "ids of users of this host who may be clients beside the worker's own and root (default: none)",
      userIds,
    )
    .option("--client_gid <N>", "id of a group of this host whose members may too", wholeNumber(0, ID_MAX))
    .option(
      "--tls_cert <FILE>",
      "mutual TLS for the API and between control processes: this worker's certificate (PEM)",
      filePath,
    )
    .option("--tls_key <FILE>", "its key (PEM)", filePath)
    .option("--tls_ca <FILE>", "certificate of who signs those of all workers (PEM)", filePath)
    .option("--insecure", "serve other machines although neither a token nor TLS protects them", DEFAULTS.insecure);
}

function withTuningOptions(command: Command): void {
  command
    .option(
      "--remote_h2d_device_ids <IDS>",
      'devices that serve remote host to device, as in "0,1,2,3": connections to another worker are taken round robin, at least one for each; "": off, what comes from others goes through host memory',
      deviceIds,
    )
    .option("--enable_worker_worker_batch_get <BOOL>", "ask another worker for many objects at once", yesOrNo, true)
    .option(
      "--lanes <N>",
      `connections to each other worker (default: ${DEFAULTS.lanes}, or one for each of --remote_h2d_device_ids)`,
      numberOf("lanes")[0],
    )
    .option(
      "--slice_kb <N>",
      "piece of a transfer; of a large one up to 8 times as much",
      ...numberOf("sliceBytesMax", 1024),
    )
    .option("--spin_us <N>", "how long the sidecar polls before it sleeps", ...numberOf("spinMicros"))
    .option("--sim_bandwidth_mb_per_s <N>", "slow the simulated devices down to this; 0: don't", wholeNumber(0, 1e9), 0)
    .option("--sim_latency_us <N>", "delay each simulated copy by this", wholeNumber(0, 60_000_000), 0);
}

/**
 * The options that were given, as arguments for a worker of its own: those of `wanted` that the user wrote, spelled as
 * declared, without `except`. Nothing that was left at its default is repeated, so that a worker's command line says
 * what somebody chose.
 */
export function givenArguments(command: Command, wanted: Command, except: readonly string[] = []): string[] {
  const names = new Set(wanted.options.map((option) => option.long));
  return command.options.flatMap((option) => {
    const name = option.attributeName();
    if (!names.has(option.long) || except.includes(name) || command.getOptionValueSource(name) !== "cli") {
      return [];
    }
    const value: unknown = command.getOptionValue(name);
    return typeof value === "boolean" && !option.required ? [`${option.long}`] : [`${option.long}=${String(value)}`];
  });
}
