/**
 * The directory: what an owner knows of its keys. Every call takes a KeyBatch and gives a ResultRecord a key; what each
 * one promises is in src/decision/decisions.ts.
 *
 * A generation is given once. Of two versions of a key, the one of the higher generation is the newer; whatever a call
 * is told about an older one changes nothing.
 *
 * Holders name an object by slot and generation, whatever its key, so a generation must not be given twice by two
 * owners either. That is so by construction: the low 16 bits are the member that gave it, the upper 48 a counter.
 */
import {
  CALL_BAD_ARGUMENT,
  CALL_MALFORMED_RECORDS,
  CALL_OK,
  CALL_OUT_OF_MEMORY,
  COMMIT_RECORD_BYTES,
  CommitRecord,
  EXISTENCE_FAIL,
  EXISTENCE_REPLACE,
  EXISTENCE_SKIP,
  FAMILY_ANY,
  FAMILY_DEVICE_CACHE,
  FAMILY_MAX,
  FLAG_EXISTED,
  FLAG_OTHER_FAMILY,
  KEY_BYTES_MAX,
  LOCATION_BYTES,
  LOCATIONS_MAX,
  MEMBER_ID_MAX,
  RESULT_LOCATIONS_OFFSET,
  RESULT_RECORD_BYTES,
  ResultRecord,
  STATUS_DATA_INCONSISTENCY,
  STATUS_INVALID,
  STATUS_KEY_ALREADY_EXISTS,
  STATUS_NO_SPACE,
  STATUS_NOT_FOUND,
  STATUS_OK,
  STATUS_OUT_OF_MEMORY,
  STATUS_OUT_OF_RANGE,
  STATUS_TRY_AGAIN,
} from "./layout";
import { batchBytes, batchCount, checkBatch, hashBatch, keyEnd, keyStart, tenantPrefixBytes } from "./key";
import { tableSeed } from "./hash";
import { allocateScratch } from "./memory";
import { addTombstone, prepareTombstones, removedGeneration } from "./tombstones";
import {
  dropLocation,
  findRecord,
  insertRecord,
  locationOf,
  placeOf,
  OBJECT_BYTES_LIMIT,
  Record,
  recordAt,
  removeRecord,
  tableHash,
  tableIsEmpty,
  touchRecord,
  touchSegment,
} from "./directory-table";

/** The next generation that `reserve` gives. 0 is no generation: all are used up. */
let nextGeneration: u64 = 1;
/** What generations are apart: 1 until the directory knows its member, then 2^16, with the member in the low bits. */
let generationStep: u64 = 1;
let generationMember: u64 = 0;
const GENERATION_MEMBER_BITS: u64 = 16;
/** Bytes of all objects together, each counted once. */
export let objectBytes: u64 = 0;

let hashes: usize = 0;
let results: usize = 0;
let touched: u32 = 0;

export function directoryResults(): usize {
  return results;
}

/** Generations from now on carry this member. None that was given before is repeated, nor any below it given. */
export function setGenerationMember(member: u32): void {
  generationStep = 1 << GENERATION_MEMBER_BITS;
  generationMember = member & (<u32>generationStep - 1);
  if (nextGeneration != 0) nextGeneration = generationAbove(nextGeneration - 1);
}

export function raiseGenerationTo(floor: u64): void {
  if (nextGeneration != 0 && floor >= nextGeneration) nextGeneration = generationAbove(floor);
}

/** None above it was given here, or told; 0 if all are used up. */
export function highestGeneration(): u64 {
  return nextGeneration == 0 ? 0 : nextGeneration - 1;
}

/** The lowest one above the floor, 0 if there is none. */
function generationAbove(floor: u64): u64 {
  const candidate = (floor & ~(generationStep - 1)) | generationMember;
  if (generationStep > 1 && candidate > floor) return candidate;
  return candidate > u64.MAX_VALUE - generationStep ? 0 : candidate + generationStep;
}

