/**
 * The hash ring that places metadata. Each member has tokens, a number of them by its weight; a key belongs to the member
 * of the first token at or above the key's hash, round the end to the first.
 *
 * Tokens come from the member's name alone. So a member that restarts owns the same keys, and one that joins takes keys
 * only for itself: a share that varies by 1 / sqrt(tokens) around the fair one, as everybody's share does.
 */
import {
  CALL_BAD_ARGUMENT,
  CALL_MALFORMED_RECORDS,
  CALL_OK,
  CALL_OUT_OF_MEMORY,
  GROUP_RECORD_BYTES,
  GroupRecord,
  KEY_BATCH_HEADER_BYTES,
  KeyBatchHeader,
  MEMBER_ID_MAX,
  MEMBER_RECORD_BYTES,
  MemberRecord,
} from "./layout";
import { hashBytes, RING_SEED, splitMix } from "./hash";
import { batchBytes, batchCount, checkBatch, hashBatch, keyEnd, keyStart } from "./key";
import { beginNumbers, memberCount, numberOf } from "./member-numbers";
import { allocateRun, allocateScratch, freeRun, pagesFor } from "./memory";

/** Tokens of a member of weight 1. bench/wasm-ring.mjs measures what other numbers give. */
export const TOKENS_PER_WEIGHT: u32 = 3072;
/** Bounds the ring's memory: 256 MiB of tokens. */
const TOKENS_MAX: u32 = 1 << 25;

//  The ring's run:  prefix u32 x buckets │ entries u64 x (tokens + 1)
//  An entry is a token's upper 48 bits and the member's id below. Entries are sorted; `prefix[b]` is the position of the
//  first one whose upper bits are at least b. The last entry stands for the way round.
const TOKEN_MASK: u64 = ~0xffff;
let ringRun: usize = 0;
let ringPages: u32 = 0;
let prefix: usize = 0;
let entries: usize = 0;
let shift: u64 = 0;
export let ringTokens: u32 = 0;

// A ring that was kept to be compared with (`keepRing`); its run may be the one that is in use.
let keptRun: usize = 0;
let keptPages: u32 = 0;
let keptPrefix: usize = 0;
let keptEntries: usize = 0;
let keptShift: u64 = 0;
let keptTokens: u32 = 0;

export function ringEntries(): usize {
  return entries;
}

/** Replaces the ring. Input: MemberRecord x count, then the names. On failure the ring stays as it was. */
export function setRingFrom(pointer: usize, length: u32, count: u32): u32 {
  let tokens: u64 = 0;
  const namesAt = <u64>count * MEMBER_RECORD_BYTES;
  if (namesAt > length) return CALL_MALFORMED_RECORDS;
  for (let index: u32 = 0; index < count; index += 1) {
    const member = changetype<MemberRecord>(pointer + <usize>index * MEMBER_RECORD_BYTES);
    if (member.id == 0 || member.id > MEMBER_ID_MAX) return CALL_BAD_ARGUMENT;
    if (<u64>member.nameOffset + <u64>member.nameBytes > <u64>length - namesAt) return CALL_MALFORMED_RECORDS;
    tokens += member.tokens;
  }
  if (tokens > TOKENS_MAX) return CALL_BAD_ARGUMENT;
  return buildRing(pointer, count, <u32>tokens);
}

function buildRing(pointer: usize, count: u32, tokens: u32): u32 {
  // One or two tokens a bucket: looking one up reads about two entries, which mostly share a cache line.
  const bits: u32 = tokens < 4 ? 1 : 31 - clz<u32>(tokens - 1);
  const buckets: u32 = 1 << bits;
  const prefixBytes = (<u64>buckets + 2) << 2;
  const pages = pagesFor(prefixBytes + ((<u64>tokens + 1) << 3));
  const run = allocateRun(pages);
  if (run == 0) return CALL_OUT_OF_MEMORY;
  if (ringRun != 0 && ringRun != keptRun) freeRun(ringRun, ringPages);
  ringRun = run;
  ringPages = pages;
  prefix = run;
  entries = run + <usize>prefixBytes;
  shift = 64 - bits;
  ringTokens = tokens;
  if (tokens == 0) return CALL_OK;
  memory.fill(prefix, 0, <usize>prefixBytes);
  countBuckets(pointer, count);
  let sum: u32 = 0;
  for (let bucket: u32 = 0; bucket < buckets; bucket += 1) {
    const at = prefix + (<usize>bucket << 2);
    const size = load<u32>(at);
    store<u32>(at, sum);
    sum += size;
  }
  scatterTokens(pointer, count);
  sortBuckets(buckets);
  store<u64>(entries + (<usize>tokens << 3), TOKEN_MASK | (load<u64>(entries) & 0xffff));
  return CALL_OK;
}

