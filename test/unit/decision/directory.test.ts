/**
 * Goal: the directory answers as decisions.ts promises. Method: an example for each promise. Its neighbours look at
 * families and rotation, at removed keys, at memory, and at random calls.
 */
import { describe, expect, test } from "vitest";
import { StatusCode } from "../../../src/base/errors.js";
import {
  type CommitRecord,
  createDecisions,
  decodeResults,
  type ExistenceMode,
  encodeCommits,
} from "../../../src/decision/index.js";
import { createSingle, FAIL, REPLACE, result, SKIP, told } from "./directory-support.js";
import { createRandom, makeBatch, testSeed } from "./support.js";

const { OK, NOT_FOUND, TRY_AGAIN, INVALID, NO_SPACE, KEY_ALREADY_EXISTS, DATA_INCONSISTENCY, OUT_OF_RANGE } =
  StatusCode;

describe("reserve", () => {
  test("gives a new generation each time, and stores nothing", () => {
    const { reserve, lookup, directory } = createSingle();
    expect(
      [reserve("a", SKIP), reserve("a", FAIL), reserve("a", REPLACE)].map(({ code, generation }) => [code, generation]),
    ).toEqual([
      [OK, 1n],
      [OK, 2n],
      [OK, 3n],
    ]);
    expect(lookup("a")).toEqual(result(NOT_FOUND, false));
    directory.raiseGeneration(1000n);
    expect(reserve("a", SKIP).generation).toBe(1001n);
    directory.raiseGeneration(7n);
    expect(reserve("a", SKIP).generation).toBe(1002n);
  });

  test("with a member: its id in the low 16 bits, above the floor and above all before", () => {
    const { reserve, commit, directory } = createSingle();
    directory.raiseGeneration(0n, 7);
    const given = [reserve("a", SKIP).generation, reserve("a", SKIP).generation];
    expect(given).toEqual([7n, 0x1_0007n]);
    // Floors below, on and above the member's own bits; one that is behind; one that a commit tells.
    for (const [floor, next] of [
      [0x5_0006n, 0x5_0007n],
      [0x6_0007n, 0x7_0007n],
      [0x8_0008n, 0x9_0007n],
      [0x1_0000n, 0xa_0007n],
    ] as const) {
      directory.raiseGeneration(floor, 7);
      expect(reserve("a", SKIP).generation).toBe(next);
    }
    commit("b", { ...told(1), generation: 0xff_0009n }, SKIP);
    expect(reserve("a", SKIP).generation).toBe(0x100_0007n);
    // Another id does not lead back, and only its low 16 bits count.
    directory.raiseGeneration(0n, 0x1_0003);
    expect(reserve("a", SKIP).generation).toBe(0x102_0003n);
    directory.raiseGeneration(0x200_0000n);
    expect(reserve("a", SKIP).generation).toBe(0x200_0003n);
  });

  test("when no generation is left: OUT_OF_RANGE, never one that was given", () => {
    for (const self of [undefined, 5]) {
      const { reserve, commit, directory } = createSingle();
      directory.raiseGeneration((1n << 64n) - 0x2_0000n, self);
      expect(reserve("a", SKIP).code).toBe(OK);
      commit("b", { ...told(1), generation: (1n << 64n) - 1n }, SKIP);
      expect(reserve("a", SKIP)).toEqual(result(OUT_OF_RANGE, false));
      directory.raiseGeneration(3n, 6);
      expect(reserve("a", SKIP)).toEqual(result(OUT_OF_RANGE, false));
    }
  });

  test("two owners never give the same generation, whatever floors and commits they are told", () => {
    const random = createRandom(testSeed());
    const owners = [1, 2, 65_535, 65_536].map((self) => ({ self, last: 0n, ...createSingle() }));
    for (const { directory, self } of owners) directory.raiseGeneration(0n, self);
    const given = new Set<bigint>();
    for (let step = 0; step < 4_000; step += 1) {
      const owner = random.pick(owners);
      const kind = random.below(4);
      // What one owner gave reaches the others as floors and as commits.
      const heard = random.pick(owners).last + BigInt(random.below(200_000)) - 100_000n;
      const generation = heard > 0n ? heard : 1n;
      if (kind === 0) owner.directory.raiseGeneration(generation, owner.self);
      else if (kind === 1) owner.commit(`${step}`, { ...told(1), generation }, SKIP);
      const next = owner.reserve("new", SKIP).generation;
      expect(next & 0xffffn).toBe(BigInt(owner.self & 0xffff));
      expect(next > owner.last, `${next} after ${owner.last}`).toBe(true);
      expect(given.has(next), `${next} was given`).toBe(false);
      given.add(next);
      owner.last = next;
    }
  });

  test("of a key that is there: existed, KEY_ALREADY_EXISTS, or a new generation", () => {
    const { reserve, commit } = createSingle();
    commit("a", told(5), SKIP);
    expect(reserve("a", SKIP)).toEqual(result(OK, true, told(5)));
    expect(reserve("a", FAIL)).toEqual(result(KEY_ALREADY_EXISTS, true, told(5)));
    expect(reserve("a", REPLACE)).toEqual({ ...result(OK, false), generation: 6n });
  });
});

