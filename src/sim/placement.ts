/**
 * How evenly a ring shares very many keys, and how many a join moves: the real Wasm with all tokens places each key, in
 * a ring of N members and in one of N + 1. Nothing is stored.
 */
import { createDecisions, type Decisions } from "../decision/index.js";

export interface PlacementOptions {
  workers: number;
  keys: number;
  seed: number;
}

export interface PlacementResult {
  workers: number;
  keys: number;
  /** Keys of the owner that has most, as a multiple of the mean; and of the one that has fewest. */
  largestShare: number;
  smallestShare: number;
  movedByJoin: number;
  /** Moved keys as a multiple of 1/N of all keys. */
  movedShare: number;
  /** Moved keys whose new owner is not the one that joined. */
  movedElsewhere: number;
  secondsReal: number;
}

const KEYS_PER_BATCH = 100_000;
/** Keys of the batches: a prefix that depends on the seed, and a number. */
const PREFIX_BYTES = 8;
const DIGITS = 12;
const KEY_BYTES = PREFIX_BYTES + DIGITS;

/** `seconds` measures real time. */
export function measurePlacement(options: PlacementOptions, seconds: () => number): PlacementResult {
  const { workers, keys, seed } = options;
  const started = seconds();
  const before = createRing(workers);
  const after = createRing(workers + 1);
  const owned = new Float64Array(workers + 1);
  let moved = 0;
  let movedElsewhere = 0;
  for (let first = 0; first < keys; first += KEYS_PER_BATCH) {
    const batch = encodeBatch(seed, first, Math.min(KEYS_PER_BATCH, keys - first));
    const owners = before.ownersOf(batch);
    const newOwners = after.ownersOf(batch);
    for (let index = 0; index < owners.length; index++) {
      const owner = owners[index] as number;
      owned[owner] = (owned[owner] as number) + 1;
      if (owner !== newOwners[index]) {
        moved++;
        movedElsewhere += newOwners[index] === workers + 1 ? 0 : 1;
      }
    }
  }
  const mean = keys / workers;
  const shares = owned.subarray(1);
  return {
    workers,
    keys,
    largestShare: shares.reduce((a, b) => Math.max(a, b), 0) / mean,
    smallestShare: shares.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY) / mean,
    movedByJoin: moved,
    movedShare: (moved * workers) / keys,
    movedElsewhere,
    secondsReal: seconds() - started,
  };
}

function createRing(workers: number): Decisions {
  const decisions = createDecisions();
  decisions.setRing(
    Array.from({ length: workers }, (_, index) => ({
      id: index + 1,
      weight: 1,
      name: `10.${(index + 1) >> 8}.${(index + 1) & 255}.1:31501`,
    })),
  );
  return decisions;
}

/** A KeyBatch of `count` keys, numbered from `first`. Written as bytes: a text a key would take most of the time. */
function encodeBatch(seed: number, first: number, count: number): Uint8Array {
  const batch = new Uint8Array(Math.ceil((8 + count * (4 + KEY_BYTES)) / 8) * 8);
  const view = new DataView(batch.buffer);
  view.setUint32(0, count, true);
  view.setUint32(4, count * KEY_BYTES, true);
  const prefix = Buffer.from((seed >>> 0).toString(16).padStart(PREFIX_BYTES, "0"));
  const bytesAt = 8 + 4 * count;
  for (let index = 0; index < count; index++) {
    view.setUint32(8 + 4 * index, (index + 1) * KEY_BYTES, true);
    const at = bytesAt + index * KEY_BYTES;
    batch.set(prefix, at);
    let rest = first + index;
    for (let digit = DIGITS - 1; digit >= 0; digit--) {
      const tenth = Math.floor(rest / 10);
      batch[at + PREFIX_BYTES + digit] = 0x30 + rest - 10 * tenth;
      rest = tenth;
    }
  }
  return batch;
}