/** Takes a batch in use, hashes it, and makes room for its results. `recordBytes` 0: the call has no records. */
function begin(keys: usize, keysLength: u32, recordsLength: u32, recordBytes: usize): u32 {
  const checked = checkBatch(keys, keysLength);
  if (checked != CALL_OK) return checked;
  if (<u64>batchCount * recordBytes != recordsLength) return CALL_MALFORMED_RECORDS;
  hashes = hashBatch(batchCount, tableSeed);
  results = allocateScratch(<u64>batchCount * RESULT_RECORD_BYTES);
  if (hashes == 0 || results == 0) return CALL_OUT_OF_MEMORY;
  memory.fill(results, 0, <usize>batchCount * RESULT_RECORD_BYTES);
  return CALL_OK;
}

// @ts-ignore: decorator
@inline
function wholeHashOf(index: u32): u64 {
  return load<u64>(hashes + (<usize>index << 3));
}

// @ts-ignore: decorator
@inline
function hashOf(index: u32): u32 {
  return tableHash(wholeHashOf(index));
}

// @ts-ignore: decorator
@inline
function resultOf(index: u32): ResultRecord {
  return changetype<ResultRecord>(results + <usize>index * RESULT_RECORD_BYTES);
}

/** May the directory hold this key? Which bytes it may have, the rule decides, before. */
// @ts-ignore: decorator
@inline
function hasGoodLength(index: u32): bool {
  const start = keyStart(index);
  const bytes = keyEnd(index) - start;
  if (bytes <= KEY_BYTES_MAX) return bytes > 0;
  return bytes - tenantPrefixBytes(batchBytes + start, bytes) <= KEY_BYTES_MAX;
}

// @ts-ignore: decorator
@inline
function find(index: u32): u32 {
  const start = keyStart(index);
  return findRecord(batchBytes + start, keyEnd(index) - start, hashOf(index));
}

// Reads are spread over groups of keys: first every segment, then every record, then the keys themselves. A processor
// has several such reads under way at once, while a search key by key waits for each.
const TOUCH_GROUP: u32 = 32;

// @ts-ignore: decorator
@inline
function touchGroup(index: u32): void {
  if ((index & (TOUCH_GROUP - 1)) != 0 || tableIsEmpty()) return;
  const end = min(index + TOUCH_GROUP, batchCount);
  let sum: u32 = 0;
  for (let at = index; at < end; at += 1) sum += touchSegment(hashOf(at));
  for (let at = index; at < end; at += 1) {
    const number = touchRecord(hashOf(at));
    if (number != 0) sum += recordAt(number).key;
  }
  touched += sum;
}

/** Tells what is known of a key, its locations included. */
function describe(result: ResultRecord, record: Record): void {
  describeRotated(result, record, 0);
}

/** As `describe`, but location `first`, modulo their number, comes first. */
function describeRotated(result: ResultRecord, record: Record, first: u32): void {
  describeVersion(result, record);
  const count = record.locationCount;
  result.locationCount = count;
  const locations = changetype<usize>(result) + RESULT_LOCATIONS_OFFSET;
  let from = first == 0 || count == 0 ? 0 : first % count;
  for (let index: u32 = 0; index < count; index += 1) {
    store<u32>(locations + <usize>index * LOCATION_BYTES, record.member(from));
    store<u32>(locations + <usize>index * LOCATION_BYTES, record.slot(from), 4);
    from = from + 1 == count ? 0 : from + 1;
  }
}

function describeVersion(result: ResultRecord, record: Record): void {
  result.generation = record.generation;
  result.bytes = record.bytes;
  result.family = record.family;
}

/**
 * If the key is of another family: answers that, without locations, since none of them is the asker's to use or drop.
 */
function isOfOther(family: u32, record: Record, result: ResultRecord): bool {
  if (record.family == family) return false;
  describeVersion(result, record);
  result.code = STATUS_INVALID;
  result.flags = FLAG_OTHER_FAMILY;
  return true;
}

