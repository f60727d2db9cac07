/** Helpers of the decision tests: seeded random numbers, keys, batches made by hand. */
import { expect } from "vitest";
import { HbmeshError, type StatusCode } from "../../../src/base/errors.js";

/** HBMESH_SEED replays a run; printed by each test that uses it. */
export function testSeed(): number {
  const given = process.env.HBMESH_SEED;
  const seed = given === undefined ? Date.now() % 0x7fffffff : Number(given);
  process.stdout.write(`HBMESH_SEED=${seed}\n`);
  return seed;
}

export interface Random {
  /** Whole number from 0 to below the limit. */
  below(limit: number): number;
  pick<T>(values: readonly T[]): T;
}

/** Mulberry32. */
export function createRandom(seed: number): Random {
  let state = seed >>> 0;
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let value = Math.imul(state ^ (state >>> 15), state | 1);
    value ^= value + Math.imul(value ^ (value >>> 7), value | 61);
    return (value ^ (value >>> 14)) >>> 0;
  };
  return {
    below: (limit) => next() % limit,
    pick: (values) => values[next() % values.length] as (typeof values)[number],
  };
}

/** A batch of keys of `keyBytes` bytes each, numbered from `first`; made without text, for large counts. */
export function makeBatch(first: number, count: number, keyBytes = 24): Uint8Array {
  const exact = 8 + count * (4 + keyBytes);
  const batch = new Uint8Array(Math.ceil(exact / 8) * 8);
  const view = new DataView(batch.buffer);
  view.setUint32(0, count, true);
  view.setUint32(4, count * keyBytes, true);
  const bytesAt = 8 + 4 * count;
  for (let index = 0; index < count; index += 1) {
    view.setUint32(8 + 4 * index, (index + 1) * keyBytes, true);
    const at = bytesAt + index * keyBytes;
    batch.fill(0x6b, at, at + keyBytes);
    let rest = first + index;
    for (let digit = 0; digit < 10; digit += 1) {
      batch[at + digit] = 0x30 + (rest % 10);
      rest = Math.floor(rest / 10);
    }
  }
  return batch;
}

/** Asserts that the call raises this code with a message that matches. */
export function expectRaises(call: () => unknown, code: StatusCode, message: RegExp): void {
  let raised: unknown;
  try {
    call();
  } catch (error) {
    raised = error;
  }
  expect(raised).toBeInstanceOf(HbmeshError);
  expect(raised).toMatchObject({ code });
  expect((raised as Error).message).toMatch(message);
}