function nameSeed(pointer: usize, count: u32, index: u32): u64 {
  const member = changetype<MemberRecord>(pointer + <usize>index * MEMBER_RECORD_BYTES);
  return hashBytes(pointer + <usize>count * MEMBER_RECORD_BYTES + member.nameOffset, member.nameBytes, RING_SEED);
}

function countBuckets(pointer: usize, count: u32): void {
  for (let index: u32 = 0; index < count; index += 1) {
    const tokens = changetype<MemberRecord>(pointer + <usize>index * MEMBER_RECORD_BYTES).tokens;
    const seed = nameSeed(pointer, count, index);
    for (let token: u32 = 0; token < tokens; token += 1) {
      const at = prefix + (<usize>(splitMix(seed, token) >> shift) << 2);
      store<u32>(at, load<u32>(at) + 1);
    }
  }
}

/** Puts each token into its bucket; afterwards `prefix[b]` is the end of bucket b. */
function scatterTokens(pointer: usize, count: u32): void {
  for (let index: u32 = 0; index < count; index += 1) {
    const member = changetype<MemberRecord>(pointer + <usize>index * MEMBER_RECORD_BYTES);
    const tokens = member.tokens;
    const id: u64 = member.id;
    const seed = nameSeed(pointer, count, index);
    for (let token: u32 = 0; token < tokens; token += 1) {
      const value = splitMix(seed, token);
      const at = prefix + (<usize>(value >> shift) << 2);
      const position = load<u32>(at);
      store<u32>(at, position + 1);
      store<u64>(entries + (<usize>position << 3), (value & TOKEN_MASK) | id);
    }
  }
}

/** Sorts within each bucket, and turns `prefix` from ends into starts again. */
function sortBuckets(buckets: u32): void {
  let start: u32 = 0;
  for (let bucket: u32 = 0; bucket < buckets; bucket += 1) {
    const at = prefix + (<usize>bucket << 2);
    const end = load<u32>(at);
    for (let sorted = start + 1; sorted < end; sorted += 1) {
      const entry = load<u64>(entries + (<usize>sorted << 3));
      let hole = sorted;
      while (hole > start && load<u64>(entries + (<usize>(hole - 1) << 3)) > entry) {
        store<u64>(entries + (<usize>hole << 3), load<u64>(entries + (<usize>(hole - 1) << 3)));
        hole -= 1;
      }
      store<u64>(entries + (<usize>hole << 3), entry);
    }
    store<u32>(at, start);
    start = end;
  }
}

/** Member that owns a hash; 0 if the ring is empty. */
// @ts-ignore: decorator
@inline
export function ownerOfHash(hash: u64): u32 {
  if (ringTokens == 0) return 0;
  const wanted = hash & TOKEN_MASK;
  let at = entries + (<usize>load<u32>(prefix + (<usize>(hash >> shift) << 2)) << 3);
  let entry = load<u64>(at);
  // Ends at the last entry, which no hash is above.
  while (entry < wanted) {
    at += 8;
    entry = load<u64>(at);
  }
  return <u32>(entry & 0xffff);
}

export let resultPointer: usize = 0;
export let resultBytes: u32 = 0;

/** Result: member id u32 of each key. */
export function ownersOfBatch(pointer: usize, length: u32): u32 {
  const checked = checkBatch(pointer, length);
  if (checked != CALL_OK) return checked;
  const owners = placeBatch();
  if (owners == 0) return CALL_OUT_OF_MEMORY;
  resultPointer = owners;
  resultBytes = batchCount << 2;
  return CALL_OK;
}

/** Keeps the ring that is in use, beside the ones that follow, in the place of the one that was kept before. */
export function keepRing(): void {
  if (keptRun == ringRun) return;
  if (keptRun != 0) freeRun(keptRun, keptPages);
  keptRun = ringRun;
  keptPages = ringPages;
  keptPrefix = prefix;
  keptEntries = entries;
  keptShift = shift;
  keptTokens = ringTokens;
}

/** Result: member id u32 of each key, of the owner under the ring that was kept; 0 if none was. */
export function keptOwnersOfBatch(pointer: usize, length: u32): u32 {
  swapRings();
  const status = ownersOfBatch(pointer, length);
  swapRings();
  return status;
}

