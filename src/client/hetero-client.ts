/**
 * HeteroClient: what a user's process has of hbmesh. Bytes in device memory become objects under keys, and objects become bytes
 * in device memory again, on this node or another.
 *
 * Every batch call answers for each key. It rejects with an HbmeshError (`code`, `key`, `node`) only when nothing could be
 * tried; then nothing was done. Errors that every call may reject with, in this order: NOT_READY before init(), SHUTTING_DOWN
 * after close(), INVALID for what is wrong with the arguments (the message names the key and the remedy), RPC_CANCELLED for an
 * aborted signal, TRY_AGAIN when too many calls are under way, CLIENT_WORKER_DISCONNECT when the worker's sidecar ended,
 * RPC_DEADLINE_EXCEEDED when it didn't answer in time, WORKER_TIMEOUT when it doesn't even stop.
 */
import { randomUUID } from "node:crypto";
import { lookup } from "node:dns/promises";
import { isIP } from "node:net";
import { formatAddress } from "../base/address.js";
import { type Clock, createSystemClock } from "../base/clock.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { loadAddon, type NativeAddon, type NativeClient } from "../sidecar/addon.js";
import { fromNativeError } from "../sidecar/native-errors.js";
import { checkNumber, type FlatBatch, flattenBatch, flattenKeys, flattenRanges } from "./arguments.js";
import { type BatchResult, ExistResult, MetaResult, type Presence, WriteResult } from "./batch-result.js";
import type { DeviceBlobList } from "./blobs.js";
import { askHealth, type WorkerHealth } from "./health.js";
import { type DecodedReply, type KeyAnswer, type ReplyContext, ReplyDecoder, toBatchResult } from "./reply.js";
import { Requests } from "./requests.js";

export interface HeteroClientOptions {
  /** Host of the worker on this machine: an IP address, or a name that leads to one. */
  host: string;
  /** Port of the worker, usually 31501. */
  port: number;
  /** How long init() may take. Default 9,000 ms. */
  connectTimeoutMs?: number;
  /** How long a call may take, its own waiting and the time for its bytes apart. Default, and for 0: as connectTimeoutMs. */
  requestTimeoutMs?: number;
  /** Slowest transfer that is still waited for: each call gets the time that its bytes take at this rate. Default 100 MB/s. */
  floorBytesPerSecond?: number;
  /** Known from other systems, where gets from another node must be asked for. hbmesh always offers them; accepted, no effect. */
  enableRemoteH2D?: boolean;
  /** What the worker wants to be told, if it was started with a token. Default: nothing. */
  token?: string;
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
   * A key that is there already: `skip` (default) leaves it and says `existed`; `fail` answers KEY_ALREADY_EXISTS for that key;
   * `replace` puts the new bytes in its place, a reader sees the old or the new ones.
   */
  existence?: "skip" | "fail" | "replace";
  /** Seconds until the objects may be removed. Default 0: they stay until deleted or evicted. */
  ttlSeconds?: number;
}

export interface GetOptions extends CallOptions {
  /** How long to wait for keys that aren't there yet, each on its own. Default 0: doesn't wait. At most 2^31 - 1 ms. */
  timeoutMs?: number;
}

const EXISTENCE = { skip: 0n, fail: 1n, replace: 2n } as const;
const TIMEOUT_MS_MAX = 2 ** 31 - 1;
const TTL_SECONDS_MAX = 10 * 365 * 86_400;

interface Connection {
  native: NativeClient;
  requests: Requests;
  decoder: ReplyDecoder;
  layout: NativeAddon["layout"];
  node: string;
}

type State =
  | { t: "new" }
  | { t: "connecting"; done: Promise<void> }
  | { t: "open"; connection: Connection }
  | { t: "lost"; reason: HbmeshError }
  | { t: "closed" };

interface Call {
  name: string;
  op: string;
  args: readonly [bigint, bigint, bigint, bigint];
  keys: readonly string[];
  batch: FlatBatch;
  /** Waiting that the caller asked for, on top of the request timeout. */
  waitMs?: number;
  signal: AbortSignal | undefined;
}

