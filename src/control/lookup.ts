/**
 * A sidecar's lookup (kLookup): where the keys of a get are, and the plan for reading them; answered bit by bit, as
 * keys are found or given up.
 *
 * Each owner is asked for its keys on its own, and keys that are not there yet are waited for there, so that nothing
 * holds up a key that is. The plan is the Wasm's.
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
  writeU32,
} from "../decision/index.js";
import type { PortMessage } from "../sidecar/port.js";
import { checkFamily, describeOtherFamily } from "./families.js";
import { FOUND_RECORD_BYTES, LOOKUP_REPLY_BYTES } from "./layout-constants.js";
import { type OwnerCalls, ownKeysLast, type Question } from "./owner-calls.js";
import { alignTo8, pickKeys, pickNumbers, type Results, splitKeys } from "./records.js";
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
  /** Exclusive, by key. */
  blobEnds: Uint32Array;
  /** For the plan, which takes them as they are. */
  blobSizes: BigUint64Array;
  /** The same as pairs of u32, the lower one first, to reckon with. */
  blobWords: Uint32Array;
  waitMs: number;
  sliceBytesMax: number;
}

/**
 * A key that was decided: found (OK), there under another family (INVALID), both with where its record is; or given up.
 */
interface Decided {
  index: number;
  code: StatusCode;
  message: string;
  results: Results | undefined;
  /** Of the record in the results. */
  at: number;
}

/** What is left of an answer: keys that can't be decided yet. */
interface Open {
  misses: number[];
  doubted: number[];
  undecided: number[];
}