function answerExisting(result: ResultRecord, record: Record, existence: u32): void {
  describe(result, record);
  result.flags = FLAG_EXISTED;
  if (existence == EXISTENCE_FAIL) result.code = STATUS_KEY_ALREADY_EXISTS;
}

export function reserve(keys: usize, keysLength: u32, existence: u32, family: u32): u32 {
  if (existence > EXISTENCE_REPLACE || family > FAMILY_MAX) return CALL_BAD_ARGUMENT;
  const begun = begin(keys, keysLength, 0, 0);
  if (begun != CALL_OK) return begun;
  for (let index: u32 = 0; index < batchCount; index += 1) {
    touchGroup(index);
    const result = resultOf(index);
    if (!hasGoodLength(index)) {
      result.code = STATUS_INVALID;
      continue;
    }
    const number = find(index);
    if (number != 0 && isOfOther(family, recordAt(number), result)) continue;
    if (number != 0 && existence != EXISTENCE_REPLACE) {
      answerExisting(result, recordAt(number), existence);
    } else {
      result.generation = takeGeneration();
      if (result.generation == 0) result.code = STATUS_OUT_OF_RANGE;
    }
  }
  return CALL_OK;
}

/** 0: there are no more. */
function takeGeneration(): u64 {
  const taken = nextGeneration;
  if (taken != 0) nextGeneration = generationAbove(taken);
  return taken;
}

export function commit(
  keys: usize,
  keysLength: u32,
  records: usize,
  recordsLength: u32,
  existence: u32,
  family: u32,
): u32 {
  if (existence > EXISTENCE_REPLACE || family > FAMILY_MAX) return CALL_BAD_ARGUMENT;
  const begun = begin(keys, keysLength, recordsLength, COMMIT_RECORD_BYTES);
  if (begun != CALL_OK) return begun;
  for (let index: u32 = 0; index < batchCount; index += 1) {
    touchGroup(index);
    const result = resultOf(index);
    const told = changetype<CommitRecord>(records + <usize>index * COMMIT_RECORD_BYTES);
    const isPut = told.generation == 0 && existence != EXISTENCE_REPLACE;
    if (!hasGoodLength(index) || !isGoodRecord(told, isPut)) {
      result.code = STATUS_INVALID;
      continue;
    }
    if (isPut) {
      put(index, told, existence, family, result);
      continue;
    }
    raiseGenerationTo(told.generation);
    const number = find(index);
    const isRemoved = wasCommitRemoved(index, told.generation, existence);
    if (number == 0) {
      if (isRemoved) {
        result.code = STATUS_TRY_AGAIN;
        result.generation = removedGeneration(wholeHashOf(index));
      } else {
        addKey(index, told, family, result);
      }
      continue;
    }
    const record = recordAt(number);
    if (isOfOther(family, record, result)) continue;
    if (isSameCommit(record, told)) {
      // Told again, because the first answer was lost.
      describe(result, record);
    } else if (existence == EXISTENCE_SKIP || existence == EXISTENCE_FAIL) {
      answerExisting(result, record, existence);
    } else {
      replaceVersion(record, told, isRemoved, result);
    }
  }
  return CALL_OK;
}

/**
 * Reserves and commits in one step: the version gets its generation here. A location that the asker's own slot has
 * under this key is an older one's: the bytes in that slot are the new version's now.
 */
function put(index: u32, told: CommitRecord, existence: u32, family: u32, result: ResultRecord): void {
  const number = find(index);
  if (number != 0) {
    const record = recordAt(number);
    if (isOfOther(family, record, result)) return;
    const at = placeOf(record, told.member, told.slot);
    if (at == LOCATIONS_MAX || record.locationCount > 1) {
      if (at != LOCATIONS_MAX) dropLocation(record, at);
      answerExisting(result, record, existence);
      return;
    }
    forgetKey(number);
  }
  told.generation = takeGeneration();
  if (told.generation == 0) result.code = STATUS_OUT_OF_RANGE;
  else addKey(index, told, family, result);
}

