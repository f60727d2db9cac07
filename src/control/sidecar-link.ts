/**
 * SidecarLink: questions to the sidecar over its port, with replies; and the sidecar's own messages, handed on.
 * Everything pending ends with the port.
 */
import type { Clock, Timer } from "../base/clock.js";
import { createDeferred, withDeadline } from "../base/deadline.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { encodeHeld, type Family, type HeldObject, type KeyBatch, viewOf } from "../decision/index.js";
import type { PortMessage, SidecarPort } from "../sidecar/port.js";
import { checkFamily } from "./families.js";
import { FLAG_MORE, FLAG_REPLY, LISTED_COPIES, MESSAGE_PAYLOAD_BYTES_MAX, Op } from "./layout-constants.js";
import { alignTo8, COMMIT_RECORD_BYTES, checkRecordCount, decodeCodes, splitKeys } from "./records.js";

export interface DescribedObject {
  code: number;
  blobSizes: bigint[];
}

/** With HeldFlags (native/queue/layout.h). */
export interface HeldDescription extends DescribedObject {
  flags: number;
}

export interface SidecarStats {
  arenaBytes: bigint;
  arenaUsedBytes: bigint;
  objects: bigint;
  sessions: bigint;
  /** Size of the SSD tier; 0: there is none. */
  spillBytes: bigint;
  /** Bytes of the objects there. */
  spilledBytes: bigint;
  spilledObjects: bigint;
  /** What objects of a worker that leaves may take here, without pushing out any but replicas. */
  roomBytes: bigint;
  /** The most objects. */
  slots: bigint;
  usedSlots: bigint;
  /** Memory of the object table, beside the arena. */
  tableBytes: bigint;
  /** The sidecar's own memory for finding and ordering objects. */
  indexBytes: bigint;
  /** What the arena has of objects on the SSD tier. */
  spilledIndexBytes: bigint;
  /** Objects evicted since the sidecar's start, by what there was too little of. */
  evictedMemoryFull: bigint;
  evictedTableFull: bigint;
  evictedTierFull: bigint;
}

/** SidecarStats of native/queue/layout.h. Zero is what a payload is too short for. */
function decodeStats(payload: Uint8Array): SidecarStats {
  const view = viewOf(payload);
  const at = (offset: number): bigint => (offset + 8 <= view.byteLength ? view.getBigUint64(offset, true) : 0n);
  return {
    arenaBytes: at(0),
    arenaUsedBytes: at(8),
    objects: at(16),
    sessions: at(24),
    spillBytes: at(56),
    spilledBytes: at(64),
    spilledObjects: at(72),
    roomBytes: at(80),
    slots: at(88),
    usedSlots: at(96),
    tableBytes: at(104),
    indexBytes: at(112),
    spilledIndexBytes: at(120),
    evictedMemoryFull: at(128),
    evictedTableFull: at(136),
    evictedTierFull: at(144),
  };
}

/** Of a sidecar that can't be asked. */
export const NO_FIGURES: SidecarStats = decodeStats(new Uint8Array(0));

/** Sealed objects of one family, as the sidecar lists them. `records` are CommitRecords. */
export interface HeldChunk {
  family: Family;
  /** All of them are copies of other workers' objects, or none is. */
  areCopies: boolean;
  keys: KeyBatch;
  records: Uint8Array;
}

/** Messages that may wait while the queue to the sidecar is full. A sidecar that is so far behind is stuck. */
const OUTBOX_MAX = 4_096;
const OUTBOX_RETRY_MS = 2;
/** Of SidecarStats: what every release tells. */
const SIDECAR_STATS_BYTES_MIN = 80;
const NO_ARGUMENTS = [0n, 0n, 0n, 0n] as const;
const EMPTY = new Uint8Array(0);

interface PendingQuestion {
  onReply(message: PortMessage): void;
  fail(reason: HbmeshError): void;
}

