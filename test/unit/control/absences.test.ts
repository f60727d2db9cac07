/**
 * Goal: copies of a worker count only if this member would know of what ended while it was away: it has seen the worker
 * for long enough, saw it go, and saw it come back in time, and was not away for too long itself. Method: views one by
 * one, in virtual time.
 */
import { beforeEach, describe, expect, it } from "vitest";
import { createVirtualClock, type VirtualClock } from "../../../src/base/clock.js";
import { Absences } from "../../../src/control/absences.js";
import type { MemberEntry, MembershipView } from "../../../src/control/membership.js";

const DEAD_AFTER_MS = 30_000;

let clock: VirtualClock;
let absences: Absences;
/** By id, of the view that was set last. */
let members: Map<number, MemberEntry>;

const entryOf = (id: number, revision: bigint, workerAddress: string): MemberEntry =>
  ({ member: { id, workerAddress }, revision }) as unknown as MemberEntry;

const setView = (entries: readonly MemberEntry[], decidedUntilMs = Number.POSITIVE_INFINITY): void => {
  members = new Map(entries.map((entry) => [entry.member.id, entry]));
  absences.setView({ members } as unknown as MembershipView, decidedUntilMs);
};

const self = entryOf(1, 1n, "a:1");
const before = entryOf(2, 2n, "b:1");
/** Of the same worker, after it joined again. */
const after = entryOf(2, 5n, "b:1");

beforeEach(() => {
  clock = createVirtualClock();
  absences = new Absences(clock, DEAD_AFTER_MS);
  setView([self, before]);
});

describe("the absence of a worker", () => {
  it.each([0, 1, DEAD_AFTER_MS])("of %s ms is short", async (awayMs) => {
    await clock.advance(DEAD_AFTER_MS);
    expect(absences.isInTime(2), "it was not away").toBe(false);
    setView([self]);
    await clock.advance(awayMs);
    setView([self, after]);
    expect(absences.isInTime(2)).toBe(true);
  });

  it("above the limit is long, and stays so however long the worker is back", async () => {
    await clock.advance(DEAD_AFTER_MS);
    setView([self]);
    await clock.advance(DEAD_AFTER_MS + 1);
    setView([self, after]);
    expect(absences.isInTime(2)).toBe(false);
    await clock.advance(10 * DEAD_AFTER_MS);
    setView([self, after]);
    expect(absences.isInTime(2)).toBe(false);
  });

  it("is short if it only started anew, also under another id", async () => {
    await clock.advance(DEAD_AFTER_MS);
    setView([self, entryOf(7, 9n, "b:1")]);
    expect([absences.isInTime(2), absences.isInTime(7)]).toEqual([false, true]);
  });

  it("can't be told of a worker that has not been seen for as long before", async () => {
    await clock.advance(DEAD_AFTER_MS - 1);
    setView([self, after]);
    expect(absences.isInTime(2)).toBe(false);
    await clock.advance(1);
    setView([self, entryOf(2, 6n, "b:1")]);
    expect(absences.isInTime(2)).toBe(true);
    setView([self, after, entryOf(3, 7n, "c:1")]);
    expect(absences.isInTime(3), "never seen").toBe(false);
  });

  it("can't be told by a member that was away for too long itself", async () => {
    await clock.advance(DEAD_AFTER_MS);
    const decidedUntilMs = clock.monotonicMs();
    await clock.advance(DEAD_AFTER_MS);
    setView([self, after], decidedUntilMs);
    expect(absences.isInTime(2)).toBe(true);
    await clock.advance(1);
    setView([self, entryOf(2, 6n, "b:1")], decidedUntilMs);
    expect(absences.isInTime(2)).toBe(false);
  });

  it("began when this member could decide last, if it was away, too", async () => {
    await clock.advance(DEAD_AFTER_MS);
    const decidedUntilMs = clock.monotonicMs();
    await clock.advance(DEAD_AFTER_MS / 2);
    setView([self], decidedUntilMs);
    await clock.advance(DEAD_AFTER_MS / 2 + 1);
    setView([self, after]);
    expect(absences.isInTime(2)).toBe(false);
  });
});
