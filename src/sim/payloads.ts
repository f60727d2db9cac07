/** Payloads of a simulated sidecar's messages, written and read as native code does (native/queue/layout.h). */
import type { StatusCode } from "../base/errors.js";
import { FOUND_RECORD_BYTES, LOOKUP_REPLY_BYTES } from "../control/layout-constants.js";
import {
  decodeResults,
  encodeCommits,
  encodeKeys,
  encodeResults,
  RESULT_RECORD_BYTES,
  type ResultRecord,
  SLICE_RECORD_BYTES,
  viewOf,
} from "../decision/index.js";
import { OBJECT_BYTES, type SimObject } from "./memory.js";

/** A sidecar does not know its member; the control process fills it in. */
export function commitsOf(objects: readonly SimObject[]): Uint8Array {
  return encodeCommits(objects.map(({ generation, slot }) => ({ generation, slot, member: 0, bytes: OBJECT_BYTES })));
}

/** ResultRecords that name one place of each key. `whole`: all of the objects had been there. */
export function placesOf(
  places: readonly { generation: bigint; member: number; slot: number }[],
  whole = false,
): Uint8Array {
  return encodeResults(
    places.map(({ generation, member, slot }) => ({
      code: 0,
      existed: whole,
      otherFamily: false,
      generation,
      bytes: 0n,
      family: 0,
      locations: [{ member, slot }],
    })),
  );
}

/** u32 each, padded to 8. */
export function wordsOf(values: readonly number[]): Uint8Array {
  const padded = values.length % 2 === 0 ? values : [...values, 0];
  return new Uint8Array(Uint32Array.from(padded).buffer);
}

/** One blob a key. */
export function lookupPayload(keys: readonly string[]): Uint8Array {
  const ends = wordsOf(keys.map((_, index) => index + 1));
  const sizes = new Uint8Array(BigUint64Array.from(keys, () => OBJECT_BYTES).buffer);
  return Buffer.concat([encodeKeys(keys), ends, sizes]);
}

export interface FoundKey {
  keyIndex: number;
  code: StatusCode;
  message: string;
  result: ResultRecord;
}

/** One part of the answer to a lookup; the slices are the transfer's affair. */
export function decodeFound(payload: Uint8Array): FoundKey[] {
  const view = viewOf(payload);
  const count = view.getUint32(0, true);
  const slices = view.getUint32(4, true);
  const messagesAt = LOOKUP_REPLY_BYTES + count * FOUND_RECORD_BYTES + slices * SLICE_RECORD_BYTES;
  return Array.from({ length: count }, (_, at) => {
    const start = LOOKUP_REPLY_BYTES + at * FOUND_RECORD_BYTES;
    const record = payload.slice(start + FOUND_RECORD_BYTES - RESULT_RECORD_BYTES, start + FOUND_RECORD_BYTES);
    const textAt = messagesAt + view.getUint32(start + 8, true);
    const text = payload.subarray(textAt, textAt + view.getUint32(start + 12, true));
    return {
      keyIndex: view.getUint32(start, true),
      code: view.getUint32(start + 4, true),
      message: Buffer.from(text).toString("utf8"),
      result: decodeResults(record)[0] as ResultRecord,
    };
  });
}