/** The two don't differ in anything else. Nothing between two swaps takes or frees a ring's run. */
function swapRings(): void {
  const run = ringRun;
  const pages = ringPages;
  const firstPrefix = prefix;
  const firstEntries = entries;
  const firstShift = shift;
  const tokens = ringTokens;
  ringRun = keptRun;
  ringPages = keptPages;
  prefix = keptPrefix;
  entries = keptEntries;
  shift = keptShift;
  ringTokens = keptTokens;
  keptRun = run;
  keptPages = pages;
  keptPrefix = firstPrefix;
  keptEntries = firstEntries;
  keptShift = firstShift;
  keptTokens = tokens;
}

/** Owners of the batch in use; hashes first, so that the reads of the ring do not wait for each other. */
function placeBatch(): usize {
  const count = batchCount;
  const hashes = hashBatch(count, RING_SEED);
  const owners = allocateScratch(<u64>count << 2);
  if (hashes == 0 || owners == 0) return 0;
  for (let index: u32 = 0; index < count; index += 1) {
    store<u32>(owners + (<usize>index << 2), ownerOfHash(load<u64>(hashes + (<usize>index << 3))));
  }
  return owners;
}

export let groupCount: u32 = 0;

/** Splits a batch by owner, owners in the order of their first keys. Result: GroupRecord x groupCount. */
export function groupBatch(pointer: usize, length: u32): u32 {
  const checked = checkBatch(pointer, length);
  if (checked != CALL_OK) return checked;
  const count = batchCount;
  const owners = placeBatch();
  const groups = allocateScratch(<u64>min(count, MEMBER_ID_MAX + 1) * GROUP_RECORD_BYTES);
  if (owners == 0 || groups == 0 || !beginNumbers(count)) return CALL_OUT_OF_MEMORY;
  for (let index: u32 = 0; index < count; index += 1) {
    const owner = load<u32>(owners + (<usize>index << 2));
    const known = memberCount;
    const number = numberOf(owner);
    const group = changetype<GroupRecord>(groups + <usize>number * GROUP_RECORD_BYTES);
    if (number == known) {
      group.member = owner;
      group.count = 0;
      group.batchBytes = 0;
      group.cursor = 0;
    }
    group.count += 1;
    group.batchBytes += keyEnd(index) - keyStart(index);
    store<u32>(owners + (<usize>index << 2), number);
  }
  groupCount = memberCount;
  resultPointer = groups;
  resultBytes = groupCount * <u32>GROUP_RECORD_BYTES;
  return fillGroups(groups, owners);
}

/** Lays out each group's indexes and KeyBatch, and copies the keys. `numbers` has the group of each key. */
function fillGroups(groups: usize, numbers: usize): u32 {
  for (let number: u32 = 0; number < groupCount; number += 1) {
    const group = changetype<GroupRecord>(groups + <usize>number * GROUP_RECORD_BYTES);
    const keyBytes = group.batchBytes;
    const exact = <u32>KEY_BATCH_HEADER_BYTES + (group.count << 2) + keyBytes;
    group.batchBytes = (exact + 7) & ~7;
    const indexes = allocateScratch(<u64>group.count << 2);
    const batch = allocateScratch(group.batchBytes);
    if (indexes == 0 || batch == 0) return CALL_OUT_OF_MEMORY;
    group.indexes = <u32>indexes;
    group.batch = <u32>batch;
    const header = changetype<KeyBatchHeader>(batch);
    header.count = group.count;
    header.keyBytes = keyBytes;
    memory.fill(batch + exact, 0, <usize>(group.batchBytes - exact));
    group.count = 0;
  }
  for (let index: u32 = 0; index < batchCount; index += 1) {
    const number = load<u32>(numbers + (<usize>index << 2));
    const group = changetype<GroupRecord>(groups + <usize>number * GROUP_RECORD_BYTES);
    const header = changetype<KeyBatchHeader>(group.batch);
    const start = keyStart(index);
    const bytes = keyEnd(index) - start;
    const ends = <usize>group.batch + KEY_BATCH_HEADER_BYTES;
    memory.copy(ends + (<usize>header.count << 2) + group.cursor, batchBytes + start, bytes);
    group.cursor += bytes;
    store<u32>(ends + (<usize>group.count << 2), group.cursor);
    store<u32>(<usize>group.indexes + (<usize>group.count << 2), index);
    group.count += 1;
  }
  return CALL_OK;
}
