/**
 * Transfer plans: cuts what is read of each source into slices, gives each slice a lane, and puts them in the order in
 * which they should be started.
 *
 * A slice is at most `sliceBytesMax` long, or in a large plan a share of what a lane gets, up to eight times as much:
 * each costs both sides a request and a completion. It ends at a blob's end, unless one blob alone is larger: such a
 * blob is cut into about equal pieces of its own. Each slice goes to the lane of its source that has the fewest bytes
 * so far, so lanes differ by no more than one slice. Slices of the sources alternate, so that all of them are busy from
 * the start.
 */
import {
  CALL_BAD_ARGUMENT,
  CALL_MALFORMED_RECORDS,
  CALL_OK,
  CALL_OUT_OF_MEMORY,
  MEMBER_ID_MAX,
  SLICE_RECORD_BYTES,
  SliceRecord,
} from "./layout";
import { beginNumbers, memberCount, numberOf } from "./member-numbers";
import { allocateScratch } from "./memory";

export const LANES_MAX: u32 = 256;
/** Slices of one plan; larger slices make fewer. */
const SLICES_MAX: u64 = 1 << 22;
/** Pieces of a large blob end at multiples of this, so that copies stay aligned. */
const PIECE_ALIGNMENT: u64 = 4096;
/**
 * A plan large enough for longer slices has so many for each lane: few enough, and still about the same number for all.
 */
const SLICES_EACH_LANE: u64 = 4;
const LONG_SLICE: u64 = 8;
/** Sum of a key's blobs, exclusive: far above any memory, far below where sums overflow. */
const BYTES_LIMIT: u64 = 1 << 56;

//  Source, 8 bytes: one member that is read from, and its part of the slices
//  0 next │ 4 end
@unmanaged
class Source {
  next: u32;
  end: u32;
}
const SOURCE_BYTES: usize = 8;

export let planResult: usize = 0;
export let planSlices: u32 = 0;
/** First array position that broke a rule of `plan`. */
export let planFaultIndex: u32 = 0;

let blobSizes: usize = 0;
let blobEnds: usize = 0;
let members: usize = 0;
let sliceBytesMax: u64 = 0;
/** Of all keys; the largest number when it would be more. */
let totalBytes: u64 = 0;

/** Input: u64 x blobs sizes │ u32 x keys members │ u32 x keys exclusive ends of their blobs. Result: SliceRecords. */
export function makePlan(input: usize, length: u32, keys: u32, blobs: u32, sliceMax: u64, lanes: u32): u32 {
  planSlices = 0;
  planFaultIndex = 0;
  if (lanes == 0 || lanes > LANES_MAX || sliceMax == 0) return CALL_BAD_ARGUMENT;
  if ((<u64>blobs << 3) + (<u64>keys << 3) != <u64>length) return CALL_MALFORMED_RECORDS;
  blobSizes = input;
  members = input + (<usize>blobs << 3);
  blobEnds = members + (<usize>keys << 2);
  sliceBytesMax = sliceMax;
  const checked = checkShapes(keys, blobs);
  if (checked != CALL_OK) return checked;
  // Divided before it is compared: the other way round it could overflow.
  const share = totalBytes / lanes / SLICES_EACH_LANE;
  if (share / LONG_SLICE >= sliceMax) {
    sliceBytesMax = sliceMax * LONG_SLICE;
  } else if (share > sliceMax) {
    sliceBytesMax = share;
  }
  const sources = allocateScratch(<u64>min(keys, MEMBER_ID_MAX) * SOURCE_BYTES);
  const numbers = allocateScratch(<u64>keys << 2);
  if (sources == 0 || numbers == 0 || !beginNumbers(keys)) return CALL_OUT_OF_MEMORY;
  const sourceCount = countSlices(keys, numbers, sources);
  if (planSlices == u32.MAX_VALUE) return CALL_BAD_ARGUMENT;
  const bySource = allocateScratch(<u64>planSlices * SLICE_RECORD_BYTES);
  planResult = allocateScratch(<u64>planSlices * SLICE_RECORD_BYTES);
  const laneBytes = allocateScratch(<u64>lanes << 3);
  if (bySource == 0 || planResult == 0 || laneBytes == 0) return CALL_OUT_OF_MEMORY;
  fillSlices(keys, numbers, sources, bySource);
  chooseLanes(sources, sourceCount, bySource, lanes, laneBytes);
  interleave(sources, sourceCount, bySource);
  return CALL_OK;
}