function isGoodRecord(told: CommitRecord, isPut: bool): bool {
  return (told.generation != 0 || isPut) && told.bytes < OBJECT_BYTES_LIMIT && told.member != 0 && told.member <= MEMBER_ID_MAX;
}

function isSameCommit(record: Record, told: CommitRecord): bool {
  if (record.generation != told.generation || record.bytes != told.bytes) return false;
  return placeOf(record, told.member, told.slot) != LOCATIONS_MAX;
}

/**
 * Was the version that is committed removed already? One that is told again after its removal was, under any mode; its
 * holder may have dropped it. Under `replace` an older one lost to a newer one before that was removed. Under `skip`
 * and `fail` an older one that was never committed is a set of its own, which comes after the removal, and is good.
 */
function wasCommitRemoved(index: u32, generation: u64, existence: u32): bool {
  const removed = removedGeneration(wholeHashOf(index));
  return existence == EXISTENCE_REPLACE ? generation <= removed : generation == removed;
}

function addKey(index: u32, told: CommitRecord, family: u32, result: ResultRecord): void {
  const start = keyStart(index);
  const number = prepareTombstones() ? insertRecord(batchBytes + start, keyEnd(index) - start, hashOf(index)) : 0;
  if (number == 0) {
    result.code = STATUS_OUT_OF_MEMORY;
    return;
  }
  const record = recordAt(number);
  record.family = family;
  setVersion(record, told);
  describe(result, record);
}

function setVersion(record: Record, told: CommitRecord): void {
  objectBytes += told.bytes - record.bytes;
  record.generation = told.generation;
  record.bytes = told.bytes;
  record.setLocation(0, told.member, told.slot);
  record.locationCount = 1;
}

/** The newer version stays; the result tells of the one that was replaced, or TRY_AGAIN to the older one's holder. */
function replaceVersion(record: Record, told: CommitRecord, isRemoved: bool, result: ResultRecord): void {
  describe(result, record);
  if (isRemoved || told.generation <= record.generation) {
    result.code = STATUS_TRY_AGAIN;
    return;
  }
  result.flags = FLAG_EXISTED;
  setVersion(record, told);
}

/** `rotation` 0: locations as they are; else those of the batch's first key begin with number `rotation - 1`. */
export function lookup(keys: usize, keysLength: u32, family: u32, rotation: u32): u32 {
  if (family > FAMILY_MAX && family != FAMILY_ANY) return CALL_BAD_ARGUMENT;
  const begun = begin(keys, keysLength, 0, 0);
  if (begun != CALL_OK) return begun;
  for (let index: u32 = 0; index < batchCount; index += 1) {
    touchGroup(index);
    const result = resultOf(index);
    const number = find(index);
    if (number == 0) {
      result.code = STATUS_NOT_FOUND;
      continue;
    }
    const record = recordAt(number);
    if (family != FAMILY_ANY && isOfOther(family, record, result)) continue;
    describeRotated(result, record, rotation == 0 ? 0 : rotation - 1 + index);
  }
  return CALL_OK;
}

export function remove(keys: usize, keysLength: u32, family: u32): u32 {
  if (family > FAMILY_MAX) return CALL_BAD_ARGUMENT;
  const begun = begin(keys, keysLength, 0, 0);
  if (begun != CALL_OK) return begun;
  for (let index: u32 = 0; index < batchCount; index += 1) {
    touchGroup(index);
    const number = find(index);
    if (number == 0) continue;
    const result = resultOf(index);
    const record = recordAt(number);
    if (isOfOther(family, record, result)) continue;
    describe(result, record);
    result.flags = FLAG_EXISTED;
    addTombstone(wholeHashOf(index), record.generation);
    forgetKey(number);
  }
  return CALL_OK;
}

export function forgetKey(number: u32): void {
  objectBytes -= recordAt(number).bytes;
  removeRecord(number);
}