export class SidecarLink {
  readonly #port: SidecarPort;
  readonly #clock: Clock;
  readonly #pending = new Map<bigint, PendingQuestion>();
  readonly #outbox: PortMessage[] = [];
  readonly #node: string;
  readonly #what: string;
  #outboxTimer: Timer | undefined;
  #lastId = 0n;
  #ownersLost = false;
  #closed: HbmeshError | undefined;

  constructor(port: SidecarPort, options: { clock: Clock; workerAddress: string }) {
    this.#port = port;
    this.#clock = options.clock;
    this.#node = options.workerAddress;
    this.#what = `the sidecar of worker ${options.workerAddress}`;
  }

  /**
   * Begins to receive. `onRequest` gets what the sidecar asks; `onClose` is called once. Either may be called before
   * this returns: the port may have kept messages, and may have closed.
   */
  attach(onRequest: (message: PortMessage) => void, onClose: (reason: HbmeshError) => void): void {
    this.#port.onMessage((message) => {
      if ((message.flags & FLAG_REPLY) === 0) {
        onRequest(message);
      } else {
        this.#pending.get(message.id)?.onReply(message);
      }
    });
    this.#port.onClose((cause) => {
      const text = `${this.#what} is gone (${cause.message}); it is being restarted, try again`;
      const error = new HbmeshError(StatusCode.RPC_PEER_DEAD, text, { node: this.#node, cause });
      this.#end(error);
      onClose(error);
    });
  }

  get info(): SidecarPort["info"] {
    return this.#port.info;
  }

  /** Answers a request of the sidecar's. */
  reply(request: PortMessage, answer: { code?: number; payload?: Uint8Array; count?: number; more?: boolean }): void {
    this.#send({
      id: request.id,
      op: request.op,
      flags: answer.more === true ? FLAG_REPLY | FLAG_MORE : FLAG_REPLY,
      code: answer.code ?? StatusCode.OK,
      count: answer.count ?? 0,
      args: NO_ARGUMENTS,
      payload: answer.payload ?? EMPTY,
    });
  }

  /** One code an object: OK also for one that was not there any more. */
  async drop(objects: readonly HeldObject[], timeoutMs: number): Promise<number[]> {
    const reply = await this.#ask(Op.drop, encodeHeld(objects), objects.length, timeoutMs, "dropping objects");
    return decodeCodes(reply.payload, objects.length);
  }

  async describe(objects: readonly HeldObject[], timeoutMs: number): Promise<HeldDescription[]> {
    const reply = await this.#ask(Op.describe, encodeHeld(objects), objects.length, timeoutMs, "describing objects");
    return decodeDescribed(reply.payload, objects.length);
  }

  /**
   * Calls `onChunk` for everything sealed, one after the other, and resolves after the last. The sidecar tells of part
   * of its objects at a time, and of the next only when these have been taken: millions don't wait in memory.
   * `timeoutMs`: for each part.
   */
  async listHeld(onChunk: (chunk: HeldChunk) => Promise<void> | void, timeoutMs: number): Promise<void> {
    let next = 0n;
    do {
      const chunks: HeldChunk[] = [];
      const take = (message: PortMessage): void => {
        if (message.payload.byteLength > 0) {
          chunks.push(decodeHeldChunk(message));
        }
      };
      const last = await this.#ask(Op.listHeld, EMPTY, 0, timeoutMs, "listing what it holds", take, next);
      for (const chunk of chunks) {
        await onChunk(chunk);
      }
      next = last.args[0] ?? 0n;
    } while (next !== 0n);
  }

  /** JSON text of what the sidecar knows of one key; empty from a sidecar that has nothing to tell. */
  async explain(key: KeyBatch, timeoutMs: number): Promise<string> {
    try {
      const { payload } = await this.#ask(Op.explain, key, 1, timeoutMs, "explaining a key");
      return Buffer.from(payload).toString("utf8");
    } catch (reason) {
      if (reason instanceof HbmeshError && reason.code === StatusCode.NOT_SUPPORTED) {
        return "";
      }
      throw reason;
    }
  }

  async stats(timeoutMs: number): Promise<SidecarStats> {
    const { payload } = await this.#ask(Op.stats, new Uint8Array(0), 0, timeoutMs, "its figures");
    // A sidecar of the release before, which outlived its control process, tells of less.
    if (payload.byteLength < SIDECAR_STATS_BYTES_MIN) {
      throw new HbmeshError(StatusCode.DATA_INCONSISTENCY, `${this.#what} sent ${payload.byteLength} bytes of figures`);
    }
    return decodeStats(payload);
  }

  /**
   * The worker is about to leave and takes no new objects, or takes them again. Answers how many sets that had begun
   * before are under way.
   */
  async setLeaving(leaving: boolean, timeoutMs: number): Promise<number> {
    const what = leaving ? "taking no new objects" : "taking objects again";
    const reply = await this.#ask(Op.drain, new Uint8Array(0), 0, timeoutMs, what, undefined, leaving ? 1n : 0n);
    return Number(reply.args[0]);
  }

  /** `objects`: payload of kTake. One code an object, when all of them have ended. */
  async take(objects: Uint8Array, count: number, timeoutMs: number): Promise<number[]> {
    const reply = await this.#ask(Op.take, objects, count, timeoutMs, "taking objects over");
    return decodeCodes(reply.payload, count);
  }

  /** Tells the sidecar who its peers are: one line a member. */
  tellPeers(text: string): void {
    this.#send({
      id: ++this.#lastId,
      op: Op.peers,
      flags: 0,
      code: 0,
      count: 0,
      args: NO_ARGUMENTS,
      payload: Buffer.from(text, "utf8"),
    });
  }

  /**
   * Owners of some keys can't be asked, or all can be again: meanwhile sets are reserved before they get room, so that
   * those which must fail push nothing out.
   */
  tellReach(ownersLost: boolean): void {
    if (this.#ownersLost !== ownersLost) {
      this.#ownersLost = ownersLost;
      const args: PortMessage["args"] = [ownersLost ? 1n : 0n, 0n, 0n, 0n];
      this.#send({ id: ++this.#lastId, op: Op.reach, flags: 0, code: 0, count: 0, args, payload: new Uint8Array(0) });
    }
  }

  /** Asks the sidecar to end, transfers first. */
  async shutdown(timeoutMs: number): Promise<void> {
    await this.#ask(Op.shutdown, new Uint8Array(0), 0, timeoutMs, "shutting down", undefined, 1n);
  }

  close(): void {
    this.#end(new HbmeshError(StatusCode.SHUTTING_DOWN, `${this.#what} was let go: the worker is shutting down`));
    this.#port.close();
  }

  async #ask(
    op: number,
    payload: Uint8Array,
    count: number,
    timeoutMs: number,
    doing: string,
    onPart?: (message: PortMessage) => void,
    argument = 0n,
  ): Promise<PortMessage> {
    if (this.#closed !== undefined) {
      throw this.#closed;
    }
    const id = ++this.#lastId;
    const last = createDeferred<PortMessage>();
    this.#pending.set(id, {
      fail: last.reject,
      onReply: (message) => {
        if (message.code !== StatusCode.OK) {
          const text = Buffer.from(message.payload).toString("utf8");
          last.reject(new HbmeshError(message.code, `${this.#what}, ${doing}: ${text || `code ${message.code}`}`));
          return;
        }
        try {
          onPart?.(message);
        } catch (reason) {
          last.reject(HbmeshError.from(reason));
          return;
        }
        if ((message.flags & FLAG_MORE) === 0) {
          last.resolve(message);
        }
      },
    });
    try {
      this.#send({
        id,
        op,
        flags: 0,
        code: 0,
        count,
        args: [argument, 0n, 0n, 0n],
        payload,
      });
      const what = `${this.#what}, ${doing},`;
      return await withDeadline(last.promise, { clock: this.#clock, timeoutMs, what, code: StatusCode.WORKER_TIMEOUT });
    } finally {
      this.#pending.delete(id);
    }
  }

  #send(message: PortMessage): void {
    if (this.#closed !== undefined) {
      return;
    }
    if (this.#outbox.length > 0 || !this.#trySend(message)) {
      if (this.#outbox.length >= OUTBOX_MAX) {
        // Its end is noticed like a death: the supervisor starts another one.
        this.#port.close();
        return;
      }
      this.#outbox.push(message);
      this.#outboxTimer ??= this.#clock.setTimer(OUTBOX_RETRY_MS, () => this.#flush());
    }
  }

  #flush(): void {
    this.#outboxTimer = undefined;
    while (this.#outbox[0] !== undefined && this.#trySend(this.#outbox[0])) {
      this.#outbox.shift();
    }
    if (this.#outbox.length > 0) {
      this.#outboxTimer = this.#clock.setTimer(OUTBOX_RETRY_MS, () => this.#flush());
    }
  }

  /**
   * False: the queue is full. A message that never fits is refused to whom it concerns: the question fails, or
   * OUT_OF_RANGE is the reply. Any other fault means that the port is closing, which onClose will tell.
   */
  #trySend(message: PortMessage): boolean {
    try {
      if (message.payload.byteLength > MESSAGE_PAYLOAD_BYTES_MAX) {
        throw new HbmeshError(StatusCode.OUT_OF_RANGE, `the limit is ${MESSAGE_PAYLOAD_BYTES_MAX} bytes`);
      }
      this.#port.send(message);
      return true;
    } catch (reason) {
      const code = reason instanceof HbmeshError ? reason.code : undefined;
      if (code === StatusCode.OUT_OF_RANGE) {
        return this.#refuse(message, (reason as HbmeshError).message);
      }
      return code !== StatusCode.TRY_AGAIN;
    }
  }

  #refuse(message: PortMessage, limit: string): boolean {
    const bytes = `${message.payload.byteLength} bytes are too many for one message with ${this.#what} (${limit}); use fewer keys a call`;
    if ((message.flags & FLAG_REPLY) === 0) {
      this.#pending.get(message.id)?.fail(new HbmeshError(StatusCode.OUT_OF_RANGE, bytes, { node: this.#node }));
      return true;
    }
    return this.#trySend({
      ...message,
      flags: FLAG_REPLY,
      code: StatusCode.OUT_OF_RANGE,
      count: 0,
      payload: Buffer.from(bytes, "utf8"),
    });
  }

  #end(reason: HbmeshError): void {
    if (this.#closed === undefined) {
      this.#closed = reason;
      this.#outbox.length = 0;
      this.#outboxTimer?.cancel();
      for (const question of this.#pending.values()) {
        question.fail(reason);
      }
      this.#pending.clear();
    }
  }
}

