/**
 * HeteroClient: what a user's process has of hbmesh. Bytes in device memory become objects under keys, and objects
 * become bytes in device memory again, on this node or another.
 *
 * Every batch call answers for each key. It rejects with an HbmeshError (`code`, `key`, `node`) only when nothing could
 * be tried; then nothing was done. Errors that every call may reject with, in this order: NOT_READY before init(),
 * SHUTTING_DOWN after close(), CLIENT_WORKER_DISCONNECT after the worker's sidecar ended; INVALID for what this process
 * sees wrong with the arguments (the message names the key and the remedy); RPC_CANCELLED for an aborted signal;
 * OUT_OF_RANGE for a call larger than the queue, TRY_AGAIN when too many calls are under way; INVALID for keys that are
 * not allowed. Then what happens to a call that was tried: CLIENT_WORKER_DISCONNECT, RPC_DEADLINE_EXCEEDED when it
 * wasn't answered in time, WORKER_TIMEOUT when the worker doesn't even stop.
 *
 * Calls with futures hand a TransferFuture back for each key; every one of them ends. docs/API.md has all calls with
 * examples, side by side with those of the C API.
 */
import { randomUUID } from "node:crypto";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { fromNativeError } from "../sidecar/native-errors.js";
import { checkNumber, checkOptions, flattenBatch, flattenKeys, flattenRanges } from "./arguments.js";
import { type BatchResult, ExistResult, type MetaResult, type Presence, WriteResult } from "./batch-result.js";
import type { DeviceBlobList } from "./blobs.js";
import { askHealth, type WorkerHealth } from "./health.js";
import { LayerTicket } from "./layer-ticket.js";
import { askMetadata } from "./metadata.js";
import {
  CALL_OPTIONS,
  type CallOptions,
  type ClientSettings,
  DEV_GET_OPTIONS,
  type DevGetOptions,
  FUTURE_TIMEOUT_MS_MAX,
  GET_OPTIONS,
  type GetOptions,
  type HeteroClientDependencies,
  type HeteroClientOptions,
  type ReserveOptions,
  reserveMs,
  type SetOptions,
  SUBSCRIBE_OPTIONS,
  type SubscribeOptions,
  setArguments,
  toSettings,
} from "./options.js";
import { type KeyAnswer, toBatchResult } from "./reply.js";
import { type Call, ClientSession } from "./session.js";
import type { TransferFuture } from "./transfer-future.js";

const NO_ARGUMENTS = [0n, 0n, 0n, 0n] as const;
const U32_MAX = 2 ** 32 - 1;

export class HeteroClient {
  readonly #settings: ClientSettings;
  readonly #session: ClientSession;

  /**
   * Connects to nothing yet. Throws INVALID for an option of the wrong type or range.
   *
   * @example new HeteroClient({ host: "127.0.0.1", port: 31501 })
   */
  constructor(options: HeteroClientOptions, dependencies: HeteroClientDependencies = {}) {
    this.#settings = toSettings(options);
    this.#session = new ClientSession(this.#settings, dependencies);
  }

  /** Devices of the node. REQUIRES init(); throws as a call would. */
  get deviceCount(): number {
    return this.#session.connection().native.deviceCount;
  }

  /**
   * Connects to the worker. May be called again, and after the worker was lost it connects anew. Rejects with
   * NO_AVAILABLE_WORKER when no worker serves the address on this machine, NOT_AUTHORIZED when it runs as another user
   * or refuses the token, RPC_DEADLINE_EXCEEDED, SHUTTING_DOWN after close().
   */
  async init(): Promise<void> {
    await this.#session.init();
  }

