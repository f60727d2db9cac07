/**
 * What the sidecar asks of its control process, answered one by one. A request that can't be answered at all is refused
 * with a code and a text; else each key has its own record. Replies carry the records without the keys.
 */
import { Canceller } from "../base/cancel.js";
import type { Clock } from "../base/clock.js";
import type { WorkerConfig } from "../base/config.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import {
  type Decisions,
  decodeKey,
  type ExistenceMode,
  type Family,
  type HeldObject,
  type KeyBatch,
  keyCountOf,
  readCommit,
} from "../decision/index.js";
import type { PortMessage } from "../sidecar/port.js";
import { explainKey, toJson } from "./explain.js";
import { checkFamily } from "./families.js";
import type { DroppedObject, Holders } from "./holders.js";
import type { KeyCheck } from "./key-check.js";
import { KEYS_PER_CALL_MAX, KEYS_PER_QUERY_MAX, MESSAGE_PAYLOAD_BYTES_MAX, Op } from "./layout-constants.js";
import { startLookup } from "./lookup.js";
import { describeFound, lookupAll } from "./object-calls.js";
import type { Answer, CommitQuestion, OwnerCalls } from "./owner-calls.js";
import { EXISTENCE_REPLACE } from "./owner-checks.js";
import {
  alignTo8,
  COMMIT_RECORD_BYTES,
  checkRecordCount,
  encodeCodes,
  RESULT_RECORD_BYTES,
  Results,
  splitKeys,
  stampMember,
} from "./records.js";
import type { SidecarLink } from "./sidecar-link.js";

export interface SidecarRequestsOptions {
  config: WorkerConfig;
  clock: Clock;
  log: Logger;
  decisions: Decisions;
  calls: OwnerCalls;
  holders: Holders;
  checkKeys: KeyCheck;
  nameOf: (memberId: number) => string;
  /** The sidecar no longer has these objects. */
  onGone: (objects: readonly DroppedObject[]) => void;
  onSessions: (sessions: number) => void;
}

/** Requests of one sidecar. */
export class SidecarRequests {
  readonly #options: SidecarRequestsOptions;
  readonly #link: () => SidecarLink;
  /** Ends lookups that wait when the sidecar is gone. */
  readonly #ending = new Canceller();
  /** Lookups that run, by the id of their message, so that the sidecar can end one. */
  #lookupCount = 0;
  readonly #lookups = new Map<bigint, Canceller>();

  constructor(options: SidecarRequestsOptions, link: () => SidecarLink) {
    this.#options = options;
    this.#link = link;
  }

  end(reason: HbmeshError): void {
    this.#ending.abort(reason);
    for (const lookup of this.#lookups.values()) {
      lookup.abort(reason);
    }
  }

  /** Never throws. */
  take(message: PortMessage): void {
    try {
      this.#answer(message)?.catch((reason: unknown) => this.#refuse(message, reason));
    } catch (reason) {
      this.#refuse(message, reason);
    }
  }

