/**
 * Randomness as an argument. The system source is for ids and jitter; the seeded one makes tests and simulations
 * repeatable.
 */
import { randomBytes } from "node:crypto";

export interface RandomSource {
  /** 0 <= x < 1. */
  nextFraction(): number;
  /** An integer, 0 <= x < `limit`; `limit` is 1 to 2^32. */
  nextBelow(limit: number): number;
}

export function createSystemRandom(): RandomSource {
  const nextFraction = (): number => randomBytes(4).readUInt32LE() / 2 ** 32;
  return { nextFraction, nextBelow: (limit) => Math.floor(nextFraction() * limit) };
}

/** mulberry32: small, fast and the same on every machine. Not for secrets. */
export function createSeededRandom(seed: number): RandomSource {
  let state = seed >>> 0;
  const nextFraction = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  return { nextFraction, nextBelow: (limit) => Math.floor(nextFraction() * limit) };
}
