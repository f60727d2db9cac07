/**
 * The directory's table: records by key. Extendible hashing over segments of 4 KiB, each an open-addressed table of
 * record numbers; records in chunks; key bytes in a slab.
 *
 * Growing splits one segment at a time, so that no insertion waits for more than a segment's rehash, and nothing is
 * ever held twice. A key costs 48 bytes of record, 5 to 11 of index, and its bytes rounded up to 4. Memory that removed
 * keys leave is used again by keys of the same size class.
 */
import { equalBytes, hashBytes, RING_SEED } from "./hash";
import { allocateRun, PAGE_BYTES, pagesFor } from "./memory";
import { LOCATIONS_MAX } from "./layout";

//  Record, 48 bytes
//  0 generation u64 │ 8 bytes, low u32 │ 12 bytes, high u16 │ 14 shape u16 │ 16 key u32 │ 20 hash u32
//  24 member u16 x 4 │ 32 slot u32 x 4
//  `shape` is keyBytes (11 bits) │ locationCount (3 bits) │ family (2 bits). keyBytes is 0 in a free record, whose
//  `key` is the next free one.
@unmanaged
export class Record {
  generation: u64;
  bytesLow: u32;
  bytesHigh: u16;
  shape: u16;
  key: u32;
  hash: u32;

  get keyBytes(): u32 {
    return this.shape & 0x7ff;
  }
  get locationCount(): u32 {
    return (this.shape >> 11) & 7;
  }
  set locationCount(count: u32) {
    this.shape = <u16>((count << 11) | (this.shape & 0xc7ff));
  }
  get family(): u32 {
    return this.shape >> 14;
  }
  set family(family: u32) {
    this.shape = <u16>((family << 14) | (this.shape & 0x3fff));
  }
  get bytes(): u64 {
    return (<u64>this.bytesHigh << 32) | this.bytesLow;
  }
  set bytes(bytes: u64) {
    this.bytesLow = <u32>bytes;
    this.bytesHigh = <u16>(bytes >> 32);
  }
  member(index: u32): u32 {
    return load<u16>(changetype<usize>(this) + (<usize>index << 1), 24);
  }
  slot(index: u32): u32 {
    return load<u32>(changetype<usize>(this) + (<usize>index << 2), 32);
  }
  setLocation(index: u32, member: u32, slot: u32): void {
    store<u16>(changetype<usize>(this) + (<usize>index << 1), <u16>member, 24);
    store<u32>(changetype<usize>(this) + (<usize>index << 2), slot, 32);
  }
}
const RECORD_BYTES: usize = 48;
/** Largest object that a record can tell the size of, exclusive: 256 TiB. */
export const OBJECT_BYTES_LIMIT: u64 = 1 << 48;

// Records are numbered from 1; chunk `number >> 12` holds 4,096 of them in 3 pages.
const CHUNK_BITS: u32 = 12;
const CHUNK_PAGES: u32 = 3;
const CHUNKS_MAX: u32 = 1 << 14;
let chunks: usize = 0; // pointers, u32 x CHUNKS_MAX
let chunkCount: u32 = 0;
/** One above the highest record number ever used. */
export let recordEnd: u32 = 1;
let freeRecord: u32 = 0;

// Segments. An entry is (record number << 6) | the hash's low 6 bits, 0 if free. The first two words of a segment are
// its depth and its entries; the hash's upper 16 bits choose the segment, the lower 16 the place to start at.
const SEGMENT_BYTES: usize = 4096;
const SEGMENT_FIRST: u32 = 2;
const SEGMENT_SLOTS: u32 = 1022;
/** A segment is split at 80%, where a search for an absent key still ends within about 13 entries. */
const SEGMENT_SPLIT: u32 = 817;
const TAG_MASK: u32 = 63;
const DEPTH_MAX: u32 = 16;
@unmanaged
class Segment {
  depth: u32;
  used: u32;
}
let segments: usize = 0; // pointers, u32 x 2^depth
let depth: u32 = 0;
let segmentBump: usize = 0;
let segmentBumpEnd: usize = 0;
let splitCopy: usize = 0; // room for one segment

