/**
 * What the sidecar asks of its control process, answered one by one. A request that can't be answered at all is refused with a code and a text; else each key has
 * its own record. Replies carry the records without the keys.
 */
import type { Clock } from "../base/clock.js";
import type { WorkerConfig } from "../base/config.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import type { Decisions, ExistenceMode, KeyBatch } from "../decision/index.js";
import type { PortMessage } from "../sidecar/port.js";
import type { Holders } from "./holders.js";
import type { KeyCheck } from "./key-check.js";
import { KEYS_PER_CALL_MAX, KEYS_PER_QUERY_MAX, Op } from "./layout-constants.js";
import { startLookup } from "./lookup.js";
import { describeFound, lookupAll } from "./object-calls.js";
import type { Answer, OwnerCalls } from "./owner-calls.js";
import {
  alignTo8,
  COMMIT_RECORD_BYTES,
  checkRecordCount,
  encodeCodes,
  RESULT_RECORD_BYTES,
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
  onSessions: (sessions: number) => void;
}

/** Requests of one sidecar. */
export class SidecarRequests {
  readonly #options: SidecarRequestsOptions;
  readonly #link: () => SidecarLink;
  /** Ends lookups that wait when the sidecar is gone. */
  readonly #ending = new AbortController();
  /** Lookups that run, by the id of their message, so that the sidecar can end one. */
  readonly #lookups = new Map<bigint, AbortController>();

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
    this.#answer(message).catch((reason: unknown) => {
      const error = HbmeshError.from(reason);
      if (error.code === StatusCode.RUNTIME_ERROR) {
        this.#options.log.error({ op: message.op, cause: String(error.stack) }, "a request of the sidecar failed");
      }
      if (message.op !== Op.reportMissing && message.op !== Op.sessions) {
        this.#link().reply(message, { code: error.code, payload: Buffer.from(error.message, "utf8") });
      }
    });
  }

  async #answer(message: PortMessage): Promise<void> {
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
      case Op.sessions:
        return this.#options.onSessions(Number(message.args[0]));
      case Op.cancel:
        this.#lookups.get(message.args[0])?.abort(new HbmeshError(StatusCode.RPC_CANCELLED, "the get was cancelled"));
        return;
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
        signal: this.#ending.signal,
      }),
    );
  }

  async #commit(message: PortMessage): Promise<void> {
    const { calls } = this.#options;
    const { keys, rest } = this.#keysOf(message, KEYS_PER_CALL_MAX);
    checkRecordCount(rest, COMMIT_RECORD_BYTES, keys);
    const records = stampMember(rest, calls.view.selfId);
    // Nothing may come between the last look at the epoch and the reply: what the sidecar seals before it is asked what it holds is announced.
    this.#reply(message, await calls.commit(keys, records, existenceOf(message), this.#ending.signal));
  }

  async #lookup(message: PortMessage): Promise<void> {
    const { config, clock, decisions, calls, checkKeys } = this.#options;
    const controller = new AbortController();
    this.#ending.signal.throwIfAborted();
    this.#lookups.set(message.id, controller);
    const options = {
      decisions,
      clock,
      calls,
      sliceBytesMax: config.sliceBytesMax,
      lanes: config.lanes,
      patienceMs: config.requestTimeoutMs,
      reply: (payload: Uint8Array, more: boolean) => this.#link().reply(message, { payload, more }),
    };
    try {
      await startLookup(message, options, (keys) => checkKeys(keys, KEYS_PER_CALL_MAX), controller.signal);
    } finally {
      this.#lookups.delete(message.id);
    }
  }

  async #remove(message: PortMessage): Promise<void> {
    const { keys } = this.#keysOf(message, KEYS_PER_CALL_MAX);
    this.#reply(message, await this.#options.calls.ask({ method: "remove", keys, signal: this.#ending.signal }));
  }

  async #presence(message: PortMessage): Promise<void> {
    const { keys } = this.#keysOf(message, KEYS_PER_QUERY_MAX);
    this.#reply(message, await lookupAll(this.#options.calls, keys, this.#ending.signal));
  }

  /** ResultRecord x count │ blob counts u32 x count, padded to 8 │ blob sizes u64 */
  async #meta(message: PortMessage): Promise<void> {
    const { calls, holders } = this.#options;
    const { keys } = this.#keysOf(message, KEYS_PER_QUERY_MAX);
    const answer = await lookupAll(calls, keys, this.#ending.signal);
    const blobSizes = await describeFound(answer, holders);
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
      signal: this.#ending.signal,
    });
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

function existenceOf(message: PortMessage): ExistenceMode {
  const value = Number(message.args[0]);
  if (value !== 0 && value !== 1 && value !== 2) {
    throw new HbmeshError(StatusCode.INVALID, `existence ${value} is none of 0 (skip), 1 (fail), 2 (replace)`);
  }
  return value;
}