describe("commit", () => {
  test("under skip and fail the first wins", () => {
    const { commit, lookup } = createSingle();
    expect(commit("a", told(2, 1, 11), SKIP)).toEqual(result(OK, false, told(2, 1, 11)));
    expect(commit("a", told(1, 2, 22), SKIP)).toEqual(result(OK, true, told(2, 1, 11)));
    expect(commit("a", told(3, 2, 22), FAIL)).toEqual(result(KEY_ALREADY_EXISTS, true, told(2, 1, 11)));
    expect(lookup("a")).toEqual(result(OK, false, told(2, 1, 11)));
  });

  test("under replace the newer generation wins, and the result tells what to drop", () => {
    const { commit, lookup, directory } = createSingle();
    expect(commit("a", told(2, 1, 11, 100), REPLACE)).toEqual(result(OK, false, told(2, 1, 11, 100)));
    expect(commit("a", told(4, 2, 22, 500), REPLACE)).toEqual(result(OK, true, told(2, 1, 11, 100)));
    expect(commit("a", told(3, 3, 33, 900), REPLACE)).toMatchObject({ code: TRY_AGAIN, existed: false });
    expect(lookup("a")).toEqual(result(OK, false, told(4, 2, 22, 500)));
    expect(directory.stats()).toMatchObject({ keys: 1, bytes: 500 });
  });

  test.each<ExistenceMode>([SKIP, FAIL, REPLACE])(
    "told again under mode %i is OK, since the answer may have been lost",
    (existence) => {
      const { commit } = createSingle();
      commit("a", told(2, 1, 11), existence);
      expect(commit("a", told(2, 1, 11), existence)).toEqual(result(OK, false, told(2, 1, 11)));
    },
  );

  test("with generation 0 gives one and keeps the key in one step, under skip and fail", () => {
    const { commit, lookup } = createSingle();
    commit("a", told(40, 1, 11), SKIP);
    expect(commit("a", told(0, 2, 22), SKIP)).toEqual(result(OK, true, told(40, 1, 11)));
    expect(commit("a", told(0, 2, 22), FAIL)).toEqual(result(KEY_ALREADY_EXISTS, true, told(40, 1, 11)));
    expect(commit("b", told(0, 2, 22), FAIL)).toEqual(result(OK, false, told(41, 2, 22)));
    expect(commit("c", told(0, 2, 23), SKIP)).toEqual(result(OK, false, told(42, 2, 23)));
    expect(lookup("b")).toEqual(result(OK, false, told(41, 2, 22)));
    expect(commit("d", told(0), REPLACE), "an old version would be gone before the new one is whole").toEqual(
      result(INVALID, false),
    );
  });

  test("with generation 0 a location in the asker's own slot is an older one's, and goes", () => {
    const { commit, announce, lookup, directory } = createSingle();
    commit("a", told(5, 1, 11), SKIP);
    announce("a", told(5, 2, 22));
    expect(commit("a", told(0, 1, 11), SKIP)).toEqual(result(OK, true, told(5, 2, 22)));
    expect(commit("a", told(0, 2, 22, 900), SKIP)).toEqual(result(OK, false, told(6, 2, 22, 900)));
    expect(lookup("a")).toEqual(result(OK, false, told(6, 2, 22, 900)));
    expect(directory.stats()).toMatchObject({ keys: 1, bytes: 900 });
  });

  test("raises the generations that are given", () => {
    const { commit, reserve } = createSingle();
    commit("a", told(41), SKIP);
    expect(reserve("b", SKIP).generation).toBe(42n);
  });

  test.each<[string, string, CommitRecord]>([
    ["member 0", "a", told(1, 0)],
    ["member 65,536", "a", told(1, 65_536)],
    ["a size of 2^48", "a", { ...told(1), bytes: 1n << 48n }],
    ["an empty key", "", told(1)],
    ["a key of 1,025 bytes", "x".repeat(1025), told(1)],
    ["a key of 1,025 bytes with its tenant", `0123456789abcdef\x1f${"x".repeat(1025)}`, told(1)],
    ["a key of 1,041 bytes without a tenant", `0123456789abcdeg\x1f${"x".repeat(1024)}`, told(1)],
  ])("with %s is INVALID and leaves nothing", (_, key, record) => {
    const { commit, announce, directory } = createSingle();
    expect(commit(key, record, SKIP)).toEqual(result(INVALID, false));
    expect(announce(key, record)).toEqual(result(INVALID, false));
    expect(directory.stats()).toMatchObject({ keys: 0, bytes: 0 });
  });

  test.each([1, 7, 8, 9, 255, 256, 257, 288, 289, 1023, 1024])(
    "keeps a key of %i bytes, largest size and ids included, for two tenants",
    (length) => {
      const { commit, lookup } = createSingle();
      const record = { generation: (1n << 64n) - 2n, bytes: (1n << 48n) - 1n, slot: 0xffffffff, member: 65_535 };
      for (const tenant of ["", `0123456789abcdef\x1f`]) {
        const key = `${tenant}${"x".repeat(length)}`;
        expect(lookup(key).code).toBe(NOT_FOUND);
        commit(key, record, SKIP);
        expect(lookup(key)).toEqual(result(OK, false, record));
        expect(lookup(`${key.slice(0, -1)}y`).code).toBe(NOT_FOUND);
      }
    },
  );
});