// Slab. A size class for every 4 bytes up to the longest key, so that no key wastes more than 3. A class takes whole
// pages and keeps them; a free cell holds the pointer to the next one.
//  0 free │ 4 bump │ 8 bumpEnd
@unmanaged
class SlabClass {
  free: u32;
  bump: u32;
  bumpEnd: u32;
}
const SLAB_CLASS_BYTES: usize = 12;
const slabClasses = memory.data(3132); // 261 classes: the longest key has a tenant before it, 1,041 bytes together

export let keyCount: u32 = 0;
let pageCount: u32 = 0;

export function tableMemoryBytes(): u64 {
  return <u64>pageCount * PAGE_BYTES;
}

function takePages(pages: u32): usize {
  const run = allocateRun(pages);
  if (run != 0) pageCount += pages;
  return run;
}

/** Makes the first segment. False if there is no memory; then the table is as empty as before. */
function prepare(): bool {
  if (segments != 0) return true;
  const fixedBytes = (4 << DEPTH_MAX) + 4 * CHUNKS_MAX + 2 * <u32>SEGMENT_BYTES;
  const run = takePages(pagesFor(fixedBytes));
  if (run == 0) return false;
  segments = run;
  chunks = segments + (4 << DEPTH_MAX);
  splitCopy = chunks + 4 * CHUNKS_MAX;
  const first = splitCopy + SEGMENT_BYTES;
  memory.fill(first, 0, SEGMENT_BYTES);
  store<u32>(segments, <u32>first);
  return true;
}

/** The part of a key's hash that the table uses; the ring uses the upper part, so the two are independent. */
// @ts-ignore: decorator
@inline
export function tableHash(hash: u64): u32 {
  return <u32>hash;
}

// @ts-ignore: decorator
@inline
export function recordAt(number: u32): Record {
  const chunk = <usize>load<u32>(chunks + (<usize>(number >> CHUNK_BITS) << 2));
  return changetype<Record>(chunk + <usize>(number & ((1 << CHUNK_BITS) - 1)) * RECORD_BYTES);
}

// @ts-ignore: decorator
@inline
function segmentPosition(hash: u32): u32 {
  return <u32>((<u64>hash << depth) >> 32);
}

// @ts-ignore: decorator
@inline
function segmentOf(hash: u32): usize {
  return <usize>load<u32>(segments + (<usize>segmentPosition(hash) << 2));
}

/** Offset in the segment where the search for a hash starts. */
// @ts-ignore: decorator
@inline
function homeOf(hash: u32): usize {
  return <usize>(SEGMENT_FIRST + (((hash & 0xffff) * SEGMENT_SLOTS) >> 16)) << 2;
}

// @ts-ignore: decorator
@inline
function following(offset: usize): usize {
  return offset == SEGMENT_BYTES - 4 ? <usize>SEGMENT_FIRST << 2 : offset + 4;
}

/** Number of the key's record, 0 if it is absent. */
export function findRecord(key: usize, keyBytes: u32, hash: u32): u32 {
  if (segments == 0) return 0;
  const segment = segmentOf(hash);
  let offset = homeOf(hash);
  let entry = load<u32>(segment + offset);
  while (entry != 0) {
    if (((entry ^ hash) & TAG_MASK) == 0) {
      const record = recordAt(entry >> 6);
      if (record.hash == hash && record.keyBytes == keyBytes && equalBytes(record.key, key, keyBytes)) return entry >> 6;
    }
    offset = following(offset);
    entry = load<u32>(segment + offset);
  }
  return 0;
}

/**
 * Reads what a search for the hash will read first, so that the caches are filled for many keys at once.
 * The sum of what was read has no meaning; it is used so that the reads are not optimised away.
 */
// @ts-ignore: decorator
@inline
export function touchSegment(hash: u32): u32 {
  return load<u32>(segmentOf(hash) + homeOf(hash));
}

// @ts-ignore: decorator
@inline
export function touchRecord(hash: u32): u32 {
  const segment = segmentOf(hash);
  let offset = homeOf(hash);
  let entry = load<u32>(segment + offset);
  while (entry != 0 && ((entry ^ hash) & TAG_MASK) != 0) {
    offset = following(offset);
    entry = load<u32>(segment + offset);
  }
  return entry >> 6;
}

