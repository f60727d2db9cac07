/**
 * Which keys are allowed, and whether a KeyBatch is what it says it is. Batches come from other processes: nothing in
 * them is believed before `checkBatch` has passed.
 *
 * Keys of a tenant other than the default one begin with its number, 16 lower-case hexadecimal digits, and the byte
 * 0x1f, put there by the sidecar: "0123456789abcdef\x1fkey". No rule allows 0x1f in a user's key, so no key of one
 * tenant is ever that of another, and no user can write a prefix. Rule and limit of length are those of what follows
 * it.
 */
import {
  KEY_BATCH_HEADER_BYTES,
  KEY_BYTES_MAX,
  KeyBatchHeader,
  CALL_MALFORMED_BATCH,
  CALL_OK,
  CALL_OUT_OF_MEMORY,
} from "./layout";
import { equalBytes, hashBytes, tableSeed } from "./hash";
import { allocateScratch } from "./memory";

export const RULE_STRICT: u32 = 0;
export const RULE_EXTENDED: u32 = 1;
const STRICT_BYTES_MAX: u32 = 255;

// Reasons of a fault, in the order in which they are looked for; one key's first reason counts.
export const REASON_NONE: u32 = 0;
export const REASON_MALFORMED_BATCH: u32 = 1;
export const REASON_TOO_MANY: u32 = 2;
export const REASON_NO_KEYS: u32 = 3;
export const REASON_EMPTY: u32 = 4;
export const REASON_TOO_LONG: u32 = 5;
export const REASON_FORBIDDEN_BYTE: u32 = 6;
export const REASON_DUPLICATE: u32 = 7;
/** Not a fault of the keys: the module's memory is used up. */
export const REASON_OUT_OF_MEMORY: u32 = 8;

// The table of each rule: 256 bits, of which those of bytes from 0x80 on are all 0 and not stored. Bit `byte >> 4` of
// row `byte & 15` says whether the byte is allowed, so that one shuffle answers for sixteen bytes.
const TABLE_BYTES: usize = 16;
const tables = memory.data(32);

/** The rule itself; the tables are made from it. */
function isAllowed(rule: u32, byte: u32): bool {
  if (byte >= 0x30 && byte <= 0x39) return true; // 0-9
  if (byte >= 0x41 && byte <= 0x5a) return true; // A-Z
  if (byte >= 0x61 && byte <= 0x7a) return true; // a-z
  switch (byte) {
    case 0x21: // !
    case 0x23: // #
    case 0x25: // %
    case 0x28: // (
    case 0x29: // )
    case 0x2a: // *
    case 0x2b: // +
    case 0x2d: // -
    case 0x3a: // :
    case 0x3b: // ;
    case 0x3d: // =
    case 0x40: // @
    case 0x5e: // ^
    case 0x5f: // _
      return true;
    case 0x2e: // .
      return rule == RULE_EXTENDED;
    default:
      return false;
  }
}

function makeTables(): void {
  for (let rule: u32 = 0; rule < 2; rule += 1) {
    for (let byte: u32 = 0; byte < 128; byte += 1) {
      if (!isAllowed(rule, byte)) continue;
      const row = tables + <usize>rule * TABLE_BYTES + (byte & 15);
      store<u8>(row, load<u8>(row) | <u8>((<u32>1) << (byte >> 4)));
    }
  }
}
makeTables();

export function isByteAllowed(rule: u32, byte: u32): bool {
  if (byte >= 128) return false;
  return ((load<u8>(tables + <usize>rule * TABLE_BYTES + (byte & 15)) >> (byte >> 4)) & 1) != 0;
}

export function bytesMaxOf(rule: u32): u32 {
  return rule == RULE_EXTENDED ? KEY_BYTES_MAX : STRICT_BYTES_MAX;
}

const TENANT_DIGITS: u32 = 16;
const TENANT_END: u8 = 0x1f;