function checkShapes(keys: u32, blobs: u32): u32 {
  let start: u32 = 0;
  totalBytes = 0;
  for (let key: u32 = 0; key < keys; key += 1) {
    planFaultIndex = key;
    const end = load<u32>(blobEnds + (<usize>key << 2));
    const member = load<u32>(members + (<usize>key << 2));
    if (end < start || end > blobs || member == 0 || member > MEMBER_ID_MAX) return CALL_MALFORMED_RECORDS;
    let bytes: u64 = 0;
    for (let blob = start; blob < end; blob += 1) {
      const size = load<u64>(blobSizes + (<usize>blob << 3));
      if (size - 1 >= BYTES_LIMIT) return CALL_MALFORMED_RECORDS;
      bytes += size;
      if (bytes >= BYTES_LIMIT) return CALL_MALFORMED_RECORDS;
    }
    start = end;
    totalBytes = totalBytes > u64.MAX_VALUE - bytes ? u64.MAX_VALUE : totalBytes + bytes;
  }
  planFaultIndex = keys;
  return start == blobs ? CALL_OK : CALL_MALFORMED_RECORDS;
}

// The cutter: one key's blobs, slice by slice. `startKey`, then `nextSlice` until it says false.
let cutBlob: u32 = 0;
let cutEnd: u32 = 0;
/** What is left of a blob that is larger than a slice, and the size of its pieces. */
let cutRest: u64 = 0;
let cutPiece: u64 = 0;
let sliceBlob: u32 = 0;
let sliceBytes: u64 = 0;

function startKey(key: u32): void {
  cutBlob = key == 0 ? 0 : load<u32>(blobEnds + (<usize>(key - 1) << 2));
  cutEnd = load<u32>(blobEnds + (<usize>key << 2));
  cutRest = 0;
}

function nextSlice(): bool {
  if (cutRest == 0 && cutBlob == cutEnd) return false;
  sliceBlob = cutBlob;
  if (cutRest == 0) {
    const size = load<u64>(blobSizes + (<usize>cutBlob << 3));
    if (size <= sliceBytesMax) {
      gatherBlobs();
      return true;
    }
    cutRest = size;
    cutPiece = pieceBytes(size);
  }
  sliceBytes = min(cutPiece, cutRest);
  cutRest -= sliceBytes;
  if (cutRest == 0) cutBlob += 1;
  return true;
}

/** As many whole blobs as one slice has room for. */
function gatherBlobs(): void {
  let bytes: u64 = 0;
  while (cutBlob < cutEnd) {
    const size = load<u64>(blobSizes + (<usize>cutBlob << 3));
    if (size > sliceBytesMax - bytes) break;
    bytes += size;
    cutBlob += 1;
  }
  sliceBytes = bytes;
}

function pieceBytes(size: u64): u64 {
  const pieces = (size - 1) / sliceBytesMax + 1;
  const even = (size - 1) / pieces + 1;
  const aligned = (even + PIECE_ALIGNMENT - 1) & ~(PIECE_ALIGNMENT - 1);
  return min(aligned, sliceBytesMax);
}