export class HeteroClient {
  readonly #options: HeteroClientOptions;
  readonly #connectTimeoutMs: number;
  readonly #requestTimeoutMs: number;
  readonly #floorBytesPerSecond: number;
  readonly #dependencies: HeteroClientDependencies;
  readonly #clock: Clock;
  #state: State = { t: "new" };

  /**
   * Connects to nothing yet. Throws INVALID for an option of the wrong type or range.
   *
   * @example new HeteroClient({ host: "127.0.0.1", port: 31501 })
   */
  constructor(options: HeteroClientOptions, dependencies: HeteroClientDependencies = {}) {
    this.#options = options;
    this.#dependencies = dependencies;
    this.#clock = dependencies.clock ?? createSystemClock();
    if (typeof options.host !== "string" || options.host === "") {
      throw new HbmeshError(StatusCode.INVALID, "host must be the worker's IP address or name, as in 127.0.0.1");
    }
    if (!Number.isInteger(options.port) || options.port < 1 || options.port > 65_535) {
      throw new HbmeshError(StatusCode.INVALID, `port ${String(options.port)} must be from 1 to 65535, usually 31501`);
    }
    this.#connectTimeoutMs = checkNumber(options.connectTimeoutMs ?? 9_000, "connectTimeoutMs", "ms", TIMEOUT_MS_MAX);
    const requestTimeoutMs = checkNumber(options.requestTimeoutMs ?? 0, "requestTimeoutMs", "ms", TIMEOUT_MS_MAX);
    this.#requestTimeoutMs = requestTimeoutMs === 0 ? this.#connectTimeoutMs : requestTimeoutMs;
    this.#floorBytesPerSecond = Math.max(1, options.floorBytesPerSecond ?? 100e6);
    checkNumber(options.spinMicros ?? 0, "spinMicros", "us", 1e6);
  }

  /** Devices of the node. REQUIRES init(); throws as a call would. */
  get deviceCount(): number {
    return this.#connection().native.deviceCount;
  }

  /**
   * Connects to the worker. May be called again, and after the worker was lost it connects anew. Rejects with
   * NO_AVAILABLE_WORKER when no worker serves the address on this machine, NOT_AUTHORIZED when it runs as another user or refuses
   * the token, RPC_DEADLINE_EXCEEDED, SHUTTING_DOWN after close().
   */
  async init(): Promise<void> {
    switch (this.#state.t) {
      case "open":
        return;
      case "connecting":
        return await this.#state.done;
      case "closed":
        throw this.#closedError();
      case "new":
      case "lost": {
        const done = this.#connect();
        this.#state = { t: "connecting", done };
        return await done;
      }
      default:
        return this.#state satisfies never;
    }
  }