export function tableIsEmpty(): bool {
  return keyCount == 0;
}

/**
 * Adds an absent key, with its record otherwise zero. Number of the record; 0 if there is no memory, nothing changed.
 */
export function insertRecord(key: usize, keyBytes: u32, hash: u32): u32 {
  assert(keyBytes > 0);
  if (!prepare() || !makeRoom(hash)) return 0;
  const number = takeRecord();
  if (number == 0) return 0;
  const cell = takeCell(keyBytes);
  if (cell == 0) {
    giveRecord(number);
    return 0;
  }
  memory.copy(cell, key, keyBytes);
  const record = recordAt(number);
  memory.fill(changetype<usize>(record), 0, RECORD_BYTES);
  record.shape = <u16>keyBytes;
  record.key = <u32>cell;
  record.hash = hash;
  const segment = segmentOf(hash);
  placeEntry(segment, hash, (number << 6) | (hash & TAG_MASK));
  changetype<Segment>(segment).used += 1;
  keyCount += 1;
  return number;
}

function placeEntry(segment: usize, hash: u32, entry: u32): void {
  let offset = homeOf(hash);
  while (load<u32>(segment + offset) != 0) offset = following(offset);
  store<u32>(segment + offset, entry);
}

/** Splits until the hash's segment has room. False if it is full and cannot be split. */
function makeRoom(hash: u32): bool {
  while (changetype<Segment>(segmentOf(hash)).used >= SEGMENT_SPLIT) {
    if (!splitSegment(hash)) {
      // One entry stays free: it ends every search.
      return changetype<Segment>(segmentOf(hash)).used < SEGMENT_SLOTS - 1;
    }
  }
  return true;
}

function splitSegment(hash: u32): bool {
  const segment = segmentOf(hash);
  const header = changetype<Segment>(segment);
  if (header.depth == DEPTH_MAX) return false;
  const sibling = takeSegment();
  if (sibling == 0) return false;
  if (header.depth == depth) doubleSegments();
  const newDepth = header.depth + 1;
  memory.copy(splitCopy, segment, SEGMENT_BYTES);
  memory.fill(segment, 0, SEGMENT_BYTES);
  memory.fill(sibling, 0, SEGMENT_BYTES);
  changetype<Segment>(segment).depth = newDepth;
  changetype<Segment>(sibling).depth = newDepth;
  // The positions of the segment are 2^(depth - old depth) neighbours; the upper half goes to the sibling.
  const spread: u32 = 1 << (depth - newDepth);
  const first = (segmentPosition(hash) >> (depth - newDepth + 1)) << (depth - newDepth + 1);
  for (let index: u32 = 0; index < spread; index += 1) {
    store<u32>(segments + (<usize>(first + spread + index) << 2), <u32>sibling);
  }
  for (let offset = <usize>SEGMENT_FIRST << 2; offset < SEGMENT_BYTES; offset += 4) {
    const entry = load<u32>(splitCopy + offset);
    if (entry == 0) continue;
    const entryHash = recordAt(entry >> 6).hash;
    const target = (entryHash >> (32 - newDepth)) & 1 ? sibling : segment;
    placeEntry(target, entryHash, entry);
    changetype<Segment>(target).used += 1;
  }
  return true;
}

function doubleSegments(): void {
  const size: u32 = 1 << depth;
  for (let index = size; index > 0; index -= 1) {
    const segment = load<u32>(segments + (<usize>(index - 1) << 2));
    store<u32>(segments + (<usize>(2 * index - 1) << 2), segment);
    store<u32>(segments + (<usize>(2 * index - 2) << 2), segment);
  }
  depth += 1;
}

function takeSegment(): usize {
  if (segmentBump == segmentBumpEnd) {
    const run = takePages(1);
    if (run == 0) return 0;
    segmentBump = run;
    segmentBumpEnd = run + PAGE_BYTES;
  }
  const segment = segmentBump;
  segmentBump += SEGMENT_BYTES;
  return segment;
}

