/**
 * Goal: a removed key does not come back by what is told late. Method: late announcements and commits of each kind;
 * more removals than are remembered.
 */
import { describe, expect, test } from "vitest";
import { StatusCode } from "../../../src/base/errors.js";
import {
  createDecisions,
  type Directory,
  decodeResults,
  encodeCommits,
  encodeKeys,
  encodeResults,
  type Family,
  type ResultRecord,
} from "../../../src/decision/index.js";
import { createSingle, FAIL, otherFamily, REPLACE, result, SKIP, told } from "./directory-support.js";
import { makeBatch } from "./support.js";

const { OK, NOT_FOUND, TRY_AGAIN } = StatusCode;

describe("a removed key", () => {
  test("does not come back by a late announcement, but by a newer version", () => {
    const { announce, remove, lookup, commit } = createSingle();
    announce("a", told(5, 1, 11));
    announce("b", told(5, 1, 12));
    remove("a");
    // The version that was removed; one that was replaced before; from another holder too.
    for (const late of [told(5, 1, 11), told(5, 2, 22), told(4, 3, 33)]) {
      expect(announce("a", late)).toEqual(result(TRY_AGAIN, false));
    }
    expect(lookup("a").code).toBe(NOT_FOUND);
    // Another key of the same generation is not concerned.
    expect(announce("b", told(5, 2, 22)).code).toBe(OK);
    expect(commit("a", told(6, 1, 11), SKIP)).toEqual(result(OK, false, told(6, 1, 11)));
    expect(announce("a", told(6, 2, 22)).code).toBe(OK);
    expect(announce("a", told(5, 3, 33))).toMatchObject({ code: TRY_AGAIN, generation: 6n });
  });

  test.each<Family>([0, 1, 2])("of family %i is dropped late even if the key is of another family now", (family) => {
    const { announce, remove, commit, lookup } = createSingle();
    const next = ((family + 1) % 3) as Family;
    announce("a", told(5), family);
    remove("a", family);
    commit("a", told(6), SKIP, next);
    expect(announce("a", told(5, 2), family)).toMatchObject({ code: TRY_AGAIN, otherFamily: false });
    expect(announce("a", told(6, 2), family)).toEqual(otherFamily(next, told(6)));
    expect(lookup("a", next).locations.length).toBe(1);
  });

  test("is not put in again by its commit told late, nor by one that a newer version had replaced", () => {
    for (const existence of [SKIP, FAIL, REPLACE] as const) {
      const { commit, remove, lookup } = createSingle();
      commit("a", told(5, 1, 11), existence);
      remove("a");
      // The removed generation is told, so that the committer knows it for certain.
      expect(commit("a", told(5, 1, 11), existence)).toEqual({ ...result(TRY_AGAIN, false), generation: 5n });
      expect(lookup("a").code).toBe(NOT_FOUND);
      // Reserved before the removed one and committed after it: under skip and fail a set of its own.
      expect(commit("a", told(4, 2, 22), existence).code).toBe(existence === REPLACE ? TRY_AGAIN : OK);
      expect(lookup("a").code).toBe(existence === REPLACE ? NOT_FOUND : OK);
    }
  });

  test("stays removed while an older set that came later is there, and that one can be announced", () => {
    const { commit, remove, announce, lookup } = createSingle();
    commit("a", told(5, 1, 11), SKIP);
    remove("a");
    commit("a", told(4, 2, 22), SKIP);
    expect(announce("a", told(5, 1, 11)).code).toBe(TRY_AGAIN);
    expect(announce("a", told(4, 3, 33)).code).toBe(OK);
    expect(lookup("a").locations.map(({ member }) => member)).toEqual([2, 3]);
  });

  test("is one that was removed, not one whose holder is gone or whose owner changed", () => {
    const { announce, forget, directory } = createSingle();
    announce("evicted", told(5, 1, 11));
    announce("lost", told(5, 2, 22));
    forget("evicted", told(5, 1, 11));
    directory.forgetMember(2);
    expect(announce("evicted", told(5, 1, 11)).code).toBe(OK);
    expect(announce("lost", told(5, 2, 22)).code).toBe(OK);
    expect(directory.forgetForeign(1)).toBe(2);
    expect(announce("lost", told(5, 2, 22)).code).toBe(OK);
    expect(directory.stats().tombstones).toBe(0);
  });

  test("is remembered until 65,535 others were removed after it, in memory that does not grow", () => {
    const { directory } = createDecisions({ hashSeed: 99n });
    const step = 5_000;
    const records = (count: number): Uint8Array => encodeCommits(Array.from({ length: count }, () => told(1)));
    const announce = (first: number, count = step): number[] =>
      decodeResults(directory.announce(makeBatch(first, count), records(count))).map(({ code }) => code);
    const removeAfresh = (first: number, count = step): void => {
      expect(announce(first, count).every((code) => code === OK)).toBe(true);
      directory.remove(makeBatch(first, count));
    };
    for (let first = 0; first < 65_000; first += step) removeAfresh(first);
    removeAfresh(65_000, 535);
    expect(directory.stats()).toMatchObject({ keys: 0, tombstones: 65_535 });
    // All chunks are taken by now.
    const { memoryBytes } = directory.stats();
    expect(announce(0).every((code) => code === TRY_AGAIN)).toBe(true);
    // Removed again in a newer version: key 0 is now the last one.
    const again = (generation: number): number =>
      (decodeResults(directory.announce(makeBatch(0, 1), encodeCommits([told(generation)])))[0] as ResultRecord).code;
    expect(again(2)).toBe(OK);
    directory.remove(makeBatch(0, 1));
    expect(directory.stats().tombstones).toBe(65_535);
    removeAfresh(70_000, 100);
    // Keys 1 to 100 were the oldest.
    expect(announce(1, 100).every((code) => code === OK)).toBe(true);
    expect(announce(101, 100).every((code) => code === TRY_AGAIN)).toBe(true);
    expect(announce(70_000, 100).every((code) => code === TRY_AGAIN)).toBe(true);
    expect([again(2), again(3)]).toEqual([TRY_AGAIN, OK]);
    for (let first = 100_000; first < 300_000; first += step) removeAfresh(first);
    expect(announce(200_000 + 34_465).every((code) => code === TRY_AGAIN)).toBe(true);
    expect(announce(200_000 + 34_464, 1)).toEqual([OK]);
    expect(directory.stats().tombstones).toBe(65_535);
    expect(directory.stats().memoryBytes).toBeLessThanOrEqual(memoryBytes * 1.05);
  });

  test("is remembered in a full directory too, in place of the one removed longest ago", () => {
    const { directory } = createDecisions({ memoryBytesMax: 8n << 20n });
    const records = encodeCommits(Array.from({ length: 1000 }, () => told(1)));
    const codes = (results: Uint8Array): number[] => decodeResults(results).map(({ code }) => code);
    let stored = 0;
    while (codes(directory.announce(makeBatch(stored, 1000), records)).every((code) => code === OK)) stored += 1000;
    expect(stored).toBeGreaterThan(20_000);
    for (let first = 0; first < 20_000; first += 1000) directory.remove(makeBatch(first, 1000));
    // What was taken with the first key is all that there is.
    expect(directory.stats().tombstones).toBe(8_191);
    const late = codes(directory.announce(makeBatch(19_000, 1000), records));
    expect(late.every((code) => code === TRY_AGAIN)).toBe(true);
    expect(codes(directory.announce(makeBatch(20_000 - 8_191, 100), records.subarray(0, 2400)))).toEqual(
      Array<number>(100).fill(TRY_AGAIN),
    );
    expect(codes(directory.announce(makeBatch(20_000 - 8_192, 1), records.subarray(0, 24)))).toEqual([OK]);
  });
});

