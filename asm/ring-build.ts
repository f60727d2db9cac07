/**
 * Builds the sorted tokens of a ring: all of them anew, or from those of the ring before it, of which a change of a few
 * members leaves most as they were. Both give the same bytes. At 1,000 members there are 3 million tokens, and hashing
 * and scattering them costs ten times as much as merging those that came.
 */
import { hashBytes, RING_SEED, splitMix } from "./hash";
import { MEMBER_ID_MAX, MEMBER_RECORD_BYTES, MemberRecord } from "./layout";
import { allocateScratch } from "./memory";

//  RingMember, 16 bytes: what a ring keeps of each of its members, so that the next ring sees what it shares with it
//  0 seed │ 8 id │ 12 tokens
@unmanaged
export class RingMember {
  seed: u64;
  id: u32;
  tokens: u32;
}
export const RING_MEMBER_BYTES: usize = 16;

/** An entry is a token's upper 48 bits and the member's id below. */
export const TOKEN_MASK: u64 = ~0xffff;

/**
 * Bits of a token that choose its bucket. One or two tokens a bucket: looking one up reads about two entries, which
 * mostly share a cache line.
 */
export function bucketBits(tokens: u32): u32 {
  return tokens < 4 ? 1 : 31 - clz<u32>(tokens - 1);
}

// @ts-ignore: decorator
@inline
function memberAt(table: usize, index: u32): RingMember {
  return changetype<RingMember>(table + <usize>index * RING_MEMBER_BYTES);
}

/** RingMember x count from MemberRecord x count and the names behind them, which were checked. */
export function readMembers(records: usize, count: u32, table: usize): void {
  const names = records + <usize>count * MEMBER_RECORD_BYTES;
  for (let index: u32 = 0; index < count; index += 1) {
    const record = changetype<MemberRecord>(records + <usize>index * MEMBER_RECORD_BYTES);
    const member = memberAt(table, index);
    member.seed = hashBytes(names + record.nameOffset, record.nameBytes, RING_SEED);
    member.id = record.id;
    member.tokens = record.tokens;
  }
}

/** Sorted entries of all tokens of these members, and for each bucket the position of its first one. */
export function buildTokens(table: usize, count: u32, prefix: usize, bits: u32, entries: usize): void {
  const buckets: u32 = 1 << bits;
  const shift: u64 = 64 - bits;
  memory.fill(prefix, 0, <usize>buckets << 2);
  countBuckets(table, count, prefix, shift);
  let sum: u32 = 0;
  for (let bucket: u32 = 0; bucket < buckets; bucket += 1) {
    const at = prefix + (<usize>bucket << 2);
    const size = load<u32>(at);
    store<u32>(at, sum);
    sum += size;
  }
  scatterTokens(table, count, prefix, shift, entries);
  sortBuckets(prefix, buckets, entries);
}

function countBuckets(table: usize, count: u32, prefix: usize, shift: u64): void {
  for (let index: u32 = 0; index < count; index += 1) {
    const seed = memberAt(table, index).seed;
    const tokens = memberAt(table, index).tokens;
    for (let token: u32 = 0; token < tokens; token += 1) {
      const at = prefix + (<usize>(splitMix(seed, token) >> shift) << 2);
      store<u32>(at, load<u32>(at) + 1);
    }
  }
}