/** Numbers the sources, counts each one's slices, and gives each its part of the slices. Returns how many sources. */
function countSlices(keys: u32, numbers: usize, sources: usize): u32 {
  let total: u64 = 0;
  for (let key: u32 = 0; key < keys; key += 1) {
    const known = memberCount;
    const number = numberOf(load<u32>(members + (<usize>key << 2)));
    store<u32>(numbers + (<usize>key << 2), number);
    const source = changetype<Source>(sources + <usize>number * SOURCE_BYTES);
    if (number == known) source.end = 0;
    const slices = slicesOfKey(key);
    total += slices;
    if (total > SLICES_MAX) {
      planSlices = u32.MAX_VALUE;
      return 0;
    }
    source.end += <u32>slices;
  }
  planSlices = <u32>total;
  let first: u32 = 0;
  for (let number: u32 = 0; number < memberCount; number += 1) {
    const source = changetype<Source>(sources + <usize>number * SOURCE_BYTES);
    const slices = source.end;
    source.next = first;
    source.end = first;
    first += slices;
  }
  return memberCount;
}

/** Large blobs are counted without cutting them, so that an absurd size costs nothing. */
function slicesOfKey(key: u32): u64 {
  startKey(key);
  let slices: u64 = 0;
  while (cutBlob < cutEnd) {
    const size = load<u64>(blobSizes + (<usize>cutBlob << 3));
    if (size > sliceBytesMax) {
      slices += (size - 1) / pieceBytes(size) + 1;
      cutBlob += 1;
    } else {
      gatherBlobs();
      slices += 1;
    }
  }
  return slices;
}

/** Writes the slices, source by source; afterwards `end` is each source's end. */
function fillSlices(keys: u32, numbers: usize, sources: usize, bySource: usize): void {
  for (let key: u32 = 0; key < keys; key += 1) {
    const member = load<u32>(members + (<usize>key << 2));
    const number = load<u32>(numbers + (<usize>key << 2));
    const source = changetype<Source>(sources + <usize>number * SOURCE_BYTES);
    let at = bySource + <usize>source.end * SLICE_RECORD_BYTES;
    let offset: u64 = 0;
    startKey(key);
    while (nextSlice()) {
      const slice = changetype<SliceRecord>(at);
      slice.keyIndex = key;
      slice.member = member;
      slice.firstBlob = sliceBlob;
      slice.offset = offset;
      slice.bytes = sliceBytes;
      offset += sliceBytes;
      at += SLICE_RECORD_BYTES;
      source.end += 1;
    }
  }
}

function chooseLanes(sources: usize, sourceCount: u32, bySource: usize, lanes: u32, laneBytes: usize): void {
  for (let number: u32 = 0; number < sourceCount; number += 1) {
    const source = changetype<Source>(sources + <usize>number * SOURCE_BYTES);
    memory.fill(laneBytes, 0, <usize>lanes << 3);
    for (let index = source.next; index < source.end; index += 1) {
      let lane: u32 = 0;
      let fewest = load<u64>(laneBytes);
      for (let other: u32 = 1; other < lanes && fewest != 0; other += 1) {
        const bytes = load<u64>(laneBytes + (<usize>other << 3));
        if (bytes < fewest) {
          fewest = bytes;
          lane = other;
        }
      }
      const slice = changetype<SliceRecord>(bySource + <usize>index * SLICE_RECORD_BYTES);
      slice.lane = lane;
      store<u64>(laneBytes + (<usize>lane << 3), fewest + slice.bytes);
    }
  }
}

/** One slice of each source in turn, in the order of the sources' first keys. */
function interleave(sources: usize, sourceCount: u32, bySource: usize): void {
  let to = planResult;
  let left = sourceCount;
  while (left > 0) {
    let kept: u32 = 0;
    for (let number: u32 = 0; number < left; number += 1) {
      const source = changetype<Source>(sources + <usize>number * SOURCE_BYTES);
      if (source.next == source.end) continue;
      memory.copy(to, bySource + <usize>source.next * SLICE_RECORD_BYTES, SLICE_RECORD_BYTES);
      to += SLICE_RECORD_BYTES;
      const next = source.next + 1;
      const end = source.end;
      // Sources that still have slices move up, in their order.
      const place = changetype<Source>(sources + <usize>kept * SOURCE_BYTES);
      place.next = next;
      place.end = end;
      kept += 1;
    }
    left = kept;
  }
}
