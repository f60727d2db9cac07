/**
 * Hashes: XXH64 for bytes (the same as the C library's, so that native code can place keys too), SplitMix64 for
 * numbers.
 *
 * The ring hashes with seed 0, since all members must place a key alike. Tables within the module hash with a seed of
 * the instance: who does not know it cannot choose keys that meet in one place of a table. XXH64 is no cryptographic
 * hash: the seed is against keys made beforehand, not against someone who can watch how long calls take.
 */

const PRIME_1: u64 = 0x9e3779b185ebca87;
const PRIME_2: u64 = 0xc2b2ae3d27d4eb4f;
const PRIME_3: u64 = 0x165667b19e3779f9;
const PRIME_4: u64 = 0x85ebca77c2b2ae63;
const PRIME_5: u64 = 0x27d4eb2f165667c5;
const GOLDEN: u64 = 0x9e3779b97f4a7c15;

// @ts-ignore: decorator
@inline
function round(lane: u64, input: u64): u64 {
  return rotl<u64>(lane + input * PRIME_2, 31) * PRIME_1;
}

// @ts-ignore: decorator
@inline
function merge(hash: u64, lane: u64): u64 {
  return (hash ^ round(0, lane)) * PRIME_1 + PRIME_4;
}

/** Seed of the ring. */
export const RING_SEED: u64 = 0;
/** Seed of the tables. */
export let tableSeed: u64 = 0;

/** REQUIRES: no table has anything in it. */
export function setTableSeed(seed: u64): void {
  tableSeed = seed;
}

/** XXH64. */
export function hashBytes(pointer: usize, bytes: u32, seed: u64): u64 {
  let at = pointer;
  const end = pointer + bytes;
  let hash: u64;
  if (bytes >= 32) {
    let lane1: u64 = seed + PRIME_1 + PRIME_2;
    let lane2: u64 = seed + PRIME_2;
    let lane3: u64 = seed;
    let lane4: u64 = seed - PRIME_1;
    const stripesEnd = end - 32;
    do {
      lane1 = round(lane1, load<u64>(at));
      lane2 = round(lane2, load<u64>(at, 8));
      lane3 = round(lane3, load<u64>(at, 16));
      lane4 = round(lane4, load<u64>(at, 24));
      at += 32;
    } while (at <= stripesEnd);
    hash = rotl<u64>(lane1, 1) + rotl<u64>(lane2, 7) + rotl<u64>(lane3, 12) + rotl<u64>(lane4, 18);
    hash = merge(merge(merge(merge(hash, lane1), lane2), lane3), lane4);
  } else {
    hash = seed + PRIME_5;
  }
  hash += <u64>bytes;
  while (at + 8 <= end) {
    hash = rotl<u64>(hash ^ round(0, load<u64>(at)), 27) * PRIME_1 + PRIME_4;
    at += 8;
  }
  if (at + 4 <= end) {
    hash = rotl<u64>(hash ^ (<u64>load<u32>(at) * PRIME_1), 23) * PRIME_2 + PRIME_3;
    at += 4;
  }
  while (at < end) {
    hash = rotl<u64>(hash ^ (<u64>load<u8>(at) * PRIME_5), 11) * PRIME_1;
    at += 1;
  }
  hash = (hash ^ (hash >> 33)) * PRIME_2;
  hash = (hash ^ (hash >> 29)) * PRIME_3;
  return hash ^ (hash >> 32);
}

/** Value `index` of the SplitMix64 sequence that starts from `seed`. */
// @ts-ignore: decorator
@inline
export function splitMix(seed: u64, index: u32): u64 {
  let value = seed + GOLDEN * (<u64>index + 1);
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

/** Are `bytes` bytes at both pointers the same? */
// @ts-ignore: decorator
@inline
export function equalBytes(left: usize, right: usize, bytes: u32): bool {
  const length: usize = bytes;
  let at: usize = 0;
  if (length >= 8) {
    const last = length - 8;
    while (at < last) {
      if (load<u64>(left + at) != load<u64>(right + at)) return false;
      at += 8;
    }
    return load<u64>(left + last) == load<u64>(right + last);
  }
  while (at < length) {
    if (load<u8>(left + at) != load<u8>(right + at)) return false;
    at += 1;
  }
  return true;
}