  #refuse(message: PortMessage, reason: unknown): void {
    const error = HbmeshError.from(reason);
    if (error.code === StatusCode.RUNTIME_ERROR) {
      this.#options.log.error({ op: message.op, cause: String(error.stack) }, "a request of the sidecar failed");
    }
    if (!WITHOUT_REPLY.has(message.op)) {
      this.#link().reply(message, { code: error.code, payload: Buffer.from(error.message, "utf8") });
    }
  }

  /** Undefined: it is done. */
  #answer(message: PortMessage): Promise<void> | undefined {
    switch (message.op) {
      case Op.reserve:
        return this.#reserve(message);
      case Op.commit:
        return this.#commit(message);
      case Op.lookup:
        return this.#lookup(message);
      case Op.remove:
        return this.#remove(message);
      case Op.presence:
        return this.#presence(message);
      case Op.meta:
        return this.#meta(message);
      case Op.reportMissing:
        return this.#reportMissing(message);
      case Op.addLocation:
        return this.#addLocation(message);
      case Op.forgetLocations:
        this.#forgetLocations(message);
        return undefined;
      case Op.explainOwner:
        return this.#explainOwner(message);
      case Op.sessions:
        this.#options.onSessions(Number(message.args[0]));
        return undefined;
      case Op.cancel:
        this.#lookups.get(message.args[0])?.abort(new HbmeshError(StatusCode.RPC_CANCELLED, "the get was cancelled"));
        return undefined;
      default:
        throw new HbmeshError(
          StatusCode.NOT_SUPPORTED,
          `the control process knows no operation ${message.op}; install the same release of both`,
        );
    }
  }

  async #reserve(message: PortMessage): Promise<void> {
    const keys = this.#keysOf(message, KEYS_PER_CALL_MAX).keys;
    this.#reply(
      message,
      await this.#options.calls.ask({
        method: "reserve",
        keys,
        existence: existenceOf(message),
        family: familyOf(message, 1),
        signal: this.#ending,
      }),
    );
  }

  async #commit(message: PortMessage): Promise<void> {
    const existence = existenceOf(message);
    const answer = await this.#options.calls.commit({ ...this.#committed(message), existence });
    // Nothing may come between the last look at the epoch and the reply: what the sidecar seals before it is asked what
    // it holds is announced.
    this.#reply(message, answer);
    if (existence === EXISTENCE_REPLACE) {
      await this.#dropReplacedHere(answer);
    }
  }

  /**
   * The sidecar swaps an older version of its own as it seals the new one. If the new one was removed before that,
   * there is no seal, and nobody else would ever drop the older one: the owner left it to the sidecar.
   */
  async #dropReplacedHere({ results }: Answer): Promise<void> {
    const { calls, config, log } = this.#options;
    const replaced: HeldObject[] = [];
    for (let index = 0; index < results.count; index++) {
      if (results.code(index) === StatusCode.OK && results.existed(index)) {
        const here = results.locations(index).find(({ member }) => member === calls.view.selfId);
        if (here !== undefined) {
          replaced.push({ generation: results.generation(index), slot: here.slot });
        }
      }
    }
    if (replaced.length > 0) {
      await this.#link()
        .drop(replaced, config.requestTimeoutMs)
        .catch((reason: unknown) => log.debug({ cause: String(reason) }, "replaced objects went with their sidecar"));
    }
  }

  async #addLocation(message: PortMessage): Promise<void> {
    // As in #commit.
    this.#reply(
      message,
      await this.#options.calls.addLocations({
        ...this.#committed(message),
        existence: existenceOf(message),
      }),
    );
  }

  #committed(message: PortMessage): CommitQuestion {
    const { keys, rest } = this.#keysOf(message, KEYS_PER_CALL_MAX);
    checkRecordCount(rest, COMMIT_RECORD_BYTES, keys);
    const records = stampMember(rest, this.#options.calls.view.selfId);
    // The sidecar says so for all keys of a message, or for none.
    const reserves = keyCountOf(keys) > 0 && readCommit(records, 0).generation === 0n;
    return { keys, records, reserves, family: familyOf(message, 1), signal: this.#ending };
  }

  async #lookup(message: PortMessage): Promise<void> {
    const { config, clock, decisions, calls, checkKeys } = this.#options;
    const canceller = new Canceller();
    this.#ending.throwIfAborted();
    this.#lookups.set(message.id, canceller);
    const options = {
      decisions,
      clock,
      calls,
      sliceBytesMax: config.sliceBytesMax,
      lanes: config.lanes,
      firstLane: this.#lookupCount++ % config.lanes,
      patienceMs: config.requestTimeoutMs,
      reply: (payload: Uint8Array, more: boolean) => this.#link().reply(message, { payload, more }),
    };
    try {
      await startLookup(message, options, (keys) => checkKeys(keys, KEYS_PER_CALL_MAX), canceller);
    } finally {
      this.#lookups.delete(message.id);
    }
  }

  async #remove(message: PortMessage): Promise<void> {
    const { keys } = this.#keysOf(message, KEYS_PER_CALL_MAX);
    const family = familyOf(message, 1);
    this.#reply(message, await this.#options.calls.ask({ method: "remove", keys, family, signal: this.#ending }));
  }

  async #presence(message: PortMessage): Promise<void> {
    const { keys } = this.#keysOf(message, KEYS_PER_QUERY_MAX);
    this.#reply(message, await lookupAll(this.#options.calls, keys, this.#ending));
  }

  /** ResultRecord x count │ blob counts u32 x count, padded to 8 │ blob sizes u64 */
  async #meta(message: PortMessage): Promise<void> {
    const { calls, holders } = this.#options;
    const { keys } = this.#keysOf(message, KEYS_PER_QUERY_MAX);
    const answer = await lookupAll(calls, keys, this.#ending);
    const blobSizes = await describeFound(answer, holders);
    checkMetaFits(blobSizes);
    const counts = encodeCodes(blobSizes.map((sizes) => sizes?.length ?? 0));
    const sizes = BigUint64Array.from(blobSizes.flatMap((each) => each ?? []));
    const countsAt = answer.results.bytes.byteLength;
    const sizesAt = countsAt + alignTo8(counts.byteLength);
    const payload = new Uint8Array(sizesAt + sizes.byteLength);
    payload.set(answer.results.bytes);
    payload.set(counts, countsAt);
    payload.set(new Uint8Array(sizes.buffer), sizesAt);
    this.#link().reply(message, { payload, count: answer.results.count });
  }

  async #reportMissing(message: PortMessage): Promise<void> {
    const { keys, rest } = this.#keysOf(message, KEYS_PER_CALL_MAX);
    checkRecordCount(rest, RESULT_RECORD_BYTES, keys);
    await this.#options.calls.ask({
      method: "reportMissing",
      keys,
      records: rest,
      recordBytes: RESULT_RECORD_BYTES,
      signal: this.#ending,
    });
  }

  /** Not checked as a batch: the same key may come twice, with two versions of it. */
  #forgetLocations(message: PortMessage): void {
    const { keys, rest } = splitKeys(message.payload);
    checkRecordCount(rest, RESULT_RECORD_BYTES, keys);
    const results = new Results(rest, keyCountOf(keys));
    const gone: DroppedObject[] = [];
    for (let index = 0; index < results.count; index++) {
      const slot = results.locations(index)[0]?.slot;
      if (slot !== undefined) {
        const wasWhole = results.existed(index);
        gone.push({ key: decodeKey(keys, index), generation: results.generation(index), slot, wasWhole });
      }
    }
    this.#options.onGone(gone);
  }

  async #explainOwner(message: PortMessage): Promise<void> {
    const { keys } = this.#keysOf(message, 1);
    const text = toJson(await explainKey(this.#options, keys, this.#ending));
    this.#link().reply(message, { payload: Buffer.from(text, "utf8"), count: 1 });
  }

  #keysOf(message: PortMessage, keysMax: number): { keys: KeyBatch; rest: Uint8Array } {
    const parts = splitKeys(message.payload);
    this.#options.checkKeys(parts.keys, keysMax);
    return parts;
  }

  #reply(message: PortMessage, answer: Answer): void {
    if (answer.errors.size > 0) {
      const [first] = answer.errors.values();
      this.#options.log.warn(
        { op: message.op, keys: answer.errors.size, cause: first?.message },
        "owners of keys could not be asked",
      );
    }
    this.#link().reply(message, { payload: answer.results.bytes, count: answer.results.count });
  }
}

