/**
 * Configuration of a worker: meaning, unit, default and limits of every setting, and the one place that checks them.
 *
 * resolveWorkerConfig() fills in defaults and throws INVALID naming the setting, what was given and what is allowed.
 */
import { formatAddress, isLinkLocal, isLoopback, isWildcard, parseAddress, parseIpAddress } from "./address.js";
import { HbmeshError, StatusCode } from "./errors.js";
import { checkEtcdFiles, type EtcdFiles } from "./etcd-access.js";
import { describeOwnHosts } from "./listen-fault.js";

export type TransportChoice = "auto" | "tcp" | "shm";
export type KeyRuleChoice = "strict" | "extended";
export type LocalTokenChoice = "optional" | "required";

export interface WorkerConfig extends EtcdFiles {
  /**
   * IP:PORT of the Connect API and the name of this worker. Port 0 is refused: a worker keeps its name over a restart.
   */
  workerAddress: string;
  /**
   * Where the cluster's small shared store is: `memory` (a cluster of one process), `hbmesh://HOST:PORT` (the embedded
   * store of another process) or etcd endpoints `A,B,C`.
   */
  metadataAddress: string;
  /**
   * Clusters with different names share a store without seeing each other. Default `default`; letters, digits, `-`,
   * `_`.
   */
  clusterName: string;
  /**
   * IP:PORT of a plain HTTP server for /healthz and /readyz alone, for orchestrators that can't show a certificate.
   * Default: none; the API answers them too.
   */
  probeAddress?: string | undefined;
  /** IP:PORT of the control link. Default: the worker's IP and a free port. */
  linkAddress: string;
  /** Share of the keys that this worker keeps metadata for; 0: none. Default 1, at most 1,000. */
  weight: number;
  /** Simulated accelerator cards of the sidecar; default 8, 0 to 64. */
  devices: number;
  /**
   * Objects of other workers go straight to device memory. False: through host memory, and their paths say `staged`.
   * Default true.
   */
  remoteH2d: boolean;
  /** Devices that connections to other workers are spread over, each below `devices`. Default: none is named. */
  remoteH2dDeviceIds: readonly number[];
  /** Host memory for objects. Default 1 GiB, at least 1 MiB. */
  arenaBytes: number;
  /** Most of the arena, in percent, that copies of remotely read objects may take; 0, the default: none are kept. */
  replicaPercent: number;
  /**
   * Above this share of the arena, in percent, objects make room: they go to the SSD tier or are evicted, the longest
   * not used first, until only evictionLowPercent are used. Defaults 90 and 80.
   */
  evictionHighPercent: number;
  evictionLowPercent: number;
  /** Directory of this worker alone, for an SSD tier under the arena. Default: none. Its parent must be there. */
  spillDirectory?: string | undefined;
  /** Size of the SSD tier, all allocated at the start. Default 0: there is none. */
  spillBytes: number;
  /** Back the arena with huge pages. Default false. */
  hugePages: boolean;
  /** How bytes travel between sidecars. `auto`: shm on one host, else tcp. */
  transport: TransportChoice;
  /**
   * A worker that says nothing for so long is gone. Default 4,000, so that the others know it within 5 s: etcd looks
   * for leases that have ended twice a second. 1,000 to 600,000; etcd rounds up to seconds, and makes at least 2 of
   * them.
   */
  leaseMs: number;
  /** Which keys are allowed; one rule for the whole cluster. Default `strict`. */
  keyRule: KeyRuleChoice;
  /** Largest slice of a transfer. Default 1 MiB; 4 KiB to 1 GiB. */
  sliceBytesMax: number;
  /** Connections to each source of a transfer. Default 4; 1 to 16. */
  lanes: number;
  /** How long the sidecar spins before it sleeps. Default 0; at most 10,000. */
  spinMicros: number;
  /**
   * How long a worker that vanished without leaving (its lease ended) may come back with its objects: a key that isn't
   * found is not a sure miss until then. Default 30,000; 0: it counts as dead at once.
   */
  deadAfterMs: number;
  /** How long the sidecar outlives its control process, for the next one to take it over. Default 60,000. */
  orphanGraceMs: number;
  /**
   * A sidecar that lives and has not answered for so long is killed, and started again with its objects; after a third
   * of that the worker is not ready, and no change of the ring waits for it. Default 30,000; 0: it is left alone.
   */
  sidecarHangMs: number;
  /** How long a question to an owner may take, its waiting apart, before its keys are given up. Default 5,000. */
  requestTimeoutMs: number;
  /**
   * How long a new sidecar may take to answer. Default 30,000, and 10 more for each MiB of the arena, which it touches
   * first.
   */
  sidecarStartTimeoutMs: number;
  /** File with the tenants and their tokens (tenants.ts). Default: none; everyone who can connect is the one tenant. */
  tenantsFile?: string | undefined;
  /**
   * File with the token that all members of the cluster have, and that who asks the API shows (credentials.ts).
   * Default: none.
   */
  clusterTokenFile?: string | undefined;
  /** Users of this host, by id, whose processes may be clients beside those of the worker's own and root. */
  clientUids: readonly number[];
  /** A group of this host, by id, whose members may be clients too. Default: none. */
  clientGid?: number | undefined;
  /**
   * Must clients of this host show a token? `optional`, the default: the user id is enough, and a token that is given
   * must be right. `required`: only a right token lets anyone in; takes clusterTokenFile or tenantsFile.
   */
  localToken: LocalTokenChoice;
  /**
   * Certificate, its key, and who signs those of all members, for mutual TLS of the API and of the control link. All
   * three or none; default: none.
   */
  tlsCert?: string | undefined;
  tlsKey?: string | undefined;
  tlsCa?: string | undefined;
  /** Serve other machines although neither a cluster token nor TLS protects what they reach. Default false. */
  insecure: boolean;
  /** How often a sidecar is restarted within one minute before the worker gives up. Default 5. */
  sidecarRestartsMax: number;
}