function takeRecord(): u32 {
  if (freeRecord != 0) {
    const number = freeRecord;
    freeRecord = recordAt(number).key;
    return number;
  }
  const chunk = recordEnd >> CHUNK_BITS;
  if (chunk >= chunkCount) {
    if (chunk == CHUNKS_MAX) return 0;
    const run = takePages(CHUNK_PAGES);
    if (run == 0) return 0;
    store<u32>(chunks + (<usize>chunk << 2), <u32>run);
    chunkCount += 1;
  }
  recordEnd += 1;
  return recordEnd - 1;
}

function giveRecord(number: u32): void {
  const record = recordAt(number);
  record.shape = 0;
  record.key = freeRecord;
  freeRecord = number;
}

/** Removes a key; its entry's followers close the gap. */
export function removeRecord(number: u32): void {
  const record = recordAt(number);
  const segment = segmentOf(record.hash);
  const wanted = (number << 6) | (record.hash & TAG_MASK);
  let hole = homeOf(record.hash);
  while (load<u32>(segment + hole) != wanted) {
    assert(load<u32>(segment + hole) != 0);
    hole = following(hole);
  }
  let offset = following(hole);
  let entry = load<u32>(segment + offset);
  while (entry != 0) {
    const home = homeOf(recordAt(entry >> 6).hash);
    // May move into the hole unless its home lies behind the hole, counted round the segment.
    const stays = hole <= offset ? hole < home && home <= offset : hole < home || home <= offset;
    if (!stays) {
      store<u32>(segment + hole, entry);
      hole = offset;
    }
    offset = following(offset);
    entry = load<u32>(segment + offset);
  }
  store<u32>(segment + hole, 0);
  changetype<Segment>(segment).used -= 1;
  giveCell(record.key, record.keyBytes);
  giveRecord(number);
  keyCount -= 1;
}

function slabClassOf(keyBytes: u32): u32 {
  return (keyBytes - 1) >> 2;
}

function cellBytes(slabClass: u32): u32 {
  return (slabClass + 1) << 2;
}

function takeCell(keyBytes: u32): usize {
  const number = slabClassOf(keyBytes);
  const slab = changetype<SlabClass>(slabClasses + <usize>number * SLAB_CLASS_BYTES);
  if (slab.free != 0) {
    const cell = <usize>slab.free;
    slab.free = load<u32>(cell);
    return cell;
  }
  const bytes = cellBytes(number);
  if (slab.bumpEnd - slab.bump < bytes) {
    const run = takePages(1);
    if (run == 0) return 0;
    slab.bump = <u32>run;
    slab.bumpEnd = <u32>(run + PAGE_BYTES);
  }
  const cell = <usize>slab.bump;
  slab.bump += bytes;
  return cell;
}

function giveCell(cell: usize, keyBytes: u32): void {
  const slab = changetype<SlabClass>(slabClasses + <usize>slabClassOf(keyBytes) * SLAB_CLASS_BYTES);
  store<u32>(cell, slab.free);
  slab.free = <u32>cell;
}

/** Hash of a record's whole key, as the ring uses it. */
export function keyHashOf(record: Record): u64 {
  return hashBytes(record.key, record.keyBytes, RING_SEED);
}

/** Position of a member among a record's locations, or LOCATIONS_MAX. */
export function locationOf(record: Record, member: u32): u32 {
  const count = record.locationCount;
  for (let index: u32 = 0; index < count; index += 1) {
    if (record.member(index) == member) return index;
  }
  return LOCATIONS_MAX;
}

/** Position of a member's slot among a record's locations, or LOCATIONS_MAX. */
export function placeOf(record: Record, member: u32, slot: u32): u32 {
  const count = record.locationCount;
  for (let index: u32 = 0; index < count; index += 1) {
    if (record.member(index) == member && record.slot(index) == slot) return index;
  }
  return LOCATIONS_MAX;
}

/** Takes one location out; the others keep their order. */
export function dropLocation(record: Record, index: u32): void {
  const count = record.locationCount;
  for (let at = index; at + 1 < count; at += 1) {
    record.setLocation(at, record.member(at + 1), record.slot(at + 1));
  }
  record.locationCount = count - 1;
}
