/**
 * Goal: the directory keeps its memory small, uses it again, and says when it is used up. Method: memory is counted at
 * a million keys of several lengths; keys are removed and set again; a directory of 16 MiB is filled.
 */
import { describe, expect, test } from "vitest";
import { StatusCode } from "../../../src/base/errors.js";
import { createDecisions, type Directory, decodeResults, encodeCommits } from "../../../src/decision/index.js";
import { result, SKIP, told } from "./directory-support.js";
import { makeBatch } from "./support.js";

const { OK, NOT_FOUND, OUT_OF_MEMORY } = StatusCode;

/** Commits keys `first` to `first + count`, all at member 1. */
function fill(
  directory: Directory,
  first: number,
  count: number,
  keyBytes: number,
  each?: (keys: number) => void,
): void {
  const step = 10_000;
  const records = encodeCommits(Array.from({ length: step }, () => told(1)));
  for (let done = 0; done < count; done += step) {
    const results = directory.commit(makeBatch(first + done, step, keyBytes), records, SKIP);
    expect(decodeResults(results.subarray(0, 64))).toEqual([result(OK, false, told(1))]);
    each?.(done + step);
  }
}

describe("memory", () => {
  test.each([16, 57, 64])(
    "is at most 64 bytes a key beyond the key, at every size up to 1 M keys of %i bytes",
    (keyBytes) => {
      const { directory } = createDecisions();
      let worst = 0;
      fill(directory, 0, 1_000_000, keyBytes, (keys) => {
        const beyond = directory.stats().memoryBytes / keys - keyBytes;
        if (keys >= 250_000) worst = Math.max(worst, beyond);
      });
      const { keys, memoryBytes } = directory.stats();
      process.stdout.write(
        `1 M keys of ${keyBytes} bytes: ${(memoryBytes / keys - keyBytes).toFixed(2)} bytes beyond the key, at worst ${worst.toFixed(2)}\n`,
      );
      expect(keys).toBe(1_000_000);
      expect(worst).toBeLessThanOrEqual(64);
      const last = decodeResults(directory.lookup(makeBatch(999_990, 20, keyBytes))).map(({ code }) => code);
      expect(last).toEqual([...Array<StatusCode>(10).fill(OK), ...Array<StatusCode>(10).fill(NOT_FOUND)]);
    },
  );

  test("that removed keys leave is used again", () => {
    const { directory } = createDecisions();
    fill(directory, 0, 100_000, 40);
    let full = 0;
    for (let round = 1; round <= 6; round += 1) {
      directory.remove(makeBatch((round - 1) * 100_000, 100_000, 40));
      expect(directory.stats().keys).toBe(0);
      fill(directory, round * 100_000, 100_000, 40);
      // The first round takes the memory of all tombstones.
      if (round === 1) full = directory.stats().memoryBytes;
    }
    // Other keys fill segments unevenly in another way; nothing else may grow.
    expect(directory.stats().memoryBytes).toBeLessThanOrEqual(full * 1.05);
  });

  test("that is used up gives OUT_OF_MEMORY for the keys that found no room, and leaves the others whole", () => {
    const { directory } = createDecisions({ memoryBytesMax: 16n << 20n });
    const records = encodeCommits(Array.from({ length: 1000 }, () => told(1)));
    let stored = 0;
    let refused = 0;
    for (let first = 0; refused === 0 && first < 1_000_000; first += 1000) {
      const codes = decodeResults(directory.commit(makeBatch(first, 1000, 40), records, SKIP)).map(({ code }) => code);
      stored += codes.filter((code) => code === OK).length;
      refused += codes.filter((code) => code === OUT_OF_MEMORY).length;
    }
    expect(refused).toBeGreaterThan(0);
    expect(directory.stats().keys).toBe(stored);
    expect(stored).toBeGreaterThan(80_000);
    let found = 0;
    for (let first = 0; first < stored + refused; first += 1000) {
      found += decodeResults(directory.lookup(makeBatch(first, 1000, 40))).filter(({ code }) => code === OK).length;
    }
    expect(found).toBe(stored);
    // What is removed makes room again.
    directory.remove(makeBatch(0, 1000, 40));
    expect(
      decodeResults(directory.commit(makeBatch(5_000_000, 500, 40), records.subarray(0, 500 * 24), SKIP)).every(
        ({ code }) => code === OK,
      ),
    ).toBe(true);
  });
});
