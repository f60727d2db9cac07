/**
 * A sidecar's lookup (kLookup): where the keys of a get are, and the plan for reading them; answered bit by bit, as keys are found or given up.
 *
 * Each owner is asked for its keys on its own, and keys that are not there yet are waited for there, so that nothing holds up a key that is. The plan is the
 * Wasm's.
 */
import type { CancelSignal } from "../base/cancel.js";
import type { Clock } from "../base/clock.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import {
  type Decisions,
  decodeKey,
  type Family,
  type KeyBatch,
  keyCountOf,
  RESULT_RECORD_BYTES,
  SLICE_RECORD_BYTES,
  splitTenant,
  viewOf,
} from "../decision/index.js";
import type { PortMessage } from "../sidecar/port.js";
import { checkFamily, describeOtherFamily } from "./families.js";
import { FOUND_RECORD_BYTES, LOOKUP_REPLY_BYTES } from "./layout-constants.js";
import type { OwnerCalls, Question } from "./owner-calls.js";
import { alignTo8, pickKeys, Results, splitKeys } from "./records.js";
import { DOUBT_MESSAGE } from "./vanished.js";

export interface LookupOptions {
  decisions: Decisions;
  clock: Clock;
  calls: OwnerCalls;
  sliceBytesMax: number;
  lanes: number;
  /** Where the plan begins to count the lanes: one after the other, so that many small reads use all of them. */
  firstLane: number;
  /** How long keys that their owner can't decide are asked for again. */
  patienceMs: number;
  /** Sends one part of the answer; the last has `more` false. */
  reply: (payload: Uint8Array, more: boolean) => void;
}

/** What the sidecar wants to read. */
interface Wanted {
  keys: KeyBatch;
  family: Family;
  blobEnds: Uint32Array;
  blobSizes: BigUint64Array;
  waitMs: number;
  sliceBytesMax: number;
}

/** A key that was decided: found (OK and `record`), there under another family (INVALID and `record`), or given up. */
interface Decided {
  index: number;
  record: Uint8Array | undefined;
  code: StatusCode;
  message: string;
}

/** An owner answers a waiting question after this time at the latest; then it is asked anew. */
const WAIT_MS_MAX = 30_000;
/** Keys in one part of the answer, so that a part fits into the queue. */
const PART_KEYS_MAX = 1_024;
/** Bytes of a part, about: a key with many slices makes it larger, up to the limit of a message. */
const PART_BYTES_MAX = 4 * 2 ** 20;
/** Longest wait for a newer ring before the owners are asked again. */
const RETRY_MS = 20;

/** Throws INVALID for a message that can't be read; later faults are told by key. */
export function startLookup(
  message: PortMessage,
  options: LookupOptions,
  checkKeys: (keys: KeyBatch) => void,
  signal: CancelSignal,
): Promise<void> {
  const wanted = decodeWanted(message, options.sliceBytesMax);
  checkKeys(wanted.keys);
  return new Lookup(wanted, options, signal).run();
}

class Lookup {
  readonly #wanted: Wanted;
  readonly #options: LookupOptions;
  readonly #signal: CancelSignal;
  readonly #deadlineMs: number;
  readonly #decided: Decided[] = [];
  #undecided: number;
  #flushing = false;

  constructor(wanted: Wanted, options: LookupOptions, signal: CancelSignal) {
    this.#wanted = wanted;
    this.#options = options;
    this.#signal = signal;
    this.#deadlineMs = options.clock.monotonicMs() + wanted.waitMs;
    this.#undecided = keyCountOf(wanted.keys);
  }

