/**
 * The hash ring that places metadata. Each member has tokens, a number of them by its weight; a key belongs to the
 * member of the first token at or above the key's hash, round the end to the first.
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
import { RING_SEED } from "./hash";
import { batchBytes, batchCount, checkBatch, hashBatch, keyEnd, keyStart } from "./key";
import { beginNumbers, memberCount, numberOf } from "./member-numbers";
import { allocateRun, allocateScratch, freeRun, pagesFor } from "./memory";
import { bucketBits, buildTokens, mergeTokens, RING_MEMBER_BYTES, readMembers, TOKEN_MASK } from "./ring-build";

/** Tokens of a member of weight 1. bench/wasm-ring.mjs measures what other numbers give. */
export const TOKENS_PER_WEIGHT: u32 = 3072;
/** Bounds the ring's memory: 256 MiB of tokens. */
const TOKENS_MAX: u32 = 1 << 25;

//  The ring's run:  prefix u32 x buckets │ entries u64 x (tokens + 1) │ RingMember x members
//  An entry is a token's upper 48 bits and the member's id below. Entries are sorted; `prefix[b]` is the position of
//  the first one whose upper bits are at least b. The last entry stands for the way round.
let ringRun: usize = 0;
let ringPages: u32 = 0;
let prefix: usize = 0;
let entries: usize = 0;
let shift: u64 = 0;
/** RingMember x membersCount of the ring in use. */
let members: usize = 0;
let membersCount: u32 = 0;
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
  const bits = bucketBits(tokens);
  const prefixBytes = (<u64>(1 << bits) + 2) << 2;
  const entriesBytes = (<u64>tokens + 1) << 3;
  const pages = pagesFor(prefixBytes + entriesBytes + <u64>count * RING_MEMBER_BYTES);
  const run = allocateRun(pages);
  if (run == 0) return CALL_OUT_OF_MEMORY;
  const newEntries = run + <usize>prefixBytes;
  const newMembers = newEntries + <usize>entriesBytes;
  readMembers(pointer, count, newMembers);
  if (tokens > 0) {
    const isMerged =
      ringTokens > 0 &&
      mergeTokens(members, membersCount, entries, ringTokens, newMembers, count, tokens, run, bits, newEntries);
    if (!isMerged) buildTokens(newMembers, count, run, bits, newEntries);
    store<u64>(newEntries + (<usize>tokens << 3), TOKEN_MASK | (load<u64>(newEntries) & 0xffff));
  }
  if (ringRun != 0 && ringRun != keptRun) freeRun(ringRun, ringPages);
  ringRun = run;
  ringPages = pages;
  prefix = run;
  entries = newEntries;
  shift = 64 - bits;
  members = newMembers;
  membersCount = count;
  ringTokens = tokens;
  return CALL_OK;
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
