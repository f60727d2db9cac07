/**
 * Goal: a version that was replaced is buried as soon as the newer one is known to be whole, never before, and not if
 * the newer one was never sealed. Method: a holder that says what a test wants, in virtual time.
 */
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createVirtualClock, type VirtualClock } from "../../../src/base/clock.js";
import { StatusCode } from "../../../src/base/errors.js";
import { createSilentLogger } from "../../../src/base/log.js";
import { HELD_SEALED } from "../../../src/control/layout-constants.js";
import type { MembershipView } from "../../../src/control/membership.js";
import { Superseded } from "../../../src/control/superseded.js";
import { createDecisions, type Decisions, encodeCommits, encodeKeys } from "../../../src/decision/index.js";

const DEAD_AFTER_MS = 30_000;
const RETRY_MS = 1_000;
const HOLDER = 3;
const OLD = { key: "k", generation: 7n, locations: [{ member: 9, slot: 4 }] };
const REPLACED = { ...OLD, newer: { generation: 8n, location: { member: HOLDER, slot: 5 } } };
const SEALED = { code: StatusCode.OK, flags: HELD_SEALED };
const WRITTEN = { code: StatusCode.OK, flags: 0 };
const GONE = { code: StatusCode.NOT_FOUND, flags: 0 };

let clock: VirtualClock;
let decisions: Decisions;
let superseded: Superseded;
/** What the holder says next; undefined: it can't be reached. */
let answer: { code: StatusCode; flags: number } | undefined;
let asked: [number, readonly object[]][];
let buried: [string, bigint][];
let entombed: [string, bigint][];
/** How many were buried at once. */
let calls: number[];
/** What burying throws. */
let fault: Error | undefined;

const setMembers = (ids: readonly number[]): void => {
  const members = new Map(ids.map((id) => [id, { member: { id, workerAddress: `${id % 10}:1` } }]));
  superseded.setView({ members } as unknown as MembershipView);
};

beforeEach(() => {
  clock = createVirtualClock();
  decisions = createDecisions();
  answer = WRITTEN;
  asked = [];
  buried = [];
  entombed = [];
  calls = [];
  fault = undefined;
  superseded = new Superseded({
    decisions,
    clock,
    log: createSilentLogger(),
    deadAfterMs: DEAD_AFTER_MS,
    holders: {
      describe: async (member, objects) => {
        asked.push([member, objects]);
        if (answer === undefined) {
          throw new Error("it can't be reached");
        }
        const said = answer;
        return objects.map(() => ({ ...said, blobSizes: [] }));
      },
    },
    graves: {
      bury: async (versions) =>
        void buried.push(...versions.map(({ key, generation }): [string, bigint] => [key, generation])),
      entomb: (versions) => {
        calls.push(versions.length);
        if (fault !== undefined) {
          throw fault;
        }
        entombed.push(...versions.map(({ key, generation }): [string, bigint] => [key, generation]));
      },
    },
  });
  setMembers([HOLDER]);
});

afterEach(() => superseded.close());

const expectBuried = (): void => {
  expect(buried).toEqual([["k", 7n]]);
  expect(entombed).toEqual(buried);
  expect(superseded.count).toBe(0);
};

const expectForgotten = async (): Promise<void> => {
  expect(superseded.count).toBe(0);
  await clock.advance(2 * DEAD_AFTER_MS);
  expect(buried).toEqual([]);
  expect(entombed).toEqual([]);
};

describe("a replaced version", () => {
  it("is buried when the newer one's holder says that it is sealed, which it is asked soon", async () => {
    superseded.note([REPLACED]);
    answer = SEALED;
    await clock.advance(20);
    expect(asked).toEqual([[HOLDER, [{ slot: 5, generation: 8n }]]]);
    expectBuried();
    await clock.advance(60_000);
    expect(asked.length, "nothing is asked any more").toBe(1);
  });

  it("is not while that one is only written, or can't be asked", async () => {
    superseded.note([REPLACED]);
    await clock.advance(100_000);
    answer = undefined;
    await clock.advance(100_000);
    expect([buried, superseded.count]).toEqual([[], 1]);
    answer = SEALED;
    await clock.advance(1_000);
    expectBuried();
  });

  it("is forgotten when that one says three times that the newer one is not there", async () => {
    superseded.note([REPLACED]);
    answer = GONE;
    await clock.advance(1_900);
    expect(superseded.count).toBe(1);
    await clock.advance(200);
    await expectForgotten();
  });

  it("is buried by whoever tells that the newer version is, or was, whole, of that very version alone", async () => {
    superseded.note([REPLACED]);
    superseded.isWhole("k", 9n);
    superseded.isWhole("other", 8n);
    expect(superseded.count).toBe(1);
    superseded.isWhole("k", 8n);
    expectBuried();
  });

  it("is forgotten if the newer one's setter is no member as it is answered", async () => {
    setMembers([]);
    superseded.note([REPLACED]);
    await expectForgotten();
  });

  it("waits for the setter's worker, which may be back under another id", async () => {
    superseded.note([REPLACED]);
    setMembers([]);
    await clock.advance(DEAD_AFTER_MS - 1_000);
    setMembers([HOLDER + 10]);
    answer = GONE;
    await clock.advance(3_100);
    expect(asked.at(-1)?.[0]).toBe(HOLDER + 10);
    await expectForgotten();
  });

  it("is buried when that worker is not back in time: its set was answered", async () => {
    superseded.note([REPLACED]);
    setMembers([]);
    await clock.advance(DEAD_AFTER_MS);
    expect(buried).toEqual([]);
    await clock.advance(2_000);
    expectBuried();
  });

  it("is not even then if somebody has brought it back", async () => {
    superseded.note([REPLACED]);
    const records = encodeCommits([{ generation: 7n, bytes: 1n, member: 9, slot: 4 }]);
    decisions.directory.announce(encodeKeys(["k"]), records, 0);
    setMembers([]);
    await clock.advance(DEAD_AFTER_MS + 2_000);
    await expectForgotten();
  });

  it("is buried with all others of that worker, so many at once as one call takes", async () => {
    superseded.note(Array.from({ length: 25_000 }, (_, index) => ({ ...REPLACED, key: `key-${index}` })));
    setMembers([]);
    await clock.advance(DEAD_AFTER_MS + 2_000);
    expect(calls).toEqual([10_000, 10_000, 5_000]);
    expect([buried.length, superseded.count]).toEqual([25_000, 0]);
  });

  it("that can't be buried is tried again", async () => {
    superseded.note([REPLACED]);
    setMembers([]);
    fault = new Error("no memory");
    await clock.advance(DEAD_AFTER_MS + 2_000);
    expect([buried, superseded.count]).toEqual([[], 1]);
    fault = undefined;
    await clock.advance(RETRY_MS);
    expectBuried();
  });

  it("of 65,536 is kept, and of more the oldest is not", () => {
    const many = (count: number, from: number) =>
      Array.from({ length: count }, (_, index) => ({ ...REPLACED, key: `key-${from + index}` }));
    superseded.note(many(65_536, 0));
    expect(superseded.count).toBe(65_536);
    superseded.note(many(1, 65_536));
    expect(superseded.count).toBe(65_536);
    superseded.isWhole("key-0", 8n);
    superseded.isWhole("key-1", 8n);
    expect(buried).toEqual([["key-1", 7n]]);
  });
});