/** The largest size a configuration may name: 16 TiB, exact as a number. */
const BYTES_MAX = 16 * 2 ** 40;

/** What a setting is when nobody chose it; also the defaults of the command line's options. */
export const SETTING_DEFAULTS: Omit<WorkerConfig, "workerAddress" | "linkAddress"> = {
  metadataAddress: "memory",
  clusterName: "default",
  weight: 1,
  devices: 8,
  remoteH2d: true,
  remoteH2dDeviceIds: [],
  arenaBytes: 2 ** 30,
  replicaPercent: 0,
  evictionHighPercent: 90,
  evictionLowPercent: 80,
  spillBytes: 0,
  hugePages: false,
  transport: "auto",
  leaseMs: 4_000,
  keyRule: "strict",
  sliceBytesMax: 2 ** 20,
  lanes: 4,
  spinMicros: 0,
  deadAfterMs: 30_000,
  orphanGraceMs: 60_000,
  sidecarHangMs: 30_000,
  requestTimeoutMs: 5_000,
  sidecarStartTimeoutMs: 30_000,
  sidecarRestartsMax: 5,
  insecure: false,
  clientUids: [],
  localToken: "optional",
};

/** Every numeric setting with its limits, both included; also the limits of the command line's options. */
export const SETTING_LIMITS = {
  weight: [0, 1_000],
  devices: [0, 64],
  arenaBytes: [2 ** 20, BYTES_MAX],
  replicaPercent: [0, 100],
  evictionHighPercent: [1, 100],
  evictionLowPercent: [1, 100],
  spillBytes: [0, 64 * BYTES_MAX],
  leaseMs: [1_000, 600_000],
  sliceBytesMax: [4_096, 2 ** 30],
  lanes: [1, 16],
  spinMicros: [0, 10_000],
  deadAfterMs: [0, 3_600_000],
  orphanGraceMs: [0, 3_600_000],
  sidecarHangMs: [0, 3_600_000],
  requestTimeoutMs: [100, 600_000],
  sidecarStartTimeoutMs: [100, 600_000],
  sidecarRestartsMax: [0, 1_000],
} as const satisfies Partial<Record<keyof WorkerConfig, readonly [number, number]>>;

export type NumericSetting = keyof typeof SETTING_LIMITS;

/** The settings a user may give; all but the address have defaults. */
export type WorkerSettings = Partial<WorkerConfig> & Pick<WorkerConfig, "workerAddress">;