/** An owner answers a waiting question after this time at the latest; then it is asked anew. */
const WAIT_MS_MAX = 30_000;
/** Keys in one part of the answer, so that a part fits into the queue. */
const PART_KEYS_MAX = 1_024;
/** Bytes of a part, about: a key with many slices makes it larger, up to the limit of a message. */
const PART_BYTES_MAX = 4 * 2 ** 20;
const EMPTY = new Uint8Array(0);
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
  #decided: Decided[] = [];
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
    const all = Uint32Array.from({ length: this.#undecided }, (_, index) => index);
    await this.#pursue(all, this.#options.clock.monotonicMs() + this.#options.patienceMs);
  }

  /** Splits keys by owner and follows each part. `patienceEndsMs` bounds asking again while nothing can be decided. */
  async #pursue(indexes: ArrayLike<number>, patienceEndsMs: number): Promise<void> {
    const { calls, decisions } = this.#options;
    try {
      const { epoch, selfId } = calls.view;
      const groups = decisions.groupByOwner(pickKeys(this.#wanted.keys, indexes));
      const asked: Promise<void>[] = [];
      for (const { member, keys, indexes: positions } of ownKeysLast(groups, selfId)) {
        if (member === selfId && asked.length > 0) {
          await questionsSent();
        }
        asked.push(this.#pursueAt(member, epoch, pickNumbers(indexes, positions), keys, patienceEndsMs));
      }
      await Promise.all(asked);
    } catch (reason) {
      this.#giveUp(indexes, HbmeshError.from(reason));
    }
  }

  /** Asks one owner until each of the keys is decided, or the ring has changed. */
  async #pursueAt(
    owner: number,
    epoch: bigint,
    indexes: number[],
    allKeys: KeyBatch,
    patienceEndsMs: number,
  ): Promise<void> {
    const { calls, clock } = this.#options;
    const question: Question = {
      method: "lookup",
      keys: allKeys,
      family: this.#wanted.family,
      signal: this.#signal,
    };
    let left = indexes;
    let keys = allKeys;
    let patience = patienceEndsMs;
    for (;;) {
      const waitMs = Math.ceil(Math.max(0, Math.min(this.#deadlineMs - clock.monotonicMs(), WAIT_MS_MAX)));
      const asked = calls.askOwner(owner, epoch, { keys, records: EMPTY, existence: 0, waitMs, last: false }, question);
      const said = asked instanceof Promise ? await asked : asked;
      if (said.t === "failed") {
        this.#giveUp(left, said.error);
        return;
      }
      const open =
        said.t === "stale" ? { misses: [], doubted: [], undecided: left } : this.#takeFound(left, said.results);
      if (open === undefined) {
        return;
      }
      const nowMs = clock.monotonicMs();
      this.#giveUpLate(open, nowMs, patience);
      if (said.t === "stale") {
        await calls.awaitEpochAbove(epoch, RETRY_MS, this.#signal);
        return this.#pursue(open.undecided, patience);
      }
      left = [...open.misses, ...open.doubted, ...open.undecided].sort((a, b) => a - b);
      if (open.undecided.length > 0) {
        await calls.pauseBeforeRetry(this.#signal);
      } else {
        patience = nowMs + this.#options.patienceMs;
      }
      if (left.length === 0) {
        return;
      }
      keys = pickKeys(this.#wanted.keys, left);
    }
  }

  /** What may not be waited for any longer. */
  #giveUpLate({ misses, doubted, undecided }: Open, nowMs: number, patienceEndsMs: number): void {
    if (undecided.length > 0 && nowMs >= Math.max(patienceEndsMs, this.#deadlineMs)) {
      const message = "the owner of the key can't tell yet whether it is there, since the ring is changing; try again";
      this.#giveUp(undecided.splice(0), new HbmeshError(StatusCode.TRY_AGAIN, message));
    }
    if (misses.length > 0 && nowMs >= this.#deadlineMs) {
      this.#giveUp(misses.splice(0), this.#missing());
    }
    if (doubted.length > 0 && nowMs >= this.#deadlineMs) {
      this.#giveUp(doubted.splice(0), new HbmeshError(StatusCode.TRY_AGAIN, DOUBT_MESSAGE));
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

  /** Undefined: all of them are decided. */
  #takeFound(indexes: readonly number[], results: Results): Open | undefined {
    const open: Open = { misses: [], doubted: [], undecided: [] };
    const decided: Decided[] = [];
    for (let at = 0; at < indexes.length; at++) {
      const index = indexes[at] as number;
      const code = results.code(at);
      if (code === StatusCode.OK) {
        decided.push({ index, code, message: "", results, at });
      } else if (code === StatusCode.NOT_FOUND) {
        open.misses.push(index);
      } else if (code === StatusCode.TRY_AGAIN) {
        (results.inDoubt(at) ? open.doubted : open.undecided).push(index);
      } else if (results.otherFamily(at)) {
        const key = splitTenant(decodeKey(this.#wanted.keys, index)).key;
        const message = describeOtherFamily(key, results.family(at), "read");
        decided.push({ index, code, message, results, at });
      } else {
        const message = `the owner of the key answered ${StatusCode[code] ?? code}`;
        decided.push({ index, code, message, results: undefined, at: 0 });
      }
    }
    this.#decide(decided);
    return decided.length === indexes.length ? undefined : open;
  }

  #giveUp(indexes: ArrayLike<number>, { code, message }: HbmeshError): void {
    this.#decide(Array.from(indexes, (index) => ({ index, code, message, results: undefined, at: 0 })));
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
    const decided = this.#decided;
    this.#decided = [];
    for (let from = 0; from < decided.length; ) {
      const to = this.#endOfPart(decided, from);
      const more = this.#undecided > 0 || to < decided.length;
      this.#options.reply(this.#encodePart(to - from === decided.length ? decided : decided.slice(from, to)), more);
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
    const { blobEnds, blobWords, sliceBytesMax } = this.#wanted;
    const from = index === 0 ? 0 : (blobEnds[index - 1] as number);
    const to = blobEnds[index] as number;
    let low = 0;
    let high = 0;
    for (let word = 2 * from; word < 2 * to; word += 2) {
      low += blobWords[word] as number;
      high += blobWords[word + 1] as number;
    }
    const slices = to - from + Math.floor((low + 2 ** 32 * high) / sliceBytesMax);
    return FOUND_RECORD_BYTES + slices * SLICE_RECORD_BYTES;
  }

  #encodePart(part: readonly Decided[]): Uint8Array {
    const slices = this.#plan(part.every(isFound) ? part : part.filter(isFound));
    const texts = new Texts();
    const places = part.map(({ message }) => texts.put(message));
    const slicesAt = LOOKUP_REPLY_BYTES + part.length * FOUND_RECORD_BYTES;
    const textsAt = slicesAt + slices.byteLength;
    const payload = new Uint8Array(textsAt + texts.byteLength);
    writeU32(payload, 0, part.length);
    writeU32(payload, 4, slices.byteLength / SLICE_RECORD_BYTES);
    writeU32(payload, 8, texts.byteLength);
    part.forEach(({ index, code, results, at }, position) => {
      const start = LOOKUP_REPLY_BYTES + position * FOUND_RECORD_BYTES;
      const { offset, bytes } = places[position] as TextPlace;
      writeU32(payload, start, index);
      writeU32(payload, start + 4, code);
      writeU32(payload, start + 8, offset);
      writeU32(payload, start + 12, bytes);
      if (results !== undefined) {
        payload.set(results.record(at), start + FOUND_RECORD_BYTES - RESULT_RECORD_BYTES);
      }
    });
    payload.set(slices, slicesAt);
    payload.set(texts.bytes, textsAt);
    return payload;
  }

  /** SliceRecords for what was found; their key indexes are those of the sidecar's question. */
  #plan(found: readonly Decided[]): Uint8Array {
    if (found.length === 0) {
      return EMPTY;
    }
    const { selfId } = this.#options.calls.view;
    const { decisions, lanes, firstLane } = this.#options;
    const { blobEnds, blobSizes, sliceBytesMax } = this.#wanted;
    const members = new Uint32Array(found.length);
    const ends = new Uint32Array(found.length);
    const sizes = new BigUint64Array(blobSizes.length);
    let end = 0;
    found.forEach(({ index, results, at }, position) => {
      const own = blobSizes.subarray(index === 0 ? 0 : blobEnds[index - 1], blobEnds[index]);
      sizes.set(own, end);
      end += own.length;
      ends[position] = end;
      members[position] = (results as Results).sourceFor(at, selfId);
    });
    const plan = decisions.plan({ members, blobEnds: ends, blobSizes: sizes.subarray(0, end), sliceBytesMax, lanes });
    const words = new Uint32Array(plan.buffer, plan.byteOffset, plan.byteLength / 4);
    for (let word = 0; word < words.length; word += SLICE_RECORD_BYTES / 4) {
      words[word] = (found[words[word] as number] as Decided).index;
      words[word + 2] = ((words[word + 2] as number) + firstLane) % lanes;
    }
    return plan;
  }
}

const isFound = ({ code }: Decided): boolean => code === StatusCode.OK;

/** Resolves when what the callback that runs has written to other members is on its way (link-writer.ts). */
function questionsSent(): Promise<void> {
  return new Promise((resolve) => process.nextTick(resolve));
}

interface TextPlace {
  offset: number;
  bytes: number;
}

const NO_TEXT: TextPlace = { offset: 0, bytes: 0 };

/** The messages of a part, one behind the other. Equal ones share their bytes. */
class Texts {
  readonly #texts: Uint8Array[] = [];
  readonly #places = new Map<string, TextPlace>();
  byteLength = 0;

  get bytes(): Uint8Array {
    return Buffer.concat(this.#texts);
  }

  put(message: string): TextPlace {
    let place = message === "" ? NO_TEXT : this.#places.get(message);
    if (place === undefined) {
      const text = Buffer.from(message, "utf8");
      place = { offset: this.byteLength, bytes: text.byteLength };
      this.#places.set(message, place);
      this.#texts.push(text);
      this.byteLength += text.byteLength;
    }
    return place;
  }
}

/** KeyBatch │ blobEnds u32 x count, padded to 8 │ blob sizes u64 x total */
function decodeWanted(message: PortMessage, sliceBytesMax: number): Wanted {
  const { keys, rest: unaligned } = splitKeys(message.payload);
  const count = keyCountOf(keys);
  const sizesAt = alignTo8(4 * count);
  if (unaligned.byteLength < sizesAt || (unaligned.byteLength - sizesAt) % 8 !== 0) {
    throw new HbmeshError(
      StatusCode.INVALID,
      `a lookup of ${count} keys is cut short: ${unaligned.byteLength} bytes after the keys`,
    );
  }
  const rest = unaligned.byteOffset % 8 === 0 ? unaligned : new Uint8Array(unaligned);
  const blobs = (rest.byteLength - sizesAt) / 8;
  const blobEnds = new Uint32Array(rest.buffer, rest.byteOffset, count);
  let end = 0;
  let isAscending = true;
  for (let index = 0; index < count; index++) {
    isAscending = isAscending && (blobEnds[index] as number) >= end;
    end = blobEnds[index] as number;
  }
  if (!isAscending || end !== blobs) {
    throw new HbmeshError(StatusCode.INVALID, `the blobs of a lookup don't fit: ${blobs} sizes, ends up to ${end}`);
  }
  const asked = Number(message.args[1]);
  return {
    keys,
    family: checkFamily(Number(message.args[3])),
    blobEnds,
    blobSizes: new BigUint64Array(rest.buffer, rest.byteOffset + sizesAt, blobs),
    blobWords: new Uint32Array(rest.buffer, rest.byteOffset + sizesAt, 2 * blobs),
    waitMs: Number(message.args[0]),
    sliceBytesMax: asked === 0 ? sliceBytesMax : Math.min(asked, 2 ** 30),
  };
}
