/** What a client and its calls can be told, with the checks and the defaults. */
import { parseHost } from "../base/address.js";
import type { Clock } from "../base/clock.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { NativeAddon, NativeLayout } from "../sidecar/addon.js";
import { checkNumber, checkOptions } from "./arguments.js";

export interface HeteroClientOptions {
  /** Host of the worker on this machine: an IP address (IPv6 with brackets or without), or a name that leads to one. */
  host: string;
  /** Port of the worker, usually 31501. */
  port: number;
  /** How long init() may take. Default 9,000 ms. */
  connectTimeoutMs?: number;
  /**
   * How long a call may take, its own waiting and the time for its bytes apart. Default, and for 0: as
   * connectTimeoutMs.
   */
  requestTimeoutMs?: number;
  /**
   * Slowest transfer that is still waited for: each call gets the time that its bytes take at this rate. Default 100
   * MB/s.
   */
  floorBytesPerSecond?: number;
  /**
   * Known from other systems, where gets from another node must be asked for. hbmesh always offers them; accepted, no
   * effect.
   */
  enableRemoteH2D?: boolean;
  /** What the worker wants to be told, if it was started with a token. Default: nothing. */
  token?: string;
  /** How long devSubscribe waits for one key, unless the call says otherwise. Default 20,000 ms. */
  subscribeTimeoutMs?: number;
  /** How long devSubscribe waits for several keys, unless the call says otherwise. Default 60,000 ms. */
  subscribeManyTimeoutMs?: number;
  /** How long the receiving thread polls after an answer before it sleeps. Costs processor time. Default 20 us. */
  spinMicros?: number;
}

/** What tests give in place of the real thing. */
export interface HeteroClientDependencies {
  addon?: Pick<NativeAddon, "connectClient" | "layout">;
  clock?: Clock;
}

export interface CallOptions {
  /** Ends the call with RPC_CANCELLED. */
  signal?: AbortSignal;
}

export interface SetOptions extends CallOptions {
  /**
   * A key that is there already: `skip` (default) leaves it and says `existed`; `fail` answers KEY_ALREADY_EXISTS for
   * that key; `replace` puts the new bytes in its place, a reader sees the old or the new ones.
   */
  existence?: "skip" | "fail" | "replace";
  /** Seconds until the objects are removed. Default 0: they stay until deleted or evicted. */
  ttlSeconds?: number;
  /**
   * How hard the objects are held when memory runs short: `none` (default) goes first, `soft` only when nothing
   * unpinned is left, `hard` never.
   */
  pin?: "none" | "soft" | "hard";
  /** Keeps a CRC32C of the bytes, which every get checks. Default false. */
  checksum?: boolean;
}

export interface GetOptions extends CallOptions {
  /**
   * How long to wait for keys that aren't there yet, each on its own. Default 0: doesn't wait. At most 1,800,000 ms.
   */
  timeoutMs?: number;
}

export interface SubscribeOptions extends CallOptions {
  /**
   * How long to wait for a publisher. Default: the client's subscribeTimeoutMs or subscribeManyTimeoutMs. At most
   * 1,800,000 ms.
   */
  timeoutMs?: number;
}

export interface DevGetOptions extends GetOptions {
  /**
   * Offers the bytes that this call reads to further readers, from the caller's memory, which must stay valid and
   * unchanged until devLocalDelete or devDelete. Default false.
   */
  shareReplica?: boolean;
}

export interface ReserveOptions extends CallOptions {
  /** Seconds until a reservation that isn't complete ends with FUTURE_TIMEOUT. Default 600. Above 0, at most 1,800. */
  ttlSeconds?: number;
}

/** Names of all options of a kind: the compiler sees to it that none is missing. */
function namesOf<Options>(names: Record<keyof Required<Options>, true>): readonly string[] {
  return Object.keys(names);
}

export const CALL_OPTIONS = namesOf<CallOptions>({ signal: true });
export const SET_OPTIONS = namesOf<SetOptions>({
  signal: true,
  existence: true,
  ttlSeconds: true,
  pin: true,
  checksum: true,
});
export const GET_OPTIONS = namesOf<GetOptions>({ signal: true, timeoutMs: true });
export const SUBSCRIBE_OPTIONS = namesOf<SubscribeOptions>({ signal: true, timeoutMs: true });
export const DEV_GET_OPTIONS = namesOf<DevGetOptions>({ signal: true, timeoutMs: true, shareReplica: true });
export const RESERVE_OPTIONS = namesOf<ReserveOptions>({ signal: true, ttlSeconds: true });
const CLIENT_OPTIONS = namesOf<HeteroClientOptions>({
  host: true,
  port: true,
  connectTimeoutMs: true,
  requestTimeoutMs: true,
  floorBytesPerSecond: true,
  enableRemoteH2D: true,
  token: true,
  subscribeTimeoutMs: true,
  subscribeManyTimeoutMs: true,
  spinMicros: true,
});