  /** Resolves after the last part was sent. */
  async run(): Promise<void> {
    const all = Array.from({ length: this.#undecided }, (_, index) => index);
    await this.#pursue(all, this.#options.clock.monotonicMs() + this.#options.patienceMs);
  }

  /** Splits keys by owner and follows each part. `patienceEndsMs` bounds asking again while nothing can be decided. */
  async #pursue(indexes: number[], patienceEndsMs: number): Promise<void> {
    try {
      const groups = this.#options.decisions.groupByOwner(pickKeys(this.#wanted.keys, indexes));
      const { epoch } = this.#options.calls.view;
      await Promise.all(
        groups.map(({ member, indexes: at }) => {
          const mine = Array.from(at, (position) => indexes[position] as number);
          return this.#pursueAt(member, epoch, mine, patienceEndsMs);
        }),
      );
    } catch (reason) {
      this.#giveUp(indexes, HbmeshError.from(reason));
    }
  }

  /** Asks one owner until each of the keys is decided, or the ring has changed. */
  async #pursueAt(owner: number, epoch: bigint, indexes: number[], patienceEndsMs: number): Promise<void> {
    const { calls, clock } = this.#options;
    let left = indexes;
    let patience = patienceEndsMs;
    while (left.length > 0) {
      const keys = pickKeys(this.#wanted.keys, left);
      const waitMs = Math.max(0, Math.min(this.#deadlineMs - clock.monotonicMs(), WAIT_MS_MAX));
      const question: Question = { method: "lookup", keys, family: this.#wanted.family, signal: this.#signal };
      const part = { keys, records: new Uint8Array(0), existence: 0, waitMs: Math.ceil(waitMs), last: false };
      const said = await calls.askOwner(owner, epoch, part, question);
      if (said.t === "failed") {
        this.#giveUp(left, said.error);
        return;
      }
      const { misses, doubted, undecided } =
        said.t === "stale" ? { misses: [], doubted: [], undecided: left } : this.#takeFound(left, said.results);
      const nowMs = clock.monotonicMs();
      if (undecided.length > 0 && nowMs >= Math.max(patience, this.#deadlineMs)) {
        const message =
          "the owner of the key can't tell yet whether it is there, since the ring is changing; try again";
        this.#giveUp(undecided, new HbmeshError(StatusCode.TRY_AGAIN, message));
        undecided.length = 0;
      }
      if (misses.length > 0 && nowMs >= this.#deadlineMs) {
        this.#giveUp(misses, this.#missing());
        misses.length = 0;
      }
      if (doubted.length > 0 && nowMs >= this.#deadlineMs) {
        this.#giveUp(doubted, new HbmeshError(StatusCode.TRY_AGAIN, DOUBT_MESSAGE));
        doubted.length = 0;
      }
      if (said.t === "stale") {
        await calls.awaitEpochAbove(epoch, RETRY_MS, this.#signal);
        return this.#pursue([...undecided], patience);
      }
      if (undecided.length > 0) {
        await calls.pauseBeforeRetry(this.#signal);
      } else {
        patience = nowMs + this.#options.patienceMs;
      }
      left = [...misses, ...doubted, ...undecided].sort((a, b) => a - b);
    }
  }

  #missing(): HbmeshError {
    const { waitMs } = this.#wanted;
    const waited = waitMs === 0 ? "" : `, after waiting ${waitMs} ms for it`;
    return new HbmeshError(
      StatusCode.NOT_FOUND,
      `no object is set under this key${waited}; set it first, or wait longer`,
    );
  }

  #takeFound(
    indexes: readonly number[],
    results: Results,
  ): { misses: number[]; doubted: number[]; undecided: number[] } {
    const misses: number[] = [];
    const doubted: number[] = [];
    const undecided: number[] = [];
    const decided: Decided[] = [];
    indexes.forEach((index, at) => {
      const code = results.code(at);
      if (code === StatusCode.OK) {
        decided.push({ index, code, record: results.record(at), message: "" });
      } else if (code === StatusCode.NOT_FOUND) {
        misses.push(index);
      } else if (code === StatusCode.TRY_AGAIN) {
        (results.inDoubt(at) ? doubted : undecided).push(index);
      } else if (results.otherFamily(at)) {
        const key = splitTenant(decodeKey(this.#wanted.keys, index)).key;
        const message = describeOtherFamily(key, results.family(at), "read");
        decided.push({ index, code, record: results.record(at), message });
      } else {
        decided.push({
          index,
          code,
          record: undefined,
          message: `the owner of the key answered ${StatusCode[code] ?? code}`,
        });
      }
    });
    this.#decide(decided);
    return { misses, doubted, undecided };
  }

  #giveUp(indexes: readonly number[], error: HbmeshError): void {
    this.#decide(indexes.map((index) => ({ index, code: error.code, record: undefined, message: error.message })));
  }

  /** Sends the last part at once; earlier ones when everything that arrived together is in. */
  #decide(decided: readonly Decided[]): void {
    if (decided.length === 0) {
      return;
    }
    this.#decided.push(...decided);
    this.#undecided -= decided.length;
    if (this.#undecided === 0) {
      this.#flush();
    } else if (!this.#flushing) {
      this.#flushing = true;
      queueMicrotask(() => this.#flush());
    }
  }

  #flush(): void {
    this.#flushing = false;
    const decided = this.#decided.splice(0);
    for (let from = 0; from < decided.length; ) {
      const to = this.#endOfPart(decided, from);
      const more = this.#undecided > 0 || to < decided.length;
      this.#options.reply(this.#encodePart(decided.slice(from, to)), more);
      from = to;
    }
  }

  /** At least one key. */
  #endOfPart(decided: readonly Decided[], from: number): number {
    let bytes = 0;
    let to = from;
    while (to < decided.length && to - from < PART_KEYS_MAX) {
      bytes += this.#replyBytesMax(decided[to] as Decided);
      if (to > from && bytes > PART_BYTES_MAX) {
        break;
      }
      to++;
    }
    return to;
  }

  /** What a key takes in the answer at most, its text apart: a slice for each blob, and for each full slice. */
  #replyBytesMax({ index, code }: Decided): number {
    if (code !== StatusCode.OK) {
      return FOUND_RECORD_BYTES;
    }
    const { blobEnds, blobSizes, sliceBytesMax } = this.#wanted;
    let slices = 0;
    for (let blob = index === 0 ? 0 : (blobEnds[index - 1] as number); blob < (blobEnds[index] as number); blob++) {
      slices += 1 + Math.floor(Number(blobSizes[blob]) / sliceBytesMax);
    }
    return FOUND_RECORD_BYTES + slices * SLICE_RECORD_BYTES;
  }

  #encodePart(part: readonly Decided[]): Uint8Array {
    const slices = this.#plan(part.filter(({ code }) => code === StatusCode.OK));
    const messages = encodeMessages(part);
    const foundAt = LOOKUP_REPLY_BYTES;
    const slicesAt = foundAt + part.length * FOUND_RECORD_BYTES;
    const messagesAt = slicesAt + slices.byteLength;
    const payload = new Uint8Array(messagesAt + messages.bytes.byteLength);
    const view = viewOf(payload);
    view.setUint32(0, part.length, true);
    view.setUint32(4, slices.byteLength / SLICE_RECORD_BYTES, true);
    view.setUint32(8, messages.bytes.byteLength, true);
    part.forEach(({ index, code, record }, at) => {
      const start = foundAt + at * FOUND_RECORD_BYTES;
      const [offset, bytes] = messages.places[at] as [number, number];
      view.setUint32(start, index, true);
      view.setUint32(start + 4, code, true);
      view.setUint32(start + 8, offset, true);
      view.setUint32(start + 12, bytes, true);
      if (record !== undefined) {
        payload.set(record, start + FOUND_RECORD_BYTES - RESULT_RECORD_BYTES);
      }
    });
    payload.set(slices, slicesAt);
    payload.set(messages.bytes, messagesAt);
    return payload;
  }

  /** SliceRecords for what was found; their key indexes are those of the sidecar's question. */
  #plan(found: readonly Decided[]): Uint8Array {
    if (found.length === 0) {
      return new Uint8Array(0);
    }
    const { blobEnds, blobSizes, sliceBytesMax } = this.#wanted;
    const { selfId } = this.#options.calls.view;
    const { lanes, firstLane } = this.#options;
    const sizes: bigint[] = [];
    const ends: number[] = [];
    const members: number[] = [];
    for (const { index, record } of found) {
      for (let blob = index === 0 ? 0 : (blobEnds[index - 1] as number); blob < (blobEnds[index] as number); blob++) {
        sizes.push(blobSizes[blob] as bigint);
      }
      ends.push(sizes.length);
      members.push(sourceOf(record as Uint8Array, selfId));
    }
    const plan = this.#options.decisions.plan({
      members: Uint32Array.from(members),
      blobEnds: Uint32Array.from(ends),
      blobSizes: BigUint64Array.from(sizes),
      sliceBytesMax,
      lanes,
    });
    const view = viewOf(plan);
    for (let at = 0; at < plan.byteLength; at += SLICE_RECORD_BYTES) {
      view.setUint32(at, (found[view.getUint32(at, true)] as Decided).index, true);
      view.setUint32(at + 8, (view.getUint32(at + 8, true) + firstLane) % lanes, true);
    }
    return plan;
  }
}

