/**
 * Exports of the module, and nothing else. Every call takes numbers and pointers into the module's memory. The host
 * asks for input space (`begin`), writes its bytes there, calls, and reads the result before it begins the next call.
 *
 * Pure: no imports, no clock, no randomness. The same calls give the same bytes. A trap means a broken invariant: the
 * instance must not be used any more.
 */
export { beginScratch as begin, limitMemory } from "./memory";
export { isByteAllowed, bytesMaxOf, validateBatch } from "./key";
import { faultIndex, faultDetail } from "./key";
export {
  TOKENS_PER_WEIGHT as tokensPerWeight,
  setRingFrom as setRing,
  keepRing,
  ownersOfBatch,
  keptOwnersOfBatch,
  groupBatch,
  ringEntries,
} from "./hash-ring";
import { groupCount, resultBytes, resultPointer, ringTokens } from "./hash-ring";
export { makePlan } from "./batch";
import { planFaultIndex, planResult, planSlices } from "./batch";
export { placeMoves } from "./moves";
import { movesResult } from "./moves";
export {
  announce,
  commit,
  directoryResults,
  entomb,
  forgetLocations,
  highestGeneration,
  lookup,
  raiseGenerationTo,
  remove,
  reserve,
  setGenerationMember,
} from "./directory";
export { forgetForeign, forgetMember } from "./directory-forget";
import { objectBytes } from "./directory";
import { keyCount, tableMemoryBytes } from "./directory-table";
import { hashBytes, setTableSeed, tableSeed } from "./hash";
import { tombstoneCount, tombstoneMemoryBytes } from "./tombstones";

/** After `validateBatch`: position of the faulty key, -1 for the batch as a whole. */
export function validateFaultIndex(): i32 {
  return faultIndex;
}

/** After `validateBatch`: what the reason asks for. */
export function validateFaultDetail(): u32 {
  return faultDetail;
}

/** Result of `ownersOfBatch` and `groupBatch`. */
export function ringResult(): usize {
  return resultPointer;
}

export function ringResultBytes(): u32 {
  return resultBytes;
}

export function ringGroupCount(): u32 {
  return groupCount;
}

export function ringTokenCount(): u32 {
  return ringTokens;
}

export function planRecords(): usize {
  return planResult;
}

export function planRecordCount(): u32 {
  return planSlices;
}

/** After a failed `makePlan`: the first key that broke a rule. */
export function planFault(): u32 {
  return planFaultIndex;
}

/** Result of `placeMoves`. */
export function movesPlaces(): usize {
  return movesResult;
}

export function directoryKeys(): u32 {
  return keyCount;
}

/** Bytes of all objects, each counted once. */
export function directoryObjectBytes(): u64 {
  return objectBytes;
}

/** Memory that the directory holds: records, index, key bytes, tombstones. */
export function directoryMemoryBytes(): u64 {
  return tableMemoryBytes() + tombstoneMemoryBytes();
}

export function directoryTombstones(): u32 {
  return tombstoneCount;
}

/** Seed of the tables; before anything is put into the directory. */
export function setHashSeed(seed: u64): void {
  assert(keyCount == 0 && tombstoneCount == 0);
  setTableSeed(seed);
}

/** XXH64 of bytes in the module's memory, with the seed that is set. */
export function hash(pointer: usize, bytes: u32): u64 {
  return hashBytes(pointer, bytes, tableSeed);
}