describe("announce", () => {
  test("with generation 0 is INVALID: what is held has one", () => {
    const { announce, lookup } = createSingle();
    expect(announce("a", told(0))).toEqual(result(INVALID, false));
    expect(lookup("a").code).toBe(NOT_FOUND);
  });

  test("a new key, a further holder, the same holder at another slot", () => {
    const { announce, lookup } = createSingle();
    expect(announce("a", told(3, 1, 11))).toEqual(result(OK, false, told(3, 1, 11)));
    expect(announce("a", told(3, 2, 22))).toEqual(result(OK, false, told(3, 1, 11), told(3, 2, 22)));
    expect(announce("a", told(3, 1, 12))).toEqual(result(OK, false, told(3, 1, 12), told(3, 2, 22)));
    expect(lookup("a").locations.length).toBe(2);
  });

  test("a higher generation wins, a lower one has to be dropped", () => {
    const { announce, lookup } = createSingle();
    announce("a", told(3, 1, 11));
    announce("a", told(3, 2, 22));
    expect(announce("a", told(4, 3, 33))).toEqual(result(OK, true, told(3, 1, 11), told(3, 2, 22)));
    expect(announce("a", told(3, 1, 11)).code).toBe(TRY_AGAIN);
    expect(lookup("a")).toEqual(result(OK, false, told(4, 3, 33)));
  });

  test("four holders are known, the fifth is not taken up", () => {
    const { announce, lookup } = createSingle();
    const holders = [1, 2, 3, 4].map((member) => told(9, member, member * 10));
    for (const holder of holders) {
      expect(announce("a", holder).code).toBe(OK);
    }
    expect(announce("a", told(9, 5, 50)).code).toBe(NO_SPACE);
    expect(lookup("a").locations.map(({ member }) => member)).toEqual([1, 2, 3, 4]);
  });

  test("the same generation with another size", () => {
    const { announce } = createSingle();
    announce("a", told(3, 1, 11, 100));
    expect(announce("a", told(3, 2, 22, 101)).code).toBe(DATA_INCONSISTENCY);
  });
});

describe("remove and forget", () => {
  test("remove tells what was there, once", () => {
    const { announce, remove, lookup } = createSingle();
    announce("a", told(3, 1, 11));
    announce("a", told(3, 2, 22));
    expect(remove("a")).toEqual(result(OK, true, told(3, 1, 11), told(3, 2, 22)));
    expect(remove("a")).toEqual(result(OK, false));
    expect(lookup("a")).toEqual(result(NOT_FOUND, false));
  });

  test("one location: only of this generation, member and slot; the last one takes the key along", () => {
    const { announce, forget, lookup, directory } = createSingle();
    announce("a", told(3, 1, 11));
    announce("a", told(3, 2, 22));
    for (const stale of [told(2, 1, 11), told(3, 3, 11), told(3, 1, 12)]) {
      expect(forget("a", stale)).toEqual(result(OK, false, told(3, 1, 11), told(3, 2, 22)));
    }
    expect(forget("a", told(3, 1, 11))).toEqual(result(OK, true, told(3, 2, 22)));
    expect(forget("a", told(3, 2, 22))).toEqual({ ...result(OK, true, told(3)), locations: [] });
    expect(forget("a", told(3, 2, 22))).toEqual(result(OK, false));
    expect(lookup("a").code).toBe(NOT_FOUND);
    expect(directory.stats()).toMatchObject({ keys: 0, bytes: 0 });
  });

  test("a member: its locations go, and the keys that had no other", () => {
    const { announce, lookup, directory } = createSingle();
    announce("only", told(1, 1));
    announce("both", told(2, 1));
    announce("both", told(2, 2));
    announce("other", told(3, 2));
    expect(directory.forgetMember(1)).toBe(1);
    expect(["only", "both", "other"].map((key) => lookup(key).locations.map(({ member }) => member))).toEqual([
      [],
      [2],
      [2],
    ]);
    expect(directory.forgetMember(1)).toBe(0);
  });

  test("what another member owns under the ring", () => {
    const decisions = createDecisions();
    const keys = makeBatch(0, 10_000);
    decisions.directory.announce(keys, encodeCommits(Array.from({ length: 10_000 }, (_, index) => told(index + 1))));
    decisions.setRing([1, 2, 3].map((id) => ({ id, weight: 1, name: `member-${id}` })));
    const owners = decisions.ownersOf(keys);
    const foreign = owners.filter((owner) => owner !== 2).length;
    expect(decisions.directory.forgetForeign(2)).toBe(foreign);
    const codes = decodeResults(decisions.directory.lookup(keys)).map(({ code }) => code);
    expect(codes).toEqual([...owners].map((owner) => (owner === 2 ? OK : NOT_FOUND)));
    expect(foreign).toBeGreaterThan(5_000);
  });
});