/** Longest wait of a future and of a get, and longest life of a reservation; the sidecar's limit too. */
export const FUTURE_TIMEOUT_MS_MAX = 1_800_000;
/** Longest time limit of a connection or a call. */
const TIMEOUT_MS_MAX = 2 ** 31 - 1;
const TTL_SECONDS_MAX = 10 * 365 * 86_400;
const EXISTENCE = { skip: 0n, fail: 1n, replace: 2n } as const;

/** Options with their defaults. */
export interface ClientSettings {
  host: string;
  port: number;
  token: string;
  connectTimeoutMs: number;
  requestTimeoutMs: number;
  floorBytesPerSecond: number;
  spinMicros: number;
  subscribeTimeoutMs: number;
  subscribeManyTimeoutMs: number;
}

/** Throws INVALID for an option of the wrong type or range. */
export function toSettings(options: HeteroClientOptions): ClientSettings {
  checkOptions(options, CLIENT_OPTIONS);
  if (typeof options.host !== "string" || options.host === "") {
    throw new HbmeshError(StatusCode.INVALID, "host must be the worker's IP address or name, as in 127.0.0.1");
  }
  const host = parseHost(options.host, "host");
  checkPort(options.port);
  const ms = (name: "connectTimeoutMs" | "requestTimeoutMs", fallback: number): number =>
    checkNumber(options[name] ?? fallback, name, "ms", TIMEOUT_MS_MAX);
  const connectTimeoutMs = ms("connectTimeoutMs", 9_000);
  const wait = (name: "subscribeTimeoutMs" | "subscribeManyTimeoutMs", fallback: number): number =>
    checkNumber(options[name] ?? fallback, name, "ms", FUTURE_TIMEOUT_MS_MAX);
  return {
    host,
    port: options.port,
    token: options.token ?? "",
    connectTimeoutMs,
    requestTimeoutMs: ms("requestTimeoutMs", 0) || connectTimeoutMs,
    floorBytesPerSecond: Math.max(1, options.floorBytesPerSecond ?? 100e6),
    spinMicros: checkNumber(options.spinMicros ?? 20, "spinMicros", "us", 1e6),
    subscribeTimeoutMs: wait("subscribeTimeoutMs", 20_000),
    subscribeManyTimeoutMs: wait("subscribeManyTimeoutMs", 60_000),
  };
}

function checkPort(port: unknown): void {
  if (typeof port === "string" && /^\d+$/.test(port)) {
    throw new HbmeshError(StatusCode.INVALID, `port "${port}" is a string: give the number ${port}`);
  }
  if (!Number.isInteger(port) || (port as number) < 1 || (port as number) > 65_535) {
    const text = typeof port === "string" ? JSON.stringify(port) : String(port);
    throw new HbmeshError(StatusCode.INVALID, `port ${text} must be a number from 1 to 65535, usually 31501`);
  }
}

/** Arguments of SetD2H and DevMSet. Throws INVALID for an option that is none. */
export function setArguments(options: SetOptions, flags: NativeLayout["flags"]): [bigint, bigint, bigint, bigint] {
  checkOptions(options, SET_OPTIONS);
  const existence = EXISTENCE[options.existence ?? "skip"];
  if (existence === undefined) {
    throw new HbmeshError(
      StatusCode.INVALID,
      `existence ${JSON.stringify(options.existence)} is none of "skip", "fail" and "replace"`,
    );
  }
  const ttlSeconds = checkNumber(options.ttlSeconds ?? 0, "ttlSeconds", "seconds", TTL_SECONDS_MAX);
  const pin = { none: 0, soft: flags.SetPinSoft ?? 1, hard: flags.SetPinHard ?? 2 }[options.pin ?? "none"];
  if (pin === undefined) {
    throw new HbmeshError(
      StatusCode.INVALID,
      `pin ${JSON.stringify(options.pin)} is none of "none", "soft" and "hard"`,
    );
  }
  const checksum = options.checksum === true ? (flags.SetChecksum ?? 4) : 0;
  return [existence, BigInt(Math.ceil(ttlSeconds * 1000)), BigInt(pin | checksum), 0n];
}

/** Milliseconds of a reservation's life. Throws INVALID. */
export function reserveMs(options: ReserveOptions): number {
  checkOptions(options, RESERVE_OPTIONS);
  const ttlSeconds = checkNumber(options.ttlSeconds ?? 600, "ttlSeconds", "seconds", FUTURE_TIMEOUT_MS_MAX / 1000);
  if (ttlSeconds === 0) {
    throw new HbmeshError(StatusCode.INVALID, "ttlSeconds is 0: a reservation needs time above 0");
  }
  return Math.ceil(ttlSeconds * 1000);
}
