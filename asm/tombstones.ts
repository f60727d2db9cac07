/**
 * Tombstones: which keys were removed lately, and up to which generation. They keep a removed key from coming back when
 * a holder that missed the removal announces its bytes.
 *
 * Generations alone do not tell: once the record is gone, nothing is left to compare with, and a late announcement
 * looks like that of a key which this owner has yet to hear of, as all are after a change of the ring. Nor is it enough
 * to refuse what is older than the removal: good objects of other keys are older too.
 *
 * A fixed number of them, whose memory is taken as they are needed, 1.6 MiB at most; the one removed longest ago is
 * forgotten first, also if memory ends earlier. They are this owner's only: one that takes over the key, or starts
 * anew, does not know them, and removals that were forgotten are not known either. So they cover the time in which a
 * holder is usually back, and do not replace the drops that an owner still owes it. A key is known by 64 bits of its
 * hash: should two keys share them, a good object may be dropped, never a wrong one served.
 */
import { allocateRun, PAGE_BYTES } from "./memory";

/** Numbered from 1, so that 16 bits have room for "none". */
export const TOMBSTONES_MAX: u32 = 65535;

//  Tombstone, 24 bytes
//  0 hash u64 │ 8 generation u64 │ 16 next u16 │ 18 older u16 │ 20 newer u16 │ 22 zeros
//  `next` is the next one of the same chain; `older` and `newer` are its neighbours in time. 0: none.
@unmanaged
class Tombstone {
  hash: u64;
  generation: u64;
  next: u16;
  older: u16;
  newer: u16;
  zeros: u16;
}
const TOMBSTONE_BYTES: usize = 24;

// Chunk `number >> 13` holds 8,192 tombstones in 3 pages.
const CHUNK_BITS: u32 = 13;
const CHUNK_PAGES: u32 = 3;
const chunks = memory.data(32); // pointers, u32 x 8
let chunkCount: u32 = 0;

const CHAIN_PAGES: u32 = 2;
let chains: usize = 0; // first tombstone of each chain, u16 x 2^16
let oldest: u32 = 0;
let newest: u32 = 0;
let pageCount: u32 = 0;
export let tombstoneCount: u32 = 0;

export function tombstoneMemoryBytes(): u64 {
  return <u64>pageCount * PAGE_BYTES;
}

/** Takes memory for the first ones, once. False if there is none. A removal can then not fail for want of it. */
export function prepareTombstones(): bool {
  if (chunkCount != 0) return true;
  if (chains == 0) {
    chains = allocateRun(CHAIN_PAGES);
    if (chains == 0) return false;
    memory.fill(chains, 0, <usize>CHAIN_PAGES * PAGE_BYTES);
    pageCount += CHAIN_PAGES;
  }
  return takeChunk();
}

function takeChunk(): bool {
  const run = allocateRun(CHUNK_PAGES);
  if (run == 0) return false;
  store<u32>(chunks + (<usize>chunkCount << 2), <u32>run);
  chunkCount += 1;
  pageCount += CHUNK_PAGES;
  return true;
}

// @ts-ignore: decorator
@inline
function tombstoneAt(number: u32): Tombstone {
  const chunk = <usize>load<u32>(chunks + (<usize>(number >> CHUNK_BITS) << 2));
  return changetype<Tombstone>(chunk + <usize>(number & ((1 << CHUNK_BITS) - 1)) * TOMBSTONE_BYTES);
}

/** Is there a tombstone that was never used? */
function hasUnused(): bool {
  if (tombstoneCount == TOMBSTONES_MAX) return false;
  return (tombstoneCount + 1) >> CHUNK_BITS < chunkCount || takeChunk();
}

/** By the upper bits: the table's place of a key comes of the lower ones. */
// @ts-ignore: decorator
@inline
function chainOf(hash: u64): usize {
  return chains + (<usize>(hash >> 48) << 1);
}

function find(hash: u64): u32 {
  let number: u32 = load<u16>(chainOf(hash));
  while (number != 0 && tombstoneAt(number).hash != hash) number = tombstoneAt(number).next;
  return number;
}

/** The highest generation of the key that is known to be removed; 0 if none is. */
export function removedGeneration(hash: u64): u64 {
  if (tombstoneCount == 0) return 0;
  const number = find(hash);
  return number == 0 ? 0 : tombstoneAt(number).generation;
}

/** REQUIRES: `prepareTombstones` has succeeded; so it has where a key is that can be removed. */
export function addTombstone(hash: u64, generation: u64): void {
  let number = find(hash);
  if (number != 0) {
    takeOutOfTime(number);
    tombstoneAt(number).generation = max(tombstoneAt(number).generation, generation);
  } else {
    if (hasUnused()) {
      tombstoneCount += 1;
      number = tombstoneCount;
    } else {
      number = oldest;
      takeOutOfTime(number);
      takeOutOfChain(number);
    }
    const tombstone = tombstoneAt(number);
    const chain = chainOf(hash);
    tombstone.hash = hash;
    tombstone.generation = generation;
    tombstone.next = load<u16>(chain);
    store<u16>(chain, <u16>number);
  }
  putNewest(number);
}

function putNewest(number: u32): void {
  const tombstone = tombstoneAt(number);
  tombstone.older = <u16>newest;
  tombstone.newer = 0;
  if (newest != 0) tombstoneAt(newest).newer = <u16>number;
  else oldest = number;
  newest = number;
}

function takeOutOfTime(number: u32): void {
  const tombstone = tombstoneAt(number);
  if (tombstone.older != 0) tombstoneAt(tombstone.older).newer = tombstone.newer;
  else oldest = tombstone.newer;
  if (tombstone.newer != 0) tombstoneAt(tombstone.newer).older = tombstone.older;
  else newest = tombstone.older;
}

function takeOutOfChain(number: u32): void {
  const tombstone = tombstoneAt(number);
  const chain = chainOf(tombstone.hash);
  let at: u32 = load<u16>(chain);
  if (at == number) {
    store<u16>(chain, tombstone.next);
    return;
  }
  while (tombstoneAt(at).next != <u16>number) at = tombstoneAt(at).next;
  tombstoneAt(at).next = tombstone.next;
}
