/**
 * Batches of records as the control plane handles them: results that are merged and changed in place, and the payloads
 * of messages with the sidecar. Single records are read and written by src/decision/layout.ts.
 */
import { HbmeshError, StatusCode } from "../base/errors.js";
import {
  COMMIT_RECORD_BYTES,
  FLAG_EXISTED,
  FLAG_OTHER_FAMILY,
  fillMember,
  HELD_OBJECT_BYTES,
  type KeyBatch,
  keyBatchBytes,
  keyCountOf,
  LOCATIONS_MAX,
  type Location,
  RESULT_RECORD_BYTES,
  readU32,
  recordCountOf,
  selectKeys,
  viewOf,
  writeU32,
} from "../decision/index.js";

/**
 * With TRY_AGAIN in answers of owners: asking again soon is of no use, since a worker that may hold the key is missing
 * (vanished.ts).
 */
const FLAG_DOUBT = 4;

/** Results of a batch, one ResultRecord a key, read and changed in place. */
export class Results {
  readonly bytes: Uint8Array;

  /** Throws DATA_INCONSISTENCY unless there is one record for each of `count` keys. */
  constructor(bytes: Uint8Array, count: number) {
    if (bytes.byteLength !== count * RESULT_RECORD_BYTES) {
      const message = `${bytes.byteLength} bytes of results don't fit ${count} keys; install the same release everywhere`;
      throw new HbmeshError(StatusCode.DATA_INCONSISTENCY, message);
    }
    this.bytes = bytes;
  }

  static empty(count: number): Results {
    return new Results(new Uint8Array(count * RESULT_RECORD_BYTES), count);
  }

  get count(): number {
    return this.bytes.byteLength / RESULT_RECORD_BYTES;
  }

  code(index: number): StatusCode {
    return this.#u32(index, 0);
  }

  setCode(index: number, code: StatusCode): void {
    writeU32(this.bytes, index * RESULT_RECORD_BYTES, code);
  }