  /**
   * Copies device memory into host objects: the blobs of each list become one object under its key, visible on every
   * node once the call has resolved with OK for it, and only whole.
   *
   * @param keys 1 to 10,000, none twice; the cluster's key rule decides which are allowed.
   * @param blobLists one a key, all on one device of the node; each has at least one blob.
   * @returns a status a key, and `existed`: the key was there and was left (existence `skip`).
   *
   * Status of a key, in this order: KEY_ALREADY_EXISTS (`fail` only, set at this worker: delete it first),
   * OUT_OF_MEMORY (arena full and nothing evictable), INVALID (published or cached for devices under this key),
   * KEY_ALREADY_EXISTS (set at another worker), RPC_UNAVAILABLE or TRY_AGAIN (its owner can't answer now: call again),
   * ACL_ERROR (the copy failed).
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
    return await this.#set("mSetD2H", "SetD2H", keys, blobLists, options);
  }

  /**
   * Reads host objects, of this node or another, into device memory: the bytes of each key are scattered to its blobs.
   *
   * @param keys 1 to 10,000, none twice.
   * @param blobLists one a key, all on one device of the node, with as many blobs of the same sizes as the set had.
   * @returns a status a key; `path` says what carried the bytes. Keys that are there are read whatever becomes of the
   * others.
   *
   * Status of a key, in this order: INVALID (published or cached for devices; blobs other than those of the set;
   * nothing was written), NOT_FOUND (not there, also
   * not within `timeoutMs`), RPC_UNAVAILABLE (its owner or its only holder can't be reached), TRY_AGAIN (it was
   * replaced meanwhile), RPC_CANCELLED. After any of them but INVALID and NOT_FOUND the key's device memory may hold a
   * part of the bytes.
   *
   * @example
   * const targets = [new DeviceBlobList(2, [new Blob(target, 4096n)])];
   * const result = await client.mGetH2D(["layer0"], targets, { timeoutMs: 60_000 });
   * if (result.failedKeys.length > 0) recompute(result.failedKeys);
   */
  async mGetH2D(
    keys: readonly string[],
    blobLists: readonly DeviceBlobList[],
    options: GetOptions = {},
  ): Promise<BatchResult> {
    this.#check(options, GET_OPTIONS);
    this.#session.connection();
    const waitMs = checkNumber(options.timeoutMs ?? 0, "timeoutMs", "ms", FUTURE_TIMEOUT_MS_MAX);
    return await this.#get("mGetH2D", "GetH2D", keys, blobLists, [BigInt(Math.ceil(waitMs)), 0n, 0n, 0n], options);
  }

  /**
   * Removes objects everywhere. A key that isn't there is OK, with `existed` false. A transfer that reads one ends
   * first.
   *
   * @param keys 1 to 10,000, none twice.
   * Status of a key: RPC_UNAVAILABLE or TRY_AGAIN when its owner can't answer now: call again.
   *
   * @example await client.delete(["layer0"]);
   */
  async delete(keys: readonly string[], options: CallOptions = {}): Promise<WriteResult> {
    return await this.#remove("delete", "Delete", keys, options);
  }