/** Puts each token into its bucket; afterwards `prefix[b]` is the end of bucket b. */
function scatterTokens(table: usize, count: u32, prefix: usize, shift: u64, entries: usize): void {
  for (let index: u32 = 0; index < count; index += 1) {
    const seed = memberAt(table, index).seed;
    const tokens = memberAt(table, index).tokens;
    const id: u64 = memberAt(table, index).id;
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
function sortBuckets(prefix: usize, buckets: u32, entries: usize): void {
  let start: u32 = 0;
  for (let bucket: u32 = 0; bucket < buckets; bucket += 1) {
    const at = prefix + (<usize>bucket << 2);
    const end = load<u32>(at);
    for (let sorted = start + 1; sorted < end; sorted += 1) {
      insertEntry(entries + (<usize>start << 3), entries + (<usize>sorted << 3), load<u64>(entries + (<usize>sorted << 3)));
    }
    store<u32>(at, start);
    start = end;
  }
}

/** Puts an entry where it belongs among the sorted ones from `first` to before `end`. */
// @ts-ignore: decorator
@inline
function insertEntry(first: usize, end: usize, entry: u64): void {
  let hole = end;
  while (hole > first && load<u64>(hole - 8) > entry) {
    store<u64>(hole, load<u64>(hole - 8));
    hole -= 8;
  }
  store<u64>(hole, entry);
}

// What a merge works on: the ids that members of the old ring have now (u16 by old id, 0: gone), and members that it
// did not have.
let renames: usize = 0;
let added: usize = 0;
let addedCount: u32 = 0;
let addedTokens: u32 = 0;
let keptTokens: u32 = 0;

/**
 * As buildTokens, from the entries of the ring before. False if that does not pay, there is no memory for it, or the
 * old ring has an id twice: nothing is built then. `old` and `oldEntries`: the old ring's.
 */
export function mergeTokens(
  old: usize,
  oldCount: u32,
  oldEntries: usize,
  oldTokens: u32,
  table: usize,
  count: u32,
  tokens: u32,
  prefix: usize,
  bits: u32,
  entries: usize,
): bool {
  if (!compareMembers(old, oldCount, table, count)) return false;
  if (<u64>addedTokens * 2 > tokens || <u64>keptTokens * 2 < oldTokens) return false;
  const addedBits = bucketBits(addedTokens);
  const addedPrefix = allocateScratch(<u64>4 << addedBits);
  const addedEntries = allocateScratch(<u64>addedTokens << 3);
  if (addedPrefix == 0 || addedEntries == 0) return false;
  buildTokens(added, addedCount, addedPrefix, addedBits, addedEntries);
  if (!mergeEntries(oldEntries, oldTokens, addedEntries, entries, tokens)) return false;
  findBuckets(entries, tokens, prefix, bits);
  return true;
}

/** Fills what a merge works on. False if there is no memory. */
function compareMembers(old: usize, oldCount: u32, table: usize, count: u32): bool {
  const slots: u32 = 2 << (32 - clz<u32>(oldCount));
  const seats = allocateScratch(<u64>slots << 2);
  renames = allocateScratch(<u64>(MEMBER_ID_MAX + 1) << 1);
  added = allocateScratch(<u64>count * RING_MEMBER_BYTES);
  if (seats == 0 || renames == 0 || added == 0) return false;
  memory.fill(seats, 0, <usize>slots << 2);
  memory.fill(renames, 0, <usize>(MEMBER_ID_MAX + 1) << 1);
  addedCount = 0;
  addedTokens = 0;
  keptTokens = 0;
  const mask = slots - 1;
  for (let index: u32 = 0; index < oldCount; index += 1) {
    let slot = <u32>memberAt(old, index).seed & mask;
    while (load<u32>(seats + (<usize>slot << 2)) != 0) slot = (slot + 1) & mask;
    store<u32>(seats + (<usize>slot << 2), index + 1);
  }
  for (let index: u32 = 0; index < count; index += 1) {
    const member = memberAt(table, index);
    if (rename(seats, mask, old, member)) {
      keptTokens += member.tokens;
    } else {
      memory.copy(added + <usize>addedCount * RING_MEMBER_BYTES, changetype<usize>(member), RING_MEMBER_BYTES);
      addedCount += 1;
      addedTokens += member.tokens;
    }
  }
  return true;
}

/** Did the old ring have these tokens? Then its id stands for this member's from now on. */
function rename(seats: usize, mask: u32, old: usize, member: RingMember): bool {
  let slot = <u32>member.seed & mask;
  let seat = load<u32>(seats + (<usize>slot << 2));
  while (seat != 0) {
    const before = memberAt(old, seat - 1);
    const at = renames + (<usize>before.id << 1);
    if (before.seed == member.seed && before.tokens == member.tokens && load<u16>(at) == 0) {
      store<u16>(at, <u16>member.id);
      return true;
    }
    slot = (slot + 1) & mask;
    seat = load<u32>(seats + (<usize>slot << 2));
  }
  return false;
}

/** False: they are not as many as there should be. */
function mergeEntries(oldEntries: usize, oldTokens: u32, addedEntries: usize, entries: usize, tokens: u32): bool {
  const end = entries + (<usize>tokens << 3);
  const addedEnd = addedEntries + (<usize>addedTokens << 3);
  const oldEnd = oldEntries + (<usize>oldTokens << 3);
  let next = addedEntries;
  let at = entries;
  for (let from = oldEntries; from < oldEnd; from += 8) {
    const before = load<u64>(from);
    const id: u64 = load<u16>(renames + ((<usize>before & 0xffff) << 1));
    if (id == 0) continue;
    const entry = (before & TOKEN_MASK) | id;
    while (next < addedEnd && load<u64>(next) < entry) {
      if (at == end) return false;
      insertEntry(entries, at, load<u64>(next));
      next += 8;
      at += 8;
    }
    if (at == end) return false;
    // Equal tokens of two members are in the order of their ids, which may have changed.
    insertEntry(entries, at, entry);
    at += 8;
  }
  while (next < addedEnd) {
    if (at == end) return false;
    insertEntry(entries, at, load<u64>(next));
    next += 8;
    at += 8;
  }
  return at == end;
}

/** For each bucket the position of its first entry, which are sorted. */
function findBuckets(entries: usize, tokens: u32, prefix: usize, bits: u32): void {
  const buckets: u32 = 1 << bits;
  const shift: u64 = 64 - bits;
  let position: u32 = 0;
  for (let bucket: u32 = 0; bucket < buckets; bucket += 1) {
    while (position < tokens && <u32>(load<u64>(entries + (<usize>position << 3)) >> shift) < bucket) position += 1;
    store<u32>(prefix + (<usize>bucket << 2), position);
  }
}