  /**
   * Copies device memory into host objects: the blobs of each list become one object under its key, visible on every node once
   * the call has resolved with OK for it, and only whole.
   *
   * @param keys 1 to 10,000, none twice; the cluster's key rule decides which are allowed.
   * @param blobLists one a key, all on one device of the node; each has at least one blob.
   * @returns a status a key, and `existed`: the key was there and was left (existence `skip`).
   *
   * Status of a key, in this order: KEY_ALREADY_EXISTS (`fail` only: delete it first), OUT_OF_MEMORY (arena full and nothing
   * evictable), RPC_UNAVAILABLE or TRY_AGAIN (its owner can't answer now: call again), RUNTIME_ERROR (the copy failed).
   *
   * @example
   * const result = await client.mSetD2H(["layer0"], [new DeviceBlobList(0, [new Blob(pointer, 4096n)])]);
   * result.throwIfFailed();
   */
  async mSetD2H(
    keys: readonly string[],
    blobLists: readonly DeviceBlobList[],
    options: SetOptions = {},
  ): Promise<WriteResult> {
    const connection = this.#connection();
    const existence = EXISTENCE[options.existence ?? "skip"];
    if (existence === undefined) {
      throw new HbmeshError(
        StatusCode.INVALID,
        `existence ${JSON.stringify(options.existence)} is none of "skip", "fail" and "replace"`,
      );
    }
    const ttlSeconds = checkNumber(options.ttlSeconds ?? 0, "ttlSeconds", "seconds", TTL_SECONDS_MAX);
    const batch = flattenBatch(keys, blobLists, this.#batchLimits(connection));
    const args = [existence, BigInt(Math.ceil(ttlSeconds * 1000)), 0n, 0n] as const;
    return await this.#write({ name: "mSetD2H", op: "SetD2H", args, keys, batch, signal: options.signal });
  }

  /**
   * Reads host objects, of this node or another, into device memory: the bytes of each key are scattered to its blobs.
   *
   * @param keys 1 to 10,000, none twice.
   * @param blobLists one a key, all on one device of the node, with as many blobs of the same sizes as the set had.
   * @returns a status a key; `path` says what carried the bytes. Keys that are there are read whatever becomes of the others.
   *
   * Status of a key, in this order: INVALID (blobs other than those of the set; nothing was written), NOT_FOUND (not there, also
   * not within `timeoutMs`), RPC_UNAVAILABLE (its owner or its only holder can't be reached), TRY_AGAIN (it was replaced
   * meanwhile), RPC_CANCELLED. After any of them but INVALID and NOT_FOUND the key's device memory may hold a part of the bytes.
   *
   * @example
   * const result = await client.mGetH2D(["layer0"], [new DeviceBlobList(2, [new Blob(target, 4096n)])], { timeoutMs: 60_000 });
   * if (result.failedKeys.length > 0) recompute(result.failedKeys);
   */
  async mGetH2D(
    keys: readonly string[],
    blobLists: readonly DeviceBlobList[],
    options: GetOptions = {},
  ): Promise<BatchResult> {
    const connection = this.#connection();
    const waitMs = checkNumber(options.timeoutMs ?? 0, "timeoutMs", "ms", TIMEOUT_MS_MAX);
    const batch = flattenBatch(keys, blobLists, this.#batchLimits(connection));
    const args = [BigInt(Math.ceil(waitMs)), 0n, 0n, 0n] as const;
    const call = { name: "mGetH2D", op: "GetH2D", args, keys, batch, waitMs, signal: options.signal };
    const { decoded, context } = await this.#ask(call);
    return toBatchResult(decoded, context);
  }

  /**
   * Removes objects everywhere. A key that isn't there is OK, with `existed` false. A transfer that reads one ends first.
   *
   * @param keys 1 to 10,000, none twice.
   * Status of a key: RPC_UNAVAILABLE or TRY_AGAIN when its owner can't answer now: call again.
   *
   * @example await client.delete(["layer0"]);
   */
  async delete(keys: readonly string[], options: CallOptions = {}): Promise<WriteResult> {
    const batch = flattenKeys(keys, this.#limit("KeysPerCallMax"));
    return await this.#write({
      name: "delete",
      op: "Delete",
      args: [0n, 0n, 0n, 0n],
      keys,
      batch,
      signal: options.signal,
    });
  }

  /**
   * Asks whether objects are there; renews nothing. `presences` says for each key HIT, MISS, or UNKNOWN when its owner can't be
   * reached, which is never taken for a miss; the status of an UNKNOWN key says why.
   *
   * @param keys 1 to 100,000, none twice.
   *
   * @example (await client.exist(["layer0"])).presences[0] === "HIT"
   */
  async exist(keys: readonly string[], options: CallOptions = {}): Promise<ExistResult> {
    const batch = flattenKeys(keys, this.#limit("KeysPerQueryMax"));
    const call = { name: "exist", op: "Exist", args: [0n, 0n, 0n, 0n] as const, keys, batch, signal: options.signal };
    const { decoded, context } = await this.#ask(call);
    const presences = decoded.answers.map(presenceOf);
    for (const answer of decoded.answers) {
      if (answer.code === StatusCode.NOT_FOUND) {
        Object.assign(answer, { code: StatusCode.OK, message: "" }); // a miss is an answer
      }
    }
    return new ExistResult(toBatchResult(decoded, context), presences);
  }

  /**
   * Size, blob sizes and generation of objects. `metas` has undefined for a key whose status isn't OK (NOT_FOUND, or as exist's
   * UNKNOWN).
   *
   * @param keys 1 to 100,000, none twice.
   *
   * @example (await client.getMetaInfo(["layer0"])).metas[0]?.blobSizes
   */
  async getMetaInfo(keys: readonly string[], options: CallOptions = {}): Promise<MetaResult> {
    const batch = flattenKeys(keys, this.#limit("KeysPerQueryMax"));
    const args = [0n, 0n, 0n, 0n] as const;
    const { decoded, context } = await this.#ask({
      name: "getMetaInfo",
      op: "GetMeta",
      args,
      keys,
      batch,
      signal: options.signal,
    });
    const metas = decoded.answers.map((answer, index) =>
      answer.code === StatusCode.OK
        ? { sizeBytes: answer.bytes, blobSizes: decoded.blobSizes[index] ?? [], generation: answer.generation }
        : undefined,
    );
    return new MetaResult(toBatchResult(decoded, context), metas);
  }

  /**
   * Registers device memory with the worker ahead of its first use, which otherwise does it and takes that much longer.
   * Rejects with INVALID, naming the range, when it is no device memory.
   *
   * @param pointers device addresses. @param sizes bytes from each on.
   */
  async preRegisterDeviceMemory(pointers: readonly bigint[], sizes: readonly bigint[]): Promise<void> {
    const { native, node } = this.#connection();
    const ranges = flattenRanges(pointers, sizes);
    try {
      await native.registerDeviceMemory(ranges.pointers, ranges.sizes);
    } catch (error) {
      throw fromNativeError(error, { node });
    }
  }

  /** A key that nobody else has: the prefix, then 36 characters that every key rule allows. Needs no worker. */
  generateKey(prefix = ""): string {
    return prefix === "" ? randomUUID() : `${prefix}-${randomUUID()}`;
  }

  /**
   * Asks the worker over HTTP how it is; works before init() too. Rejects with NO_AVAILABLE_WORKER when nobody answers there,
   * RPC_DEADLINE_EXCEEDED after requestTimeoutMs. A worker that answers but isn't ready resolves, with `ready` false and a reason.
   */
  async healthCheck(options: CallOptions = {}): Promise<WorkerHealth> {
    return await askHealth(await this.#resolveNode(), this.#requestTimeoutMs, options.signal);
  }

  /** Ends the client. Calls under way reject with SHUTTING_DOWN. May be called at any time and more than once. */
  async close(): Promise<void> {
    const state = this.#state;
    this.#state = { t: "closed" };
    if (state.t === "connecting") {
      await state.done.catch(() => undefined); // whoever called init() is told
    }
    if (state.t === "open") {
      state.connection.native.close();
    }
  }

  async #resolveNode(): Promise<string> {
    const { host, port } = this.#options;
    if (isIP(host) !== 0) {
      return formatAddress({ host, port });
    }
    try {
      const { address } = await lookup(host, { family: 4 });
      return formatAddress({ host: address, port });
    } catch (error) {
      throw new HbmeshError(
        StatusCode.NO_AVAILABLE_WORKER,
        `the name ${host} leads to no address: check it, or give the IP`,
        {
          cause: error,
        },
      );
    }
  }

  async #connect(): Promise<void> {
    let node = `${this.#options.host}:${this.#options.port}`;
    try {
      node = await this.#resolveNode();
      const addon = this.#dependencies.addon ?? loadAddon();
      let connection: Connection | undefined;
      const native = await addon.connectClient({
        workerAddress: node,
        token: this.#options.token ?? "",
        connectTimeoutMs: Math.ceil(this.#connectTimeoutMs),
        spinMicros: Math.ceil(this.#options.spinMicros ?? 20),
        onClosed: (reason) => this.#lose(connection, reason, node),
      });
      const requests = new Requests(native, node, this.#clock);
      connection = { native, requests, decoder: new ReplyDecoder(addon.layout), layout: addon.layout, node };
      if (this.#state.t === "closed") {
        native.close();
        throw this.#closedError();
      }
      this.#state = { t: "open", connection };
    } catch (error) {
      const failure = fromNativeError(error, { node });
      if (this.#state.t === "connecting") {
        this.#state = { t: "new" };
      }
      throw failure;
    }
  }

  #lose(connection: Connection | undefined, reason: string, node: string): void {
    if (this.#state.t === "open" && this.#state.connection === connection) {
      connection.native.close();
      this.#state = { t: "lost", reason: new HbmeshError(StatusCode.CLIENT_WORKER_DISCONNECT, reason, { node }) };
    }
  }

  #closedError(): HbmeshError {
    return new HbmeshError(StatusCode.SHUTTING_DOWN, "the client was closed: make a new one");
  }

  #connection(): Connection {
    switch (this.#state.t) {
      case "open":
        return this.#state.connection;
      case "lost":
        throw this.#state.reason;
      case "closed":
        throw this.#closedError();
      case "new":
      case "connecting":
        throw new HbmeshError(StatusCode.NOT_READY, "the client is not connected: await init() first");
      default:
        return this.#state satisfies never;
    }
  }