  /**
   * Asks whether objects are there; renews nothing. `presences` says for each key HIT, MISS, or UNKNOWN when its owner
   * can't be reached, which is never taken for a miss; the status of an UNKNOWN key says why.
   *
   * @param keys 1 to 100,000, none twice.
   *
   * @example (await client.exist(["layer0"])).presences[0] === "HIT"
   */
  async exist(keys: readonly string[], options: CallOptions = {}): Promise<ExistResult> {
    this.#check(options, CALL_OPTIONS);
    const batch = flattenKeys(keys, this.#session.limit("KeysPerQueryMax"));
    const call = { name: "exist", op: "Exist", args: NO_ARGUMENTS, keys, batch, signal: options.signal };
    const { decoded, context } = await this.#session.ask(call);
    const presences = decoded.answers.map(presenceOf);
    for (const answer of decoded.answers) {
      if (answer.code === StatusCode.NOT_FOUND) {
        Object.assign(answer, { code: StatusCode.OK, message: "" }); // a miss is an answer
      }
    }
    return new ExistResult(toBatchResult(decoded, context), presences);
  }

  /**
   * Size, blob sizes and generation of objects. `metas` has undefined for a key whose status isn't OK (NOT_FOUND, or as
   * exist's UNKNOWN).
   *
   * @param keys 1 to 100,000, none twice.
   *
   * @example (await client.getMetaInfo(["layer0"])).metas[0]?.blobSizes
   */
  async getMetaInfo(keys: readonly string[], options: CallOptions = {}): Promise<MetaResult> {
    this.#check(options, CALL_OPTIONS);
    return await askMetadata(this.#session, keys, options.signal);
  }

  /**
   * Says all that is known of an object: where it is, how big, who holds it, when it expires, why it was or can't be
   * evicted; of a key that isn't there, why it went, as far as that is remembered. For people and for tools that show
   * it; which fields there are depends on the object. When the key's owner can't be asked, code and message stand in
   * its place.
   *
   * Rejects with INVALID for a key that is not allowed.
   *
   * @example console.log(await client.explain("layer0"));
   */
  async explain(key: string, options: CallOptions = {}): Promise<Record<string, unknown>> {
    this.#check(options, CALL_OPTIONS);
    this.#session.connection();
    const keys = [key];
    const batch = flattenKeys(keys, 1);
    const call = { name: "explain", op: "Explain", args: NO_ARGUMENTS, keys, batch, signal: options.signal };
    const { decoded, context } = await this.#session.ask(call);
    toBatchResult(decoded, context).throwIfFailed();
    const text = decoded.answers[0]?.message || decoded.messages;
    try {
      return JSON.parse(text) as Record<string, unknown>;
    } catch (cause) {
      throw new HbmeshError(
        StatusCode.DATA_INCONSISTENCY,
        `worker ${context.node} explained the key with what is no JSON: ${text.slice(0, 100)}`,
        { key, node: context.node, cause },
      );
    }
  }

  /**
   * Offers device memory under keys, each to one subscriber, from device to device. A key's future is OK when its
   * receiver has the bytes; the object is then gone. The memory must stay valid and unchanged until the future is done.
   * Ends with this client.
   *
   * @param keys 1 to 10,000, none twice. @param blobLists one a key, all on one device.
   * @returns once every key is published, or couldn't be: a future a key. `signal` ends those that are open, at any
   * time.
   *
   * A future's failure, in this order: INVALID (the key is of another family, another client's, or published with other
   * blobs; the same blobs again are a retry, which is OK), RPC_UNAVAILABLE or TRY_AGAIN (its owner can't answer now),
   * RPC_PEER_DEAD (the receiver ended within the transfer), RPC_CANCELLED, CLIENT_WORKER_DISCONNECT, SHUTTING_DOWN.
   *
   * @example
   * const [future] = await client.devPublish(["kv-7"], [new DeviceBlobList(0, [new Blob(pointer, 4096n)])]);
   * await future.get(60_000);
   */
  async devPublish(
    keys: readonly string[],
    blobLists: readonly DeviceBlobList[],
    options: CallOptions = {},
  ): Promise<readonly TransferFuture[]> {
    this.#check(options, CALL_OPTIONS);
    const batch = flattenBatch(keys, blobLists, this.#session.batchLimits());
    const call = { name: "devPublish", op: "DevPublish", args: NO_ARGUMENTS, keys, batch, signal: options.signal };
    const request = this.#session.open(call, false);
    await request.accepted;
    return request.futures;
  }

  /**
   * Receives what another client publishes, now or later, into device memory. May come before the publish. Several
   * subscribers of one key: the first one gets it.
   *
   * @param blobLists one a key, all on one device, with as many blobs of the same sizes as the publisher's.
   * @returns at once: a future a key, OK when the bytes are in device memory. What the worker refuses about the whole
   * call, every future says. Default wait: 20 s for one key, 60 s for several.
   *
   * A future's failure, in this order: INVALID (other blobs than the publisher's, naming both; the same card at both
   * ends; a key of another family), RPC_PEER_DEAD (the publisher ended), FUTURE_TIMEOUT (nobody published in time),
   * RPC_UNAVAILABLE or TRY_AGAIN, RPC_CANCELLED, CLIENT_WORKER_DISCONNECT, SHUTTING_DOWN.
   *
   * @example
   * const [future] = await client.devSubscribe(["kv-7"], [new DeviceBlobList(1, [new Blob(target, 4096n)])]);
   * await future.get(20_000);
   */
  async devSubscribe(
    keys: readonly string[],
    blobLists: readonly DeviceBlobList[],
    options: SubscribeOptions = {},
  ): Promise<readonly TransferFuture[]> {
    this.#check(options, SUBSCRIBE_OPTIONS);
    const { subscribeTimeoutMs, subscribeManyTimeoutMs } = this.#settings;
    const limits = this.#session.batchLimits();
    const usual = keys?.length === 1 ? subscribeTimeoutMs : subscribeManyTimeoutMs;
    const waitMs = checkNumber(options.timeoutMs ?? usual, "timeoutMs", "ms", FUTURE_TIMEOUT_MS_MAX);
    const batch = flattenBatch(keys, blobLists, limits);
    const args = [BigInt(Math.ceil(waitMs)), 0n, 0n, 0n] as const;
    const call = { name: "devSubscribe", op: "DevSubscribe", args, keys, batch, waitMs, signal: options.signal };
    return this.#session.open(call, true).futures;
  }

  /**
   * Makes device memory readable under keys, by any number of readers, until devDelete, devLocalDelete or this client's
   * end. The memory must stay valid and unchanged for that long. Of the options of mSetD2H only existence has an
   * effect, `skip` or `fail`.
   *
   * Status of a key, in this order: INVALID (of another family, another client's, or set with other blobs; the same
   * again is OK and says `existed`), KEY_ALREADY_EXISTS (`fail`, and the same again), RPC_UNAVAILABLE or TRY_AGAIN.
   */
  async devMSet(
    keys: readonly string[],
    blobLists: readonly DeviceBlobList[],
    options: SetOptions = {},
  ): Promise<WriteResult> {
    return await this.#set("devMSet", "DevMSet", keys, blobLists, options);
  }

  /**
   * Reads what devMSet offers into device memory, as mGetH2D does for host objects.
   *
   * Status of a key, in this order: INVALID (other blobs than those of the set, the same card at both ends, a key of
   * another family), NOT_FOUND (not there, also not within `timeoutMs`), RPC_PEER_DEAD (its last holder ended within
   * the transfer), RPC_UNAVAILABLE, TRY_AGAIN, RPC_CANCELLED.
   */
  async devMGet(
    keys: readonly string[],
    blobLists: readonly DeviceBlobList[],
    options: DevGetOptions = {},
  ): Promise<BatchResult> {
    this.#check(options, DEV_GET_OPTIONS);
    const { flags } = this.#session.connection().layout;
    const waitMs = checkNumber(options.timeoutMs ?? 0, "timeoutMs", "ms", FUTURE_TIMEOUT_MS_MAX);
    const share = options.shareReplica === true ? BigInt(flags.ShareReplica ?? 1) : 0n;
    return await this.#get("devMGet", "DevMGet", keys, blobLists, [BigInt(Math.ceil(waitMs)), share, 0n, 0n], options);
  }

  /** Ends device cache objects everywhere; the memory stays as it is. Statuses and `existed` as delete. */
  async devDelete(keys: readonly string[], options: CallOptions = {}): Promise<WriteResult> {
    return await this.#remove("devDelete", "DevDelete", keys, options);
  }

  /** Takes back only what this client offers of them (devMSet, or shareReplica): its memory is then its own again. */
  async devLocalDelete(keys: readonly string[], options: CallOptions = {}): Promise<WriteResult> {
    return await this.#remove("devLocalDelete", "DevLocalDelete", keys, options);
  }

  /**
   * Reserves device memory for layers that another process pushes as it computes them, with the ticket's text.
   *
   * @param layers one blob list a layer, all on one device. The memory must stay valid until each layer's future is
   * done.
   * @returns once the ticket is given out. Rejects as every call, and with OUT_OF_MEMORY when the worker has too many
   * reservations.
   *
   * @example
   * const ticket = await client.reserveLayers(layers, { ttlSeconds: 60 });
   * send(ticket.text); // to the prefill side, which calls push(text, 0, ...), push(text, 1, ...)
   * for (let i = 0; i < layers.length; i += 1) { await ticket.layer(i); compute(i); }
   */
  async reserveLayers(layers: readonly DeviceBlobList[], options: ReserveOptions = {}): Promise<LayerTicket> {
    const limits = this.#session.batchLimits();
    const ttlMs = reserveMs(options);
    const keys = Array.isArray(layers) ? layers.map((_, index) => String(index)) : [];
    const batch = flattenBatch(keys, layers, limits);
    const name = `the reservation of ${keys.length} layers`;
    const args = [BigInt(ttlMs), 0n, 0n, 0n] as const;
    const call = { name, op: "ReserveLayers", args, keys, batch, signal: options.signal };
    const request = this.#session.open(call, false);
    await request.accepted;
    if (request.note === "") {
      await request.futures[0]?.get(0); // throws why there is none
    }
    return new LayerTicket(request);
  }

  /**
   * Pushes one layer into memory that reserveLayers reserved, on this node or another. Resolves when its bytes are
   * complete there.
   *
   * Rejects, in this order, with INVALID (no ticket), NOT_FOUND (ticket unknown or expired), NOT_AUTHORIZED (wrong
   * secret), OUT_OF_RANGE (no such layer), KEY_ALREADY_EXISTS (that layer was pushed before), INVALID (other blobs than
   * reserved, naming both), RPC_PEER_DEAD (the reserving side ended), RPC_UNAVAILABLE, RPC_CANCELLED.
   */
  async push(
    ticketText: string,
    layer: number,
    blobList: DeviceBlobList,
    options: CallOptions = {},
  ): Promise<BatchResult> {
    this.#check(options, CALL_OPTIONS);
    const limits = this.#session.batchLimits();
    if (!Number.isInteger(layer) || layer < 0 || layer > U32_MAX) {
      throw new HbmeshError(StatusCode.INVALID, `layer ${String(layer)} must be an integer from 0 on`);
    }
    const keys = [ticketText];
    const batch = flattenBatch(keys, [blobList], limits);
    const args = [BigInt(layer), 0n, 0n, 0n] as const;
    const call = { name: `the push of layer ${layer}`, op: "PushLayer", args, keys, batch, signal: options.signal };
    const { decoded, context } = await this.#session.ask(call);
    const result = toBatchResult(decoded, context);
    result.throwIfFailed();
    return result;
  }

  /**
   * Registers device memory with the worker ahead of its first use, which otherwise does it and takes that much longer.
   * Rejects with INVALID, naming the range, when it is no device memory.
   *
   * @param pointers device addresses. @param sizes bytes from each on.
   */
  async preRegisterDeviceMemory(pointers: readonly bigint[], sizes: readonly bigint[]): Promise<void> {
    const { native, node } = this.#session.connection();
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
   * Asks the worker over HTTP how it is; works before init() too. Rejects with NO_AVAILABLE_WORKER when nobody answers
   * there, RPC_DEADLINE_EXCEEDED after requestTimeoutMs. A worker that answers but isn't ready resolves, with `ready`
   * false and a reason.
   */
  async healthCheck(options: CallOptions = {}): Promise<WorkerHealth> {
    checkOptions(options, CALL_OPTIONS);
    return await askHealth(this.#session.node, this.#settings.requestTimeoutMs, options.signal);
  }

  /**
   * Ends the client. Calls under way are cancelled and reject with SHUTTING_DOWN, unless their answer was on its way.
   * Resolves once the sidecar has said that it no longer uses their device memory, or after 2 s without that word; the
   * rejections then say that the memory may still be in use. May be called at any time and more than once. Never
   * rejects.
   */
  async close(): Promise<void> {
    await this.#session.close();
  }

  /** Without a connection that is what a call says first. */
  #check(options: object, known: readonly string[]): void {
    this.#session.connection();
    checkOptions(options, known);
  }

  async #set(
    name: string,
    op: string,
    keys: readonly string[],
    blobLists: readonly DeviceBlobList[],
    options: SetOptions,
  ): Promise<WriteResult> {
    const args = setArguments(options, this.#session.connection().layout.flags);
    const batch = flattenBatch(keys, blobLists, this.#session.batchLimits());
    return await this.#write({ name, op, args, keys, batch, signal: options.signal });
  }

  /** `args[0]` is how long to wait. */
  async #get(
    name: string,
    op: string,
    keys: readonly string[],
    blobLists: readonly DeviceBlobList[],
    args: Call["args"],
    options: CallOptions,
  ): Promise<BatchResult> {
    const batch = flattenBatch(keys, blobLists, this.#session.batchLimits());
    const call = { name, op, args, keys, batch, waitMs: Number(args[0]), signal: options.signal };
    const { decoded, context } = await this.#session.ask(call);
    return toBatchResult(decoded, context);
  }

  async #remove(name: string, op: string, keys: readonly string[], options: CallOptions): Promise<WriteResult> {
    this.#check(options, CALL_OPTIONS);
    const batch = flattenKeys(keys, this.#session.limit("KeysPerCallMax"));
    return await this.#write({ name, op, args: NO_ARGUMENTS, keys, batch, signal: options.signal });
  }

  async #write(call: Call): Promise<WriteResult> {
    const { decoded, context, decoder } = await this.#session.ask(call);
    const existed = decoded.answers.map((answer) => decoder.existed(answer));
    return new WriteResult(toBatchResult(decoded, context), existed);
  }
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