export function resolveWorkerConfig(settings: WorkerSettings): WorkerConfig {
  const address = parseOwnAddress(settings.workerAddress, "workerAddress");
  if (address.port === 0) {
    throw invalid("workerAddress", settings.workerAddress, "must have a port from 1 to 65535, usually 31501");
  }
  const given = Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined));
  const linkDefault = formatAddress({ host: address.host, port: 0 });
  const config: WorkerConfig = {
    ...SETTING_DEFAULTS,
    linkAddress: linkDefault,
    ...given,
    workerAddress: formatAddress(address),
  };
  config.linkAddress = formatAddress(parseOwnAddress(config.linkAddress, "linkAddress"));
  if (given.sidecarStartTimeoutMs === undefined) {
    config.sidecarStartTimeoutMs = startTimeoutMs(config.arenaBytes);
  }
  for (const [name, [low, high]] of Object.entries(SETTING_LIMITS)) {
    const value = config[name as NumericSetting];
    if (typeof value !== "number" || !Number.isInteger(value) || value < low || value > high) {
      throw invalid(name, value, `must be a whole number from ${low} to ${high}`);
    }
  }
  checkChoice("transport", config.transport, ["auto", "tcp", "shm"]);
  checkChoice("keyRule", config.keyRule, ["strict", "extended"]);
  if (!/^[A-Za-z0-9_-]{1,64}$/.test(config.clusterName)) {
    throw invalid("clusterName", config.clusterName, "must be 1 to 64 letters, digits, - or _");
  }
  if (config.probeAddress !== undefined) {
    parseIpAddress(config.probeAddress, "probeAddress");
  }
  checkDeviceIds(config);
  checkLocalAccess(config);
  checkRoom(config);
  checkExposure(config);
  const store = parseMetadataAddress(config.metadataAddress);
  checkEtcdFiles(store.t === "etcd" ? store.endpoints : undefined, config);
  return config;
}

/**
 * An address of this worker: others connect to it, so it is one IP that means the same to all of them. Written in one
 * way, since it is compared. Throws INVALID.
 */
export function parseOwnAddress(text: string, what: string): ReturnType<typeof parseAddress> {
  const address = parseIpAddress(text, what);
  const { host } = address;
  if (isWildcard(host)) {
    const rule = `stands for all addresses of this host, and others can connect to none: give the one that they reach`;
    throw new HbmeshError(StatusCode.INVALID, `${what} "${text}" ${rule}${describeOwnHosts(address.port)}`);
  }
  if (isLinkLocal(host)) {
    const rule = "is of one link only (fe80::/10), and needs a zone: give a global or a unique local address";
    throw new HbmeshError(StatusCode.INVALID, `${what} "${text}" ${rule}${describeOwnHosts(address.port)}`);
  }
  return address;
}

/** Taking memory goes at 100 MB/s on a machine that is busy, and at several GB/s on one that isn't. */
function startTimeoutMs(arenaBytes: number): number {
  const touchMs = Math.ceil((arenaBytes / 2 ** 20) * 10);
  return Math.min(600_000, SETTING_DEFAULTS.sidecarStartTimeoutMs + touchMs);
}

export type MetadataAddress =
  | { t: "memory" }
  | { t: "hbmesh"; address: string }
  | { t: "etcd"; endpoints: readonly string[] };

/** Throws INVALID naming the forms that are allowed. */
export function parseMetadataAddress(text: string): MetadataAddress {
  if (text === "memory") {
    return { t: "memory" };
  }
  const embedded = /^hbmesh:\/\/(.+)$/.exec(text);
  if (embedded !== null) {
    return { t: "hbmesh", address: formatAddress(parseServer(embedded[1] ?? "", "metadataAddress")) };
  }
  return { t: "etcd", endpoints: text.split(",").map((endpoint) => parseEndpoint(endpoint.trim())) };
}

/** HOST:PORT, with http:// or https:// before it if it had that. */
function parseEndpoint(text: string): string {
  const [, scheme = "", rest = ""] = /^(https?:\/\/)?(.*)$/is.exec(text) ?? [];
  try {
    return `${scheme.toLowerCase()}${formatAddress(parseServer(rest, "an etcd endpoint"))}`;
  } catch (reason) {
    const forms = "metadataAddress must be memory, hbmesh://HOST:PORT, or etcd endpoints as HOST:PORT,HOST:PORT";
    throw new HbmeshError(StatusCode.INVALID, `${forms}; ${HbmeshError.from(reason).message}`, { cause: reason });
  }
}