  existed(index: number): boolean {
    return (this.#u32(index, 4) & FLAG_EXISTED) !== 0;
  }

  setExisted(index: number): void {
    writeU32(this.bytes, index * RESULT_RECORD_BYTES + 4, FLAG_EXISTED);
  }

  /** INVALID because the key is there under another family, which `family` then tells. */
  otherFamily(index: number): boolean {
    return (this.#u32(index, 4) & FLAG_OTHER_FAMILY) !== 0;
  }

  /** TRY_AGAIN, for as long as a missing worker may come back. */
  inDoubt(index: number): boolean {
    return (this.#u32(index, 4) & FLAG_DOUBT) !== 0;
  }

  setInDoubt(index: number): void {
    this.fail(index, StatusCode.TRY_AGAIN);
    writeU32(this.bytes, index * RESULT_RECORD_BYTES + 4, FLAG_DOUBT);
  }

  family(index: number): number {
    return this.#u32(index, 28);
  }

  generation(index: number): bigint {
    return viewOf(this.bytes).getBigUint64(index * RESULT_RECORD_BYTES + 8, true);
  }

  sizeBytes(index: number): bigint {
    return viewOf(this.bytes).getBigUint64(index * RESULT_RECORD_BYTES + 16, true);
  }

  locations(index: number): Location[] {
    return Array.from({ length: this.#locationCount(index) }, (_, n) => ({
      member: this.#u32(index, 32 + 8 * n),
      slot: this.#u32(index, 36 + 8 * n),
    }));
  }

  /** Where to read it: this member itself if it is a location, else the first one; 0 if there is none. */
  sourceFor(index: number, selfId: number): number {
    const count = this.#locationCount(index);
    for (let n = 0; n < count; n++) {
      if (this.#u32(index, 32 + 8 * n) === selfId) {
        return selfId;
      }
    }
    return count === 0 ? 0 : this.#u32(index, 32);
  }

  #locationCount(index: number): number {
    return Math.min(this.#u32(index, 24), LOCATIONS_MAX);
  }

  #u32(index: number, offset: number): number {
    return readU32(this.bytes, index * RESULT_RECORD_BYTES + offset);
  }

  /** Nothing is known of the key but this code. */
  fail(index: number, code: StatusCode): void {
    this.bytes.fill(0, index * RESULT_RECORD_BYTES, (index + 1) * RESULT_RECORD_BYTES);
    this.setCode(index, code);
  }

  record(index: number): Uint8Array {
    return this.bytes.subarray(index * RESULT_RECORD_BYTES, (index + 1) * RESULT_RECORD_BYTES);
  }

  setRecord(index: number, record: Uint8Array): void {
    this.bytes.set(record, index * RESULT_RECORD_BYTES);
  }
}

/** Of these numbers, those at these positions. */
export function pickNumbers(numbers: ArrayLike<number>, positions: ArrayLike<number>): number[] {
  const picked: number[] = [];
  for (let at = 0; at < positions.length; at++) {
    picked.push(numbers[positions[at] as number] as number);
  }
  return picked;
}

/** The keys at these positions (ascending), as a batch of their own; the same batch when it is all of them. */
export function pickKeys(batch: KeyBatch, indexes: ArrayLike<number>): KeyBatch {
  return indexes.length === keyCountOf(batch) ? batch : selectKeys(batch, indexes);
}

/** The records at these positions, one after the other. */
export function pickRecords(records: Uint8Array, recordBytes: number, indexes: ArrayLike<number>): Uint8Array {
  const picked = new Uint8Array(indexes.length * recordBytes);
  for (let at = 0; at < indexes.length; at++) {
    const from = (indexes[at] as number) * recordBytes;
    picked.set(records.subarray(from, from + recordBytes), at * recordBytes);
  }
  return picked;
}

/** A copy of CommitRecords in which each names this member. */
export function stampMember(records: Uint8Array, member: number): Uint8Array {
  const stamped = new Uint8Array(records);
  fillMember(stamped, member);
  return stamped;
}

/**
 * A copy of ResultRecords whose first location is this member's: a sidecar does not know its own id. Throws when the
 * last one is cut short.
 */
export function stampFirstLocation(records: Uint8Array, member: number): Uint8Array {
  const stamped = new Uint8Array(records);
  const view = viewOf(stamped);
  const count = recordCountOf(stamped, RESULT_RECORD_BYTES);
  for (let at = 0; at < count * RESULT_RECORD_BYTES; at += RESULT_RECORD_BYTES) {
    view.setUint32(at + 24, 1, true);
    view.setUint32(at + 32, member, true);
  }
  return stamped;
}

/** A payload that begins with a KeyBatch, cut in two. Throws INVALID when it is too short. */
export function splitKeys(payload: Uint8Array): { keys: KeyBatch; rest: Uint8Array } {
  if (payload.byteLength >= 8) {
    const bytes = keyBatchBytes(readU32(payload, 0), readU32(payload, 4));
    if (bytes <= payload.byteLength) {
      return { keys: payload.subarray(0, bytes), rest: payload.subarray(bytes) };
    }
  }
  throw new HbmeshError(StatusCode.INVALID, `a batch of keys is cut short: ${payload.byteLength} bytes`);
}

/** Throws DATA_INCONSISTENCY unless there is one record a key. */
export function checkRecordCount(records: Uint8Array, recordBytes: number, keys: KeyBatch): void {
  if (records.byteLength !== keyCountOf(keys) * recordBytes) {
    const message = `${records.byteLength} bytes of records don't fit ${keyCountOf(keys)} keys; install the same release everywhere`;
    throw new HbmeshError(StatusCode.DATA_INCONSISTENCY, message);
  }
}

export function alignTo8(bytes: number): number {
  return Math.ceil(bytes / 8) * 8;
}

/** u32 codes; throws DATA_INCONSISTENCY when there are fewer than `count`. */
export function decodeCodes(bytes: Uint8Array, count: number): number[] {
  if (bytes.byteLength < 4 * count) {
    const message = `${bytes.byteLength} bytes are too few for the codes of ${count} objects`;
    throw new HbmeshError(StatusCode.DATA_INCONSISTENCY, message);
  }
  const view = viewOf(bytes);
  return Array.from({ length: count }, (_, index) => view.getUint32(4 * index, true));
}

export function encodeCodes(codes: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(4 * codes.length);
  const view = viewOf(bytes);
  codes.forEach((code, index) => view.setUint32(4 * index, code, true));
  return bytes;
}

export { COMMIT_RECORD_BYTES, HELD_OBJECT_BYTES, RESULT_RECORD_BYTES };