/** Bytes of the tenant that a key begins with, 0 if it begins with none. */
export function tenantPrefixBytes(key: usize, bytes: u32): u32 {
  if (bytes <= TENANT_DIGITS || load<u8>(key + TENANT_DIGITS) != TENANT_END) return 0;
  for (let at: usize = 0; at < TENANT_DIGITS; at += 1) {
    const digit: u32 = load<u8>(key + at);
    if (digit - 0x30 > 9 && digit - 0x61 > 5) return 0;
  }
  return TENANT_DIGITS + 1;
}

// A checked batch: one at a time, that of the running call.
export let batchCount: u32 = 0;
export let batchEnds: usize = 0;
export let batchBytes: usize = 0;

/** Takes a batch in use if its counts, ends and length fit together; else there is no batch in use. */
export function checkBatch(pointer: usize, length: u32): u32 {
  batchCount = 0;
  if (length < <u32>KEY_BATCH_HEADER_BYTES) return CALL_MALFORMED_BATCH;
  const header = changetype<KeyBatchHeader>(pointer);
  const count = header.count;
  const keyBytes = header.keyBytes;
  const exact = <u64>KEY_BATCH_HEADER_BYTES + (<u64>count << 2) + <u64>keyBytes;
  if (((exact + 7) & ~7) != <u64>length) return CALL_MALFORMED_BATCH;
  const ends = pointer + KEY_BATCH_HEADER_BYTES;
  let before: u32 = 0;
  let ordered: bool = true;
  for (let index: u32 = 0; index < count; index += 1) {
    const end = load<u32>(ends + (<usize>index << 2));
    ordered = ordered & (end >= before);
    before = end;
  }
  if (!ordered || before != keyBytes) return CALL_MALFORMED_BATCH;
  batchCount = count;
  batchEnds = ends;
  batchBytes = ends + (<usize>count << 2);
  return CALL_OK;
}

// @ts-ignore: decorator
@inline
export function keyStart(index: u32): u32 {
  return index == 0 ? 0 : load<u32>(batchEnds + (<usize>(index - 1) << 2));
}

// @ts-ignore: decorator
@inline
export function keyEnd(index: u32): u32 {
  return load<u32>(batchEnds + (<usize>index << 2));
}

/** Hashes of all keys of the batch in use, u64 each, in scratch; 0 if there is no memory. */
export function hashBatch(count: u32, seed: u64): usize {
  const hashes = allocateScratch(<u64>count << 3);
  if (hashes == 0) return 0;
  let start: u32 = 0;
  for (let index: u32 = 0; index < count; index += 1) {
    const end = keyEnd(index);
    store<u64>(hashes + (<usize>index << 3), hashBytes(batchBytes + start, end - start, seed));
    start = end;
  }
  return hashes;
}

export let faultIndex: i32 = -1;
export let faultDetail: u32 = 0;

function fault(reason: u32, index: i32, detail: u32): u32 {
  faultIndex = index;
  faultDetail = detail;
  return reason;
}

/**
 * Reason of the first fault (`faultIndex`, `faultDetail`), or REASON_NONE. `plain` not 0: a key with a tenant is
 * refused, since 0x1f is.
 */
export function validateBatch(pointer: usize, length: u32, rule: u32, keysMax: u32, plain: u32): u32 {
  if (checkBatch(pointer, length) != CALL_OK) return fault(REASON_MALFORMED_BATCH, -1, length);
  if (batchCount > keysMax) return fault(REASON_TOO_MANY, -1, batchCount);
  if (batchCount == 0) return fault(REASON_NO_KEYS, -1, 0);
  // A key that breaks the rule and comes after a duplicate is not the first fault, so both are looked for.
  const single = findSingleFault(rule, plain != 0);
  const singleIndex = faultIndex;
  const singleDetail = faultDetail;
  const checked = single == REASON_NONE ? batchCount : <u32>singleIndex;
  const duplicate = findDuplicate(checked);
  return duplicate == REASON_NONE ? fault(single, singleIndex, singleDetail) : duplicate;
}