/** Where somebody listens. */
function parseServer(text: string, what: string): ReturnType<typeof parseAddress> {
  const address = parseAddress(text, what);
  if (address.port === 0) {
    throw new HbmeshError(StatusCode.INVALID, `${what} "${text}" has port 0, where nobody listens`);
  }
  return address;
}

function checkDeviceIds({ remoteH2dDeviceIds: ids, devices }: WorkerConfig): void {
  const wrong = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= devices);
  if (wrong !== undefined) {
    const rule = `must name devices of this worker, 0 to ${devices - 1}; ${wrong} is none`;
    throw invalid("remoteH2dDeviceIds", ids.join(","), rule);
  }
}

/** The largest user or group id; the one above says "none". */
const ID_MAX = 2 ** 32 - 2;

/** Who may be a client on this host. */
function checkLocalAccess({ clientUids, clientGid, localToken, clusterTokenFile, tenantsFile }: WorkerConfig): void {
  const isId = (id: number): boolean => Number.isInteger(id) && id >= 0 && id <= ID_MAX;
  const wrong = clientUids.find((id) => !isId(id));
  if (wrong !== undefined) {
    throw invalid("clientUids", wrong, `must be ids of users, whole numbers from 0 to ${ID_MAX}, as \`id -u\` tells`);
  }
  if (clientGid !== undefined && !isId(clientGid)) {
    throw invalid("clientGid", clientGid, `must be the id of a group, from 0 to ${ID_MAX}, as \`id -g\` tells`);
  }
  checkChoice("localToken", localToken, ["optional", "required"]);
  if (localToken === "required" && clusterTokenFile === undefined && tenantsFile === undefined) {
    throw invalid("localToken", localToken, "takes tokens to ask for: give --cluster_token_file or --tenants_file");
  }
}

/** What makes room in the arena, and where it goes. */
function checkRoom(config: WorkerConfig): void {
  if (config.evictionLowPercent > config.evictionHighPercent) {
    const rule = `must be at most evictionHighPercent, which is ${config.evictionHighPercent}`;
    throw invalid("evictionLowPercent", config.evictionLowPercent, rule);
  }
  if ((config.spillDirectory === undefined) !== (config.spillBytes === 0)) {
    const rule = "goes together with spillDirectory: the SSD tier needs a directory and a size, or neither";
    throw invalid("spillBytes", config.spillBytes, rule);
  }
}

/**
 * Anyone who reaches an address that nothing protects may read and delete everything: then only this machine may reach
 * it.
 */
function checkExposure(config: WorkerConfig): void {
  const tls = [config.tlsCert, config.tlsKey, config.tlsCa].filter((file) => file !== undefined).length;
  if (tls !== 0 && tls !== 3) {
    throw new HbmeshError(StatusCode.INVALID, "mutual TLS takes --tls_cert, --tls_key and --tls_ca, all three");
  }
  const isProtected = config.clusterTokenFile !== undefined || tls === 3;
  for (const name of ["workerAddress", "linkAddress"] as const) {
    const { host } = parseAddress(config[name], name);
    if (!isLoopback(host) && !isProtected && !config.insecure) {
      const rule = "must be a loopback address (127.0.0.1, [::1]) as long as nothing protects what others reach there";
      throw invalid(
        name,
        config[name],
        `${rule}: give --cluster_token_file FILE, the same token on all hosts (or --tls_cert, --tls_key and --tls_ca), or --insecure`,
      );
    }
  }
}

/**
 * TLS is for the API and the control link; what sidecars send each other needs the token. Throws INVALID. For workers
 * with a sidecar.
 */
export function checkTransportExposure(config: WorkerConfig): void {
  const { host } = parseAddress(config.workerAddress, "workerAddress");
  if (!isLoopback(host) && config.clusterTokenFile === undefined && !config.insecure) {
    const message = `a sidecar at ${host} serves other machines, and TLS does not cover what sidecars send each other: give --cluster_token_file FILE too, or --insecure`;
    throw new HbmeshError(StatusCode.INVALID, message);
  }
}

function checkChoice(name: string, value: string, allowed: readonly string[]): void {
  if (!allowed.includes(value)) {
    throw invalid(name, value, `must be one of ${allowed.join(", ")}`);
  }
}

function invalid(name: string, value: unknown, rule: string): HbmeshError {
  return new HbmeshError(StatusCode.INVALID, `${name} ${rule}; it is ${JSON.stringify(value) ?? String(value)}`);
}
