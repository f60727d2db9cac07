/**
 * Goal: keys of different families never meet, and the locations of a lookup rotate. Method: each call with each other
 * family, under each mode; every rotation of one to four locations.
 */
import { describe, expect, test } from "vitest";
import { StatusCode } from "../../../src/base/errors.js";
import {
  createDecisions,
  decodeResults,
  encodeCommits,
  encodeKeys,
  FAMILY_ANY,
  type Family,
} from "../../../src/decision/index.js";
import { createSingle, FAIL, otherFamily, REPLACE, result, SKIP, told } from "./directory-support.js";
import { expectRaises } from "./support.js";

const { OK, NOT_FOUND, NO_SPACE, OUT_OF_RANGE } = StatusCode;

describe("families", () => {
  const families: Family[] = [0, 1, 2];

  test.each(families)("a key of family %i is INVALID to the others, told what it is, and stays as it is", (family) => {
    const { reserve, commit, announce, lookup, remove, directory } = createSingle();
    expect(reserve("a", SKIP, family).code).toBe(OK);
    expect(commit("a", told(5, 1, 11), SKIP, family)).toEqual({ ...result(OK, false, told(5, 1, 11)), family });
    const there = { ...result(OK, false, told(5, 1, 11)), family };
    for (const other of families.filter((each) => each !== family)) {
      for (const existence of [SKIP, FAIL, REPLACE] as const) {
        expect(reserve("a", existence, other)).toEqual(otherFamily(family, told(5)));
        // A newer version, and the very same one.
        expect(commit("a", told(9, 1, 11), existence, other)).toEqual(otherFamily(family, told(5)));
        expect(commit("a", told(5, 1, 11), existence, other)).toEqual(otherFamily(family, told(5)));
      }
      expect(announce("a", told(5, 2, 22), other)).toEqual(otherFamily(family, told(5)));
      expect(announce("a", told(9, 2, 22), other)).toEqual(otherFamily(family, told(5)));
      expect(lookup("a", other)).toEqual(otherFamily(family, told(5)));
      expect(remove("a", other)).toEqual(otherFamily(family, told(5)));
      expect(lookup("a", family)).toEqual(there);
    }
    expect(lookup("a", FAMILY_ANY)).toEqual(there);
    expect(lookup("b", FAMILY_ANY)).toEqual(result(NOT_FOUND, false));
    expect(directory.stats()).toMatchObject({ keys: 1, bytes: 100 });
    expect(remove("a", family)).toEqual({ ...there, existed: true });
    expect(commit("a", told(10), SKIP, families[(family + 1) % 3]).code).toBe(OK);
  });

  test("keep their locations, slots of device memory included", () => {
    const { announce, forget, lookup } = createSingle();
    announce("a", told(3, 1, 0x8000_0001), 2);
    announce("a", told(3, 2, 0xffff_ffff), 2);
    expect(forget("a", told(3, 1, 0x8000_0001))).toEqual({ ...result(OK, true, told(3, 2, 0xffff_ffff)), family: 2 });
    expect(announce("a", told(4, 3, 0x8000_0003), 2)).toMatchObject({ existed: true, family: 2 });
    expect(lookup("a", 2)).toEqual({ ...result(OK, false, told(4, 3, 0x8000_0003)), family: 2 });
  });

  test("of the device cache a member is one location for each slot; of the others its last slot", () => {
    const { announce, commit, forget, lookup, directory } = createSingle();
    const [first, second, third] = [told(3, 1, 11), told(3, 1, 12), told(3, 2, 21)] as const;
    for (const family of [0, 1] as const) {
      for (const each of [first, second, second]) {
        announce(`a${family}`, each, family);
      }
      expect(lookup(`a${family}`, family)).toEqual({ ...result(OK, false, second), family });
    }
    for (const each of [first, second, third, second]) {
      announce("a", each, 2);
    }
    expect(lookup("a", 2)).toEqual({ ...result(OK, false, first, second, third), family: 2 });
    expect(commit("a", second, FAIL, 2)).toEqual({ ...result(OK, false, first, second, third), family: 2 });
    expect(announce("a", told(3, 1, 13), 2).code).toBe(OK);
    expect(announce("a", told(3, 1, 14), 2).code).toBe(NO_SPACE);
    expect(forget("a", told(3, 1, 14))).toMatchObject({ existed: false });
    expect(forget("a", second)).toEqual({ ...result(OK, true, first, third, told(3, 1, 13)), family: 2 });
    // The member goes with all of them, and the keys that nobody else has.
    announce("alone", told(4, 1, 15), 2);
    announce("alone", told(4, 1, 16), 2);
    expect(directory.forgetMember(1)).toBe(3);
    expect(lookup("a", 2)).toEqual({ ...result(OK, false, third), family: 2 });
  });

  test("that are none are OUT_OF_RANGE", () => {
    const { reserve, commit, announce, lookup, remove, directory } = createSingle();
    const calls = [
      (family: Family) => reserve("a", SKIP, family),
      (family: Family) => commit("a", told(1), SKIP, family),
      (family: Family) => announce("a", told(1), family),
      (family: Family) => remove("a", family),
    ];
    for (const call of calls) {
      for (const family of [3, 255, 256]) {
        expectRaises(() => call(family as Family), OUT_OF_RANGE, /a family from 0 to 2/);
      }
    }
    expectRaises(() => lookup("a", 254 as Family), OUT_OF_RANGE, /a family from 0 to 2/);
    expect(directory.stats().keys).toBe(0);
  });
});

test.each([1, 2, 3, 4])("%i locations rotate with the key and the number given, and stay as they are", (count) => {
  const { directory } = createDecisions();
  const names = Array.from({ length: 50 }, (_, index) => `${index}`);
  const members = Array.from({ length: count }, (_, index) => index + 1);
  for (const member of members) {
    directory.announce(encodeKeys(names), encodeCommits(names.map(() => told(7, member, 10 * member))));
  }
  for (const rotate of [undefined, 0, 1, 5, 12, 4_294_967_295, 2 ** 40 + 3]) {
    const found = decodeResults(directory.lookup(encodeKeys(names), 0, rotate));
    for (const [index, { locations }] of found.entries()) {
      const first = rotate === undefined ? 0 : (rotate + index) % count;
      const expected = [...members.slice(first), ...members.slice(0, first)];
      expect(locations).toEqual(expected.map((member) => ({ member, slot: 10 * member })));
    }
  }
});