/**
 * codes u32 x count, padded to 8 │ counts u32 x count, padded to 8 │ blob sizes u64 x the sum of the counts │ flags u32
 * x count
 */
function decodeDescribed(payload: Uint8Array, count: number): HeldDescription[] {
  const codes = decodeCodes(payload, count);
  const counts = decodeCodes(payload.subarray(Math.min(alignTo8(4 * count), payload.byteLength)), count);
  const view = viewOf(payload);
  let at = 2 * alignTo8(4 * count);
  const described = codes.map((code, index) => {
    const blobs = counts[index] as number;
    if (at + 8 * blobs > payload.byteLength) {
      throw new HbmeshError(StatusCode.DATA_INCONSISTENCY, "the sidecar's description of an object is cut short");
    }
    const blobSizes = Array.from({ length: blobs }, (_, blob) => view.getBigUint64(at + 8 * blob, true));
    at += 8 * blobs;
    return { code, blobSizes, flags: 0 };
  });
  // As above: one that tells no flags.
  const flags = payload.byteLength === at ? [] : decodeCodes(payload.subarray(at), count);
  flags.forEach((value, index) => {
    (described[index] as HeldDescription).flags = value;
  });
  return described;
}

function decodeHeldChunk(message: PortMessage): HeldChunk {
  const { keys, rest } = splitKeys(message.payload);
  checkRecordCount(rest, COMMIT_RECORD_BYTES, keys);
  const areCopies = message.args[2] === LISTED_COPIES;
  return { family: checkFamily(Number(message.args[1])), areCopies, keys, records: rest };
}
