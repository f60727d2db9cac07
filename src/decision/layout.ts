/**
 * Readers and writers of the flat records that the Wasm module, the sidecar and the owners exchange. The layouts are
 * those of native/queue/layout.h and asm/layout.ts; a contract test compares them. Little endian.
 *
 * Readers trust the length of what they are given only after they looked at it: a buffer that is too short or that
 * contradicts itself raises INVALID.
 *
 * A KeyBatch of the keys "a" and "bcd", 24 bytes:
 *
 *     02 00 00 00  04 00 00 00    count 2, keyBytes 4
 *     01 00 00 00  04 00 00 00    ends 1, 4
 *     61 62 63 64  00 00 00 00    "a" "bcd", zeros to a multiple of 8
 */
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { KeyBatch } from "./decisions.js";

export const KEY_BATCH_HEADER_BYTES = 8;
export const RESULT_RECORD_BYTES = 64;
export const COMMIT_RECORD_BYTES = 24;
export const SLICE_RECORD_BYTES = 32;
export const HELD_OBJECT_BYTES = 16;
export const LOCATIONS_MAX = 4;
/** ResultRecord flag: the key was there. */
export const FLAG_EXISTED = 1;
/** ResultRecord flag: the key is there under another family; nothing was done. */
export const FLAG_OTHER_FAMILY = 2;
/** A lookup of this family finds keys of all of them. */
export const FAMILY_ANY = 255;
/** Family of the device cache: the one in which a member may be several locations of a key. */
export const FAMILY_DEVICE_CACHE = 2;

/** What a tenant's prefix ends with; no user's key has it. */
const TENANT_END = "\x1f";
const TENANT_DIGITS = 16;

const COMMIT_MEMBER_OFFSET = 20;
const RESULT_LOCATIONS_OFFSET = 32;
const LOCATION_BYTES = 8;

/** Where a holder keeps an object: its member id, and the slot in its object table. */
export interface Location {
  member: number;
  slot: number;
}

/** What the directory answers for a key. */
export interface ResultRecord {
  code: StatusCode;
  existed: boolean;
  /** The key is there under another family; nothing was done. */
  otherFamily: boolean;
  generation: bigint;
  bytes: bigint;
  /** What is there: 0 host object, 1 published, 2 device cache. 0 if nothing is. */
  family: number;
  locations: Location[];
}

/** What a holder says of an object that it has. */
export interface CommitRecord extends Location {
  generation: bigint;
  bytes: bigint;
}

/** One piece of a transfer plan: `bytes` from `offset` of the object's payload, over connection `lane`. */
export interface SliceRecord {
  keyIndex: number;
  member: number;
  lane: number;
  firstBlob: number;
  offset: bigint;
  bytes: bigint;
}

/** An object as its holder finds it. */
export interface HeldObject {
  generation: bigint;
  slot: number;
}

/** Bytes as a DataView of just them. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/**
 * A little-endian u32, without the DataView that costs more than the rest of a small batch. The caller knows that the
 * bytes are there.
 */
export function readU32(bytes: Uint8Array, at: number): number {
  const low = (bytes[at] as number) | ((bytes[at + 1] as number) << 8);
  return (low | ((bytes[at + 2] as number) << 16) | ((bytes[at + 3] as number) << 24)) >>> 0;
}

/** As readU32. */
export function writeU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value;
  bytes[at + 1] = value >>> 8;
  bytes[at + 2] = value >>> 16;
  bytes[at + 3] = value >>> 24;
}