export function announce(keys: usize, keysLength: u32, records: usize, recordsLength: u32, family: u32): u32 {
  if (family > FAMILY_MAX) return CALL_BAD_ARGUMENT;
  const begun = begin(keys, keysLength, recordsLength, COMMIT_RECORD_BYTES);
  if (begun != CALL_OK) return begun;
  for (let index: u32 = 0; index < batchCount; index += 1) {
    touchGroup(index);
    const result = resultOf(index);
    const told = changetype<CommitRecord>(records + <usize>index * COMMIT_RECORD_BYTES);
    if (!hasGoodLength(index) || !isGoodRecord(told, false)) {
      result.code = STATUS_INVALID;
      continue;
    }
    raiseGenerationTo(told.generation);
    const number = find(index);
    const isRemoved = told.generation <= removedGeneration(wholeHashOf(index));
    if (number == 0) {
      if (isRemoved) result.code = STATUS_TRY_AGAIN;
      else addKey(index, told, family, result);
      continue;
    }
    const record = recordAt(number);
    // What is there is good, even if a newer version was removed before it was committed.
    const isKnown = record.generation == told.generation;
    if (!(isRemoved && !isKnown) && isOfOther(family, record, result)) continue;
    if (isKnown) addLocation(record, told, result);
    else replaceVersion(record, told, isRemoved, result);
  }
  return CALL_OK;
}

/** A further holder of the version that is known. Of the device cache a member may be several: its devices. */
function addLocation(record: Record, told: CommitRecord, result: ResultRecord): void {
  const isCached = record.family == FAMILY_DEVICE_CACHE;
  const at = isCached ? placeOf(record, told.member, told.slot) : locationOf(record, told.member);
  const count = record.locationCount;
  if (record.bytes != told.bytes) {
    result.code = STATUS_DATA_INCONSISTENCY;
  } else if (at != LOCATIONS_MAX) {
    record.setLocation(at, told.member, told.slot);
  } else if (count == LOCATIONS_MAX) {
    result.code = STATUS_NO_SPACE;
  } else {
    record.setLocation(count, told.member, told.slot);
    record.locationCount = count + 1;
  }
  describe(result, record);
}

export function forgetLocations(keys: usize, keysLength: u32, records: usize, recordsLength: u32): u32 {
  const begun = begin(keys, keysLength, recordsLength, RESULT_RECORD_BYTES);
  if (begun != CALL_OK) return begun;
  for (let index: u32 = 0; index < batchCount; index += 1) {
    const number = find(index);
    if (number == 0) continue;
    const told = records + <usize>index * RESULT_RECORD_BYTES;
    const result = resultOf(index);
    const record = recordAt(number);
    const member = load<u32>(told + RESULT_LOCATIONS_OFFSET);
    const at = placeOf(record, member, load<u32>(told + RESULT_LOCATIONS_OFFSET, 4));
    if (record.generation == changetype<ResultRecord>(told).generation && at != LOCATIONS_MAX) {
      dropLocation(record, at);
      result.flags = FLAG_EXISTED;
    }
    describe(result, record);
    if (record.locationCount == 0) forgetKey(number);
  }
  return CALL_OK;
}

/** What an owner before this one removed: records carry the generations. */
export function entomb(keys: usize, keysLength: u32, records: usize, recordsLength: u32): u32 {
  const begun = begin(keys, keysLength, recordsLength, RESULT_RECORD_BYTES);
  if (begun != CALL_OK) return begun;
  if (!prepareTombstones()) return CALL_OUT_OF_MEMORY;
  for (let index: u32 = 0; index < batchCount; index += 1) {
    const told = changetype<ResultRecord>(records + <usize>index * RESULT_RECORD_BYTES);
    addTombstone(wholeHashOf(index), told.generation);
    const number = find(index);
    if (number == 0 || recordAt(number).generation > told.generation) continue;
    const result = resultOf(index);
    describe(result, recordAt(number));
    result.flags = FLAG_EXISTED;
    forgetKey(number);
  }
  return CALL_OK;
}