describe("a key that an owner before this one removed", () => {
  const entombed = (directory: Directory, key: string, generation: number): ResultRecord => {
    const records = encodeResults([result(OK, false, told(generation))]);
    return decodeResults(directory.entomb(encodeKeys([key]), records))[0] as ResultRecord;
  };

  test("does not come back by an announcement that comes later, but by a newer version", () => {
    const { directory, announce, lookup } = createSingle();
    expect(entombed(directory, "a", 5)).toEqual(result(OK, false));
    expect(announce("a", told(4, 2))).toEqual(result(TRY_AGAIN, false));
    expect(announce("a", told(5, 2))).toEqual(result(TRY_AGAIN, false));
    expect(lookup("a").code).toBe(NOT_FOUND);
    expect(announce("a", told(6, 2)).code).toBe(OK);
    expect(announce("b", told(5, 2)).code, "another key is not concerned").toBe(OK);
  });

  test("goes if its announcement came first, and who has it is told", () => {
    const { directory, announce, lookup } = createSingle();
    announce("a", told(5, 2, 22));
    announce("a", told(5, 3, 33));
    expect(entombed(directory, "a", 5)).toEqual(result(OK, true, told(5, 2, 22), told(5, 3, 33)));
    expect(lookup("a").code).toBe(NOT_FOUND);
    expect(directory.stats()).toMatchObject({ keys: 0, bytes: 0, tombstones: 1 });
  });

  test("stays if it was set anew since; told again changes nothing; records must be one a key", () => {
    const { directory, announce, lookup } = createSingle();
    announce("a", told(6, 2));
    expect(entombed(directory, "a", 5)).toEqual(result(OK, false));
    expect(entombed(directory, "a", 5)).toEqual(result(OK, false));
    expect(lookup("a")).toMatchObject({ code: OK, generation: 6n });
    expect(() => directory.entomb(encodeKeys(["a"]), new Uint8Array(63))).toThrow(/not one for each key/);
  });
});