/** Length of a KeyBatch, padding included. */
export function keyBatchBytes(count: number, keyBytes: number): number {
  return Math.ceil((KEY_BATCH_HEADER_BYTES + 4 * count + keyBytes) / 8) * 8;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Keys as flat bytes, in UTF-8. Checks nothing: `validateKeys` does. */
export function encodeKeys(keys: readonly string[]): KeyBatch {
  const text = keys.join("");
  const bytesAt = KEY_BATCH_HEADER_BYTES + 4 * keys.length;
  const target = new Uint8Array(keyBatchBytes(keys.length, text.length));
  const ends = new Uint32Array(target.buffer, KEY_BATCH_HEADER_BYTES, keys.length);
  const { read, written } = encoder.encodeInto(text, target.subarray(bytesAt, bytesAt + text.length));
  if (read !== text.length || written !== text.length) {
    return encodeWideKeys(keys);
  }
  // As many bytes as UTF-16 units: all of it is ASCII, and a key's bytes are its units.
  let at = 0;
  let index = 0;
  for (const key of keys) {
    at += key.length;
    ends[index] = at;
    index += 1;
  }
  const view = viewOf(target);
  view.setUint32(0, keys.length, true);
  view.setUint32(4, at, true);
  return target;
}

/**
 * Keys that are not all ASCII: each is encoded by itself, also since halves of a character must not meet across keys.
 */
function encodeWideKeys(keys: readonly string[]): KeyBatch {
  const encoded = keys.map((key) => encoder.encode(key));
  const keyBytes = encoded.reduce((sum, key) => sum + key.byteLength, 0);
  const target = new Uint8Array(keyBatchBytes(keys.length, keyBytes));
  const view = viewOf(target);
  view.setUint32(0, keys.length, true);
  view.setUint32(4, keyBytes, true);
  const bytesAt = KEY_BATCH_HEADER_BYTES + 4 * keys.length;
  let at = 0;
  for (const [index, key] of encoded.entries()) {
    target.set(key, bytesAt + at);
    at += key.byteLength;
    view.setUint32(KEY_BATCH_HEADER_BYTES + 4 * index, at, true);
  }
  return target;
}

/** The key at `index` as raw bytes; a view into the batch. Raises INVALID if the batch does not have it whole. */
export function keyBytesAt(batch: KeyBatch, index: number): Uint8Array {
  const count = keyCountOf(batch);
  if (!Number.isInteger(index) || index < 0 || index >= count) {
    throw malformed(`it has ${count} keys and key ${index} was asked for`);
  }
  const bytesAt = KEY_BATCH_HEADER_BYTES + 4 * count;
  const start = index === 0 ? 0 : readU32(batch, KEY_BATCH_HEADER_BYTES + 4 * (index - 1));
  const end = readU32(batch, KEY_BATCH_HEADER_BYTES + 4 * index);
  if (end < start || bytesAt + end > batch.byteLength) {
    throw malformed(`key ${index} lies outside of it`);
  }
  return batch.subarray(bytesAt + start, bytesAt + end);
}

/** Number of keys that the header tells. Raises INVALID if the batch has no room for so many. */
export function keyCountOf(batch: KeyBatch): number {
  if (batch.byteLength < KEY_BATCH_HEADER_BYTES) {
    throw malformed(`it has ${batch.byteLength} bytes, less than its header`);
  }
  const count = readU32(batch, 0);
  if (KEY_BATCH_HEADER_BYTES + 4 * count > batch.byteLength) {
    throw malformed(`its header tells of ${count} keys, for which ${batch.byteLength} bytes are too few`);
  }
  return count;
}

export function decodeKey(batch: KeyBatch, index: number): string {
  return decoder.decode(keyBytesAt(batch, index));
}

/** The keys as text; bytes that are no UTF-8 become U+FFFD. */
export function decodeKeys(batch: KeyBatch): string[] {
  const count = keyCountOf(batch);
  const keys: string[] = [];
  for (let index = 0; index < count; index += 1) {
    keys.push(decodeKey(batch, index));
  }
  return keys;
}

/**
 * Splits what a sidecar puts before the keys of a tenant from the key as its user knows it:
 * "0123456789abcdef\x1fkey" is "key" of the tenant "0123456789abcdef". Without such a prefix, the tenant is undefined.
 */
export function splitTenant(key: string): { tenant: string | undefined; key: string } {
  const tenant = key.slice(0, TENANT_DIGITS);
  if (key[TENANT_DIGITS] !== TENANT_END || !/^[0-9a-f]{16}$/.test(tenant)) {
    return { tenant: undefined, key };
  }
  return { tenant, key: key.slice(TENANT_DIGITS + 1) };
}

/** A KeyBatch of some keys of another, in the order given. */
export function selectKeys(batch: KeyBatch, indexes: ArrayLike<number>): KeyBatch {
  const keys: Uint8Array[] = [];
  let keyBytes = 0;
  for (let position = 0; position < indexes.length; position += 1) {
    const key = keyBytesAt(batch, indexes[position] as number);
    keys.push(key);
    keyBytes += key.byteLength;
  }
  const selected = new Uint8Array(keyBatchBytes(keys.length, keyBytes));
  const view = viewOf(selected);
  view.setUint32(0, keys.length, true);
  view.setUint32(4, keyBytes, true);
  const bytesAt = KEY_BATCH_HEADER_BYTES + 4 * keys.length;
  let end = 0;
  for (const [position, key] of keys.entries()) {
    selected.set(key, bytesAt + end);
    end += key.byteLength;
    view.setUint32(KEY_BATCH_HEADER_BYTES + 4 * position, end, true);
  }
  return selected;
}

function malformed(cause: string): HbmeshError {
  return new HbmeshError(
    StatusCode.INVALID,
    `The key batch is damaged: ${cause}. It was not written by this version of hbmesh; check that all processes run the same one.`,
  );
}

/** How many records of `recordBytes` a buffer has. Raises INVALID unless they fill it. */
export function recordCountOf(records: Uint8Array, recordBytes: number): number {
  if (records.byteLength % recordBytes !== 0) {
    throw new HbmeshError(
      StatusCode.INVALID,
      `${records.byteLength} bytes are no whole number of ${recordBytes}-byte records; check that all processes run the same version of hbmesh.`,
    );
  }
  return records.byteLength / recordBytes;
}

function viewOfRecord(records: Uint8Array, index: number, recordBytes: number): DataView {
  const count = recordCountOf(records, recordBytes);
  if (!Number.isInteger(index) || index < 0 || index >= count) {
    throw new HbmeshError(StatusCode.OUT_OF_RANGE, `Record ${index} was asked for, and there are ${count}.`);
  }
  return new DataView(records.buffer, records.byteOffset + index * recordBytes, recordBytes);
}

export function readResult(records: Uint8Array, index: number): ResultRecord {
  const view = viewOfRecord(records, index, RESULT_RECORD_BYTES);
  const locations: Location[] = [];
  const locationCount = Math.min(view.getUint32(24, true), LOCATIONS_MAX);
  for (let position = 0; position < locationCount; position += 1) {
    const at = RESULT_LOCATIONS_OFFSET + position * LOCATION_BYTES;
    locations.push({ member: view.getUint32(at, true), slot: view.getUint32(at + 4, true) });
  }
  return {
    code: view.getUint32(0, true),
    existed: (view.getUint32(4, true) & FLAG_EXISTED) !== 0,
    otherFamily: (view.getUint32(4, true) & FLAG_OTHER_FAMILY) !== 0,
    generation: view.getBigUint64(8, true),
    bytes: view.getBigUint64(16, true),
    family: view.getUint32(28, true),
    locations,
  };
}

export function writeResult(records: Uint8Array, index: number, result: ResultRecord): void {
  const view = viewOfRecord(records, index, RESULT_RECORD_BYTES);
  if (result.locations.length > LOCATIONS_MAX) {
    throw new HbmeshError(
      StatusCode.OUT_OF_RANGE,
      `A result has at most ${LOCATIONS_MAX} locations, not ${result.locations.length}.`,
    );
  }
  view.setUint32(0, result.code, true);
  view.setUint32(4, (result.existed ? FLAG_EXISTED : 0) | (result.otherFamily ? FLAG_OTHER_FAMILY : 0), true);
  view.setBigUint64(8, result.generation, true);
  view.setBigUint64(16, result.bytes, true);
  view.setUint32(24, result.locations.length, true);
  view.setUint32(28, result.family, true);
  for (let position = 0; position < LOCATIONS_MAX; position += 1) {
    const at = RESULT_LOCATIONS_OFFSET + position * LOCATION_BYTES;
    const location = result.locations[position];
    view.setUint32(at, location?.member ?? 0, true);
    view.setUint32(at + 4, location?.slot ?? 0, true);
  }
}

export function encodeResults(results: readonly ResultRecord[]): Uint8Array {
  const records = new Uint8Array(results.length * RESULT_RECORD_BYTES);
  for (const [index, result] of results.entries()) {
    writeResult(records, index, result);
  }
  return records;
}

export function decodeResults(records: Uint8Array): ResultRecord[] {
  return decodeAll(records, RESULT_RECORD_BYTES, readResult);
}

export function readCommit(records: Uint8Array, index: number): CommitRecord {
  const view = viewOfRecord(records, index, COMMIT_RECORD_BYTES);
  return {
    generation: view.getBigUint64(0, true),
    bytes: view.getBigUint64(8, true),
    slot: view.getUint32(16, true),
    member: view.getUint32(20, true),
  };
}

export function writeCommit(records: Uint8Array, index: number, commit: CommitRecord): void {
  const view = viewOfRecord(records, index, COMMIT_RECORD_BYTES);
  view.setBigUint64(0, commit.generation, true);
  view.setBigUint64(8, commit.bytes, true);
  view.setUint32(16, commit.slot, true);
  view.setUint32(20, commit.member, true);
}

export function encodeCommits(commits: readonly CommitRecord[]): Uint8Array {
  const records = new Uint8Array(commits.length * COMMIT_RECORD_BYTES);
  for (const [index, commit] of commits.entries()) {
    writeCommit(records, index, commit);
  }
  return records;
}

export function decodeCommits(records: Uint8Array): CommitRecord[] {
  return decodeAll(records, COMMIT_RECORD_BYTES, readCommit);
}

/** Writes the member into every record: a sidecar does not know its own id. */
export function fillMember(records: Uint8Array, member: number): void {
  const count = recordCountOf(records, COMMIT_RECORD_BYTES);
  for (let index = 0; index < count; index += 1) {
    writeU32(records, index * COMMIT_RECORD_BYTES + COMMIT_MEMBER_OFFSET, member);
  }
}

/** The member that a record of a batch names. Raises OUT_OF_RANGE if there is no such record. */
export function memberOfCommit(records: Uint8Array, index: number): number {
  if ((index + 1) * COMMIT_RECORD_BYTES > records.byteLength) {
    throw new HbmeshError(StatusCode.OUT_OF_RANGE, `Record ${index} was asked for, and there are fewer.`);
  }
  return readU32(records, index * COMMIT_RECORD_BYTES + COMMIT_MEMBER_OFFSET);
}

export function readSlice(records: Uint8Array, index: number): SliceRecord {
  const view = viewOfRecord(records, index, SLICE_RECORD_BYTES);
  return {
    keyIndex: view.getUint32(0, true),
    member: view.getUint32(4, true),
    lane: view.getUint32(8, true),
    firstBlob: view.getUint32(12, true),
    offset: view.getBigUint64(16, true),
    bytes: view.getBigUint64(24, true),
  };
}

export function writeSlice(records: Uint8Array, index: number, slice: SliceRecord): void {
  const view = viewOfRecord(records, index, SLICE_RECORD_BYTES);
  view.setUint32(0, slice.keyIndex, true);
  view.setUint32(4, slice.member, true);
  view.setUint32(8, slice.lane, true);
  view.setUint32(12, slice.firstBlob, true);
  view.setBigUint64(16, slice.offset, true);
  view.setBigUint64(24, slice.bytes, true);
}

export function decodeSlices(records: Uint8Array): SliceRecord[] {
  return decodeAll(records, SLICE_RECORD_BYTES, readSlice);
}

export function readHeld(records: Uint8Array, index: number): HeldObject {
  const view = viewOfRecord(records, index, HELD_OBJECT_BYTES);
  return { generation: view.getBigUint64(0, true), slot: view.getUint32(8, true) };
}

export function writeHeld(records: Uint8Array, index: number, held: HeldObject): void {
  const view = viewOfRecord(records, index, HELD_OBJECT_BYTES);
  view.setBigUint64(0, held.generation, true);
  view.setUint32(8, held.slot, true);
  view.setUint32(12, 0, true);
}

export function encodeHeld(objects: readonly HeldObject[]): Uint8Array {
  const records = new Uint8Array(objects.length * HELD_OBJECT_BYTES);
  for (const [index, held] of objects.entries()) {
    writeHeld(records, index, held);
  }
  return records;
}

export function decodeHeld(records: Uint8Array): HeldObject[] {
  return decodeAll(records, HELD_OBJECT_BYTES, readHeld);
}

function decodeAll<T>(records: Uint8Array, recordBytes: number, read: (records: Uint8Array, index: number) => T): T[] {
  const decoded: T[] = [];
  const count = recordCountOf(records, recordBytes);
  for (let index = 0; index < count; index += 1) {
    decoded.push(read(records, index));
  }
  return decoded;
}
