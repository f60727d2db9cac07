/**
 * Payloads of the fake sidecar's messages, written and read as native code does.
 */
import { StatusCode } from "../../../src/base/errors.js";
import { FOUND_RECORD_BYTES, HELD_SEALED, LOOKUP_REPLY_BYTES } from "../../../src/control/layout-constants.js";
import {
  decodeHeld,
  decodeResults,
  decodeSlices,
  encodeCommits,
  encodeKeys,
  encodeResults,
  type ResultRecord,
  SLICE_RECORD_BYTES,
  type SliceRecord,
  viewOf,
} from "../../../src/decision/index.js";
import type { FakeObject } from "./fake-memory.js";

/** What an object's place looks like to others. */
interface Placed {
  generation: bigint;
  slot: number;
  blobSizes: readonly bigint[];
}

/** CommitRecords as a sidecar writes them: it does not know its member. */
export function commitsOf(objects: readonly Placed[]): Uint8Array {
  return encodeCommits(
    objects.map(({ generation, slot, blobSizes }) => ({
      generation,
      slot,
      member: 0,
      bytes: blobSizes.reduce((a, b) => a + b, 0n),
    })),
  );
}

/** ResultRecords that name these places. `whole`: all of the objects had been there. */
export function placesOf(objects: readonly Omit<Placed, "blobSizes">[], whole = false): Uint8Array {
  return encodeResults(
    objects.map(({ generation, slot }) => ({
      code: 0,
      existed: whole,
      otherFamily: false,
      generation,
      bytes: 0n,
      family: 0,
      locations: [{ member: 0, slot }],
    })),
  );
}

/** u32 each, padded to 8. */
export function codes(values: readonly number[]): Uint8Array {
  const padded = values.length % 2 === 0 ? values : [...values, 0];
  return Buffer.from(Uint32Array.from(padded).buffer);
}

export function lookupPayload(keys: readonly string[], blobSizes: readonly bigint[]): Uint8Array {
  const ends = codes(keys.map((_, index) => (index + 1) * blobSizes.length));
  const sizes = BigUint64Array.from(keys.flatMap(() => blobSizes));
  return Buffer.concat([encodeKeys(keys), ends, Buffer.from(sizes.buffer)]);
}

export interface FoundRecord {
  keyIndex: number;
  code: StatusCode;
  message: string;
  result: ResultRecord;
  slices: SliceRecord[];
}

export function decodeFound(payload: Uint8Array): FoundRecord[] {
  const view = viewOf(payload);
  const foundCount = view.getUint32(0, true);
  const sliceCount = view.getUint32(4, true);
  const slicesAt = LOOKUP_REPLY_BYTES + foundCount * FOUND_RECORD_BYTES;
  const messagesAt = slicesAt + sliceCount * SLICE_RECORD_BYTES;
  const slices = decodeSlices(payload.slice(slicesAt, messagesAt));
  return Array.from({ length: foundCount }, (_, at) => {
    const start = LOOKUP_REPLY_BYTES + at * FOUND_RECORD_BYTES;
    const keyIndex = view.getUint32(start, true);
    const offset = messagesAt + view.getUint32(start + 8, true);
    const message = Buffer.from(payload.subarray(offset, offset + view.getUint32(start + 12, true))).toString();
    const [result] = decodeResults(payload.slice(start + 16, start + FOUND_RECORD_BYTES));
    return {
      keyIndex,
      code: view.getUint32(start + 4, true),
      message,
      result: result as ResultRecord,
      slices: slices.filter((slice) => slice.keyIndex === keyIndex),
    };
  });
}

/** Messages of a list of what is held: each names a key once, and has at most `keysMax` of them. */
export function partsOf(objects: readonly FakeObject[], keysMax: number): FakeObject[][] {
  const parts: FakeObject[][] = [];
  for (let left = [...objects]; left.length > 0; ) {
    const keys = new Set<string>();
    const areCopies = left[0]?.isCopy;
    const part = left.filter(
      ({ key, isCopy }) => isCopy === areCopies && keys.size < keysMax && !keys.has(key) && keys.add(key),
    );
    const told = new Set(part);
    left = left.filter((object) => !told.has(object));
    parts.push(part);
  }
  return parts;
}

/** The reply to kDescribe: codes, blob counts, blob sizes, flags. */
export function describeHeld(held: ReadonlyMap<number, FakeObject>, payload: Uint8Array): Uint8Array {
  const objects = decodeHeld(payload).map(({ slot, generation }) => {
    const object = held.get(slot);
    return object?.generation === generation || object?.state === "writing" ? object : undefined;
  });
  const sizes = objects.flatMap((object) => object?.blobSizes ?? []);
  return Buffer.concat([
    codes(objects.map((object) => (object === undefined ? StatusCode.NOT_FOUND : StatusCode.OK))),
    codes(objects.map((object) => object?.blobSizes.length ?? 0)),
    Buffer.from(BigUint64Array.from(sizes).buffer),
    Buffer.from(Uint32Array.from(objects.map((object) => (object?.state === "sealed" ? HELD_SEALED : 0))).buffer),
  ]);
}

/** What a set or a get answered for one key. */
export interface FakeAnswer {
  code: StatusCode;
  existed: boolean;
  content?: string | undefined;
  message: string;
  slices: SliceRecord[];
  /** In which part of the answer it came. */
  part: number;
}

export function emptyAnswer(): FakeAnswer {
  return { code: StatusCode.OK, existed: false, message: "", slices: [], part: 0 };
}