/** The first key that breaks the rule by itself. */
function findSingleFault(rule: u32, plain: bool): u32 {
  const bytesMax = bytesMaxOf(rule);
  const bytesGood = allBytesAllowed(rule, batchBytes, load<u32>(batchEnds + (<usize>(batchCount - 1) << 2)));
  let start: u32 = 0;
  for (let index: u32 = 0; index < batchCount; index += 1) {
    const end = keyEnd(index);
    // Where all bytes are allowed, none ends a tenant.
    if (!bytesGood && !plain) start += tenantPrefixBytes(batchBytes + start, end - start);
    const bytes = end - start;
    if (bytes == 0) return fault(REASON_EMPTY, <i32>index, 0);
    if (bytes > bytesMax) return fault(REASON_TOO_LONG, <i32>index, bytes);
    if (!bytesGood && !allBytesAllowed(rule, batchBytes + start, bytes)) {
      return fault(REASON_FORBIDDEN_BYTE, <i32>index, firstForbidden(rule, batchBytes + start));
    }
    start = end;
  }
  return fault(REASON_NONE, -1, 0);
}

/** REQUIRES: there is one. */
function firstForbidden(rule: u32, pointer: usize): u32 {
  let at = pointer;
  while (isByteAllowed(rule, load<u8>(at))) at += 1;
  return load<u8>(at);
}

/** Asked about many keys at once too, since they lie one behind the other. */
function allBytesAllowed(rule: u32, pointer: usize, bytes: u32): bool {
  const rows = v128.load(tables + <usize>rule * TABLE_BYTES);
  const bits = i8x16(1, 2, 4, 8, 16, 32, 64, -128, 0, 0, 0, 0, 0, 0, 0, 0);
  const low = i8x16.splat(15);
  let at = pointer;
  const end = pointer + bytes;
  let good = i8x16.splat(-1);
  while (at + 16 <= end) {
    const text = v128.load(at);
    const row = i8x16.swizzle(rows, v128.and(text, low));
    const bit = i8x16.swizzle(bits, i8x16.shr_u(text, 4));
    good = v128.and(good, i8x16.ne(v128.and(row, bit), i8x16.splat(0)));
    at += 16;
  }
  if (!i8x16.all_true(good)) return false;
  while (at < end) {
    if (!isByteAllowed(rule, load<u8>(at))) return false;
    at += 1;
  }
  return true;
}

// Set of the keys seen so far, by open addressing at half load. 0 is free, else index + 1.
function findDuplicate(count: u32): u32 {
  if (count < 2) return REASON_NONE;
  const hashes = hashBatch(count, tableSeed);
  const slots: u32 = 1 << (33 - clz<u32>(count - 1));
  const table = allocateScratch(<u64>slots << 2);
  if (hashes == 0 || table == 0) return fault(REASON_OUT_OF_MEMORY, -1, 0);
  memory.fill(table, 0, <usize>slots << 2);
  const mask = slots - 1;
  for (let index: u32 = 0; index < count; index += 1) {
    const hash = load<u64>(hashes + (<usize>index << 3));
    let slot = <u32>(hash >> 32) & mask;
    let seen = load<u32>(table + (<usize>slot << 2));
    while (seen != 0) {
      if (load<u64>(hashes + (<usize>(seen - 1) << 3)) == hash && equalKeys(seen - 1, index)) {
        return fault(REASON_DUPLICATE, <i32>index, seen - 1);
      }
      slot = (slot + 1) & mask;
      seen = load<u32>(table + (<usize>slot << 2));
    }
    store<u32>(table + (<usize>slot << 2), index + 1);
  }
  return REASON_NONE;
}

function equalKeys(left: u32, right: u32): bool {
  const leftStart = keyStart(left);
  const rightStart = keyStart(right);
  const bytes = keyEnd(left) - leftStart;
  if (bytes != keyEnd(right) - rightStart) return false;
  return equalBytes(batchBytes + leftStart, batchBytes + rightStart, bytes);
}
