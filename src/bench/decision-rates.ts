/**
 * The Wasm functions on their own, on one core, through the same TypeScript calls that the control process makes, so
 * that the copies into and out of the module are part of every figure.
 */
import { createDecisions, type Decisions, type RingMember } from "../decision/index.js";

export const KEY_BYTES = 64;

/** A KeyBatch of keys of 64 bytes, numbered `first`, `first + stride`, ... */
export function makeBatch(first: number, count: number, stride = 1): Uint8Array {
  const batch = new Uint8Array(8 + 4 * count + KEY_BYTES * count + ((4 * count) % 8));
  const view = new DataView(batch.buffer);
  view.setUint32(0, count, true);
  view.setUint32(4, KEY_BYTES * count, true);
  for (let index = 0; index < count; index += 1) {
    view.setUint32(8 + 4 * index, KEY_BYTES * (index + 1), true);
    const at = 8 + 4 * count + KEY_BYTES * index;
    batch.fill(0x6b, at, at + KEY_BYTES);
    let rest = first + index * stride;
    for (let digit = 0; digit < 12; digit += 1) {
      batch[at + 40 + digit] = 0x30 + (rest % 10);
      rest = Math.floor(rest / 10);
    }
  }
  return batch;
}

/** Repeats `step` until the time is over; how many units of work a second. */
export function rate(unitsPerStep: number, ms: number, step: (number: number) => unknown): number {
  for (let warm = 0; warm < 20; warm += 1) {
    step(warm);
  }
  const start = performance.now();
  let steps = 0;
  let elapsedMs = 0;
  do {
    for (let inner = 0; inner < 8; inner += 1) {
      step(steps);
      steps += 1;
    }
    elapsedMs = performance.now() - start;
  } while (elapsedMs < ms);
  return (steps * unitsPerStep * 1000) / elapsedMs;
}

export function makeRing(count: number): RingMember[] {
  return Array.from({ length: count }, (_, index) => ({
    id: index + 1,
    weight: 1,
    name: `10.0.${index >> 8}.${index & 255}:31501`,
  }));
}

/** CommitRecords of `count` keys of 4 KB at member 1. */
export function makeCommits(count: number): Uint8Array {
  const records = new Uint8Array(24 * count);
  const view = new DataView(records.buffer);
  for (let index = 0; index < count; index += 1) {
    view.setBigUint64(24 * index, 1n, true);
    view.setBigUint64(24 * index + 8, 4096n, true);
    view.setUint32(24 * index + 20, 1, true);
  }
  return records;
}

export interface DecisionRow {
  name: string;
  batch: number;
  value: number;
  unit: "keys/s" | "blobs/s";
}

const members = 8;
const directoryKeys = 100_000;

/** Validation, placement, grouping, a plan, and the directory, for batches of one size. */
export function measureDecisions(batchKeys: number, msEach: number): DecisionRow[] {
  const decisions = createDecisions();
  decisions.setRing(makeRing(members));
  const count = Math.max(2, Math.ceil(directoryKeys / batchKeys));
  const batches = Array.from({ length: count }, (_, index) => makeBatch(index * batchKeys, batchKeys));
  const pick = (step: number): Uint8Array => batches[step % batches.length] ?? new Uint8Array();
  const row = (name: string, step: (number: number) => unknown): DecisionRow => {
    return { name, batch: batchKeys, value: rate(batchKeys, msEach, step), unit: "keys/s" };
  };
  return [
    row("validate", (step) => decisions.validateKeys(pick(step), "strict", 100_000)),
    row(`place on ${members} members`, (step) => decisions.ownersOf(pick(step))),
    row("group by owner", (step) => decisions.groupByOwner(pick(step))),
    ...directoryRows(decisions, batches, batchKeys, row),
    planRow(decisions, batchKeys, msEach),
  ];
}

function directoryRows(
  decisions: Decisions,
  batches: readonly Uint8Array[],
  batchKeys: number,
  row: (name: string, step: (number: number) => unknown) => DecisionRow,
): DecisionRow[] {
  const { directory } = decisions;
  const records = makeCommits(batchKeys);
  const pick = (step: number): Uint8Array => batches[step % batches.length] ?? new Uint8Array();
  for (const batch of batches) {
    directory.commit(batch, records, 0);
  }
  return [
    row("directory lookup", (step) => directory.lookup(pick(step))),
    row("directory reserve", (step) => directory.reserve(pick(step), 2)),
    row("directory commit, remove", (step) => {
      directory.remove(pick(step));
      directory.commit(pick(step), records, 0);
    }),
  ];
}

/** 61 blobs of 72 KB a key from one source, as a get of a KV cache asks for. */
function planRow(decisions: Decisions, keys: number, msEach: number): DecisionRow {
  const blobsPerKey = 61;
  const request = {
    members: new Uint32Array(keys).fill(1),
    blobEnds: Uint32Array.from({ length: keys }, (_, index) => (index + 1) * blobsPerKey),
    blobSizes: new BigUint64Array(keys * blobsPerKey).fill(73_728n),
    sliceBytesMax: 2 ** 20,
    lanes: 4,
  };
  const value = rate(keys * blobsPerKey, msEach, () => decisions.plan(request));
  return { name: "plan, 61 x 72 KB a key", batch: keys, value, unit: "blobs/s" };
}