/** The sidecar takes metadata in one message. Throws OUT_OF_RANGE telling how many of the keys fit into one. */
function checkMetaFits(blobSizes: readonly (readonly bigint[] | undefined)[]): void {
  // One record and one count a key, the counts padded to 8.
  let bytes = 8;
  for (const [index, sizes] of blobSizes.entries()) {
    bytes += RESULT_RECORD_BYTES + 4 + 8 * (sizes?.length ?? 0);
    if (bytes > MESSAGE_PAYLOAD_BYTES_MAX) {
      const message = `the metadata of ${blobSizes.length} keys is too much for one answer: the first ${index} fit; ask for at most ${index} keys a call`;
      throw new HbmeshError(StatusCode.OUT_OF_RANGE, message);
    }
  }
}

/** Requests that nobody waits for. */
const WITHOUT_REPLY: ReadonlySet<number> = new Set([Op.reportMissing, Op.sessions, Op.forgetLocations, Op.cancel]);

function familyOf(message: PortMessage, argument: 1 | 3): Family {
  return checkFamily(Number(message.args[argument]));
}

function existenceOf(message: PortMessage): ExistenceMode {
  const value = Number(message.args[0]);
  if (value !== 0 && value !== 1 && value !== 2) {
    throw new HbmeshError(StatusCode.INVALID, `existence ${value} is none of 0 (skip), 1 (fail), 2 (replace)`);
  }
  return value;
}