/** This member itself if it holds the object, else the first holder. */
function sourceOf(record: Uint8Array, selfId: number): number {
  const locations = new Results(record, 1).locations(0);
  return locations.find(({ member }) => member === selfId)?.member ?? locations[0]?.member ?? 0;
}

/** Equal texts share their bytes. */
function encodeMessages(part: readonly Decided[]): { bytes: Uint8Array; places: [number, number][] } {
  const known = new Map<string, [number, number]>();
  const texts: Uint8Array[] = [];
  let end = 0;
  const places = part.map(({ message }) => {
    let place = known.get(message);
    if (place === undefined) {
      const text = Buffer.from(message, "utf8");
      place = [end, text.byteLength];
      known.set(message, place);
      texts.push(text);
      end += text.byteLength;
    }
    return place;
  });
  return { bytes: Buffer.concat(texts), places };
}

/** KeyBatch │ blobEnds u32 x count, padded to 8 │ blob sizes u64 x total */
function decodeWanted(message: PortMessage, sliceBytesMax: number): Wanted {
  const { keys, rest } = splitKeys(message.payload);
  const count = keyCountOf(keys);
  const sizesAt = alignTo8(4 * count);
  if (rest.byteLength < sizesAt || (rest.byteLength - sizesAt) % 8 !== 0) {
    throw new HbmeshError(
      StatusCode.INVALID,
      `a lookup of ${count} keys is cut short: ${rest.byteLength} bytes after the keys`,
    );
  }
  const view = viewOf(rest);
  const blobs = (rest.byteLength - sizesAt) / 8;
  const blobEnds = Uint32Array.from({ length: count }, (_, index) => view.getUint32(4 * index, true));
  const ascending = blobEnds.every((end, index) => end >= (blobEnds[index - 1] ?? 0));
  if (!ascending || (blobEnds[count - 1] ?? 0) !== blobs) {
    throw new HbmeshError(
      StatusCode.INVALID,
      `the blobs of a lookup don't fit: ${blobs} sizes, ends up to ${blobEnds[count - 1] ?? 0}`,
    );
  }
  const asked = Number(message.args[1]);
  return {
    keys,
    family: checkFamily(Number(message.args[3])),
    blobEnds,
    blobSizes: BigUint64Array.from({ length: blobs }, (_, blob) => view.getBigUint64(sizesAt + 8 * blob, true)),
    waitMs: Number(message.args[0]),
    sliceBytesMax: asked === 0 ? sliceBytesMax : Math.min(asked, 2 ** 30),
  };
}