  #limit(name: string): number {
    return this.#connection().layout.limits[name] ?? 0;
  }

  #batchLimits(connection: Connection): { keysMax: number; deviceCount: number; node: string } {
    return {
      keysMax: connection.layout.limits.KeysPerCallMax ?? 0,
      deviceCount: connection.native.deviceCount,
      node: connection.node,
    };
  }

  async #write(call: Call): Promise<WriteResult> {
    const { decoded, context, decoder } = await this.#ask(call);
    const existed = decoded.answers.map((answer) => decoder.existed(answer));
    return new WriteResult(toBatchResult(decoded, context), existed);
  }

  async #ask(call: Call): Promise<{ decoded: DecodedReply; context: ReplyContext; decoder: ReplyDecoder }> {
    const { requests, decoder, layout, node, native } = this.#connection();
    const op = layout.ops[call.op];
    if (op === undefined) {
      throw new HbmeshError(
        StatusCode.NOT_SUPPORTED,
        `the native addon has no operation ${call.op}: run npm run setup`,
      );
    }
    const transferMs = Math.ceil((Number(call.batch.totalBytes) / this.#floorBytesPerSecond) * 1000);
    const { reply, stopped } = await requests.send({
      op,
      args: call.args,
      batch: call.batch,
      keys: call.keys,
      what: `${call.name} of ${call.keys.length} ${call.keys.length === 1 ? "key" : "keys"} (first ${JSON.stringify(call.keys[0])})`,
      timeoutMs: this.#requestTimeoutMs + (call.waitMs ?? 0) + transferMs,
      signal: call.signal,
    });
    const context: ReplyContext = {
      keys: call.keys,
      node,
      backend: native.backend,
      outward: call.op === "SetD2H",
      hasBlobSizes: call.op === "GetMeta",
    };
    const decoded = decoder.decode(reply, context);
    if (stopped !== undefined && wasCutShort(decoded, stopped)) {
      throw stopped;
    }
    return { decoded, context, decoder };
  }
}

/**
 * Whether a request that was stopped ends as one that failed. Who aborts wants no result of what was left undone; after a time
 * limit, keys that were done in time are worth telling.
 */
function wasCutShort(decoded: DecodedReply, stopped: HbmeshError): boolean {
  const cancelled = decoded.answers.filter((answer) => answer.code === StatusCode.RPC_CANCELLED).length;
  return stopped.code === StatusCode.RPC_DEADLINE_EXCEEDED ? cancelled === decoded.answers.length : cancelled > 0;
}

function presenceOf(answer: KeyAnswer): Presence {
  switch (answer.code) {
    case StatusCode.OK:
      return "HIT";
    case StatusCode.NOT_FOUND:
      return "MISS";
    default:
      return "UNKNOWN";
  }
}
