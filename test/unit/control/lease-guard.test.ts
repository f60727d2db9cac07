/**
 * Goal: members whose leases ended at once don't ask the same three witnesses at once, nor more often than needed;
 * what they are told lasts until they ask again; and who is cut off knows it. Method: guards in virtual time, whose
 * witnesses answer as the test says; when each is asked.
 */
import { describe, expect, it } from "vitest";
import { createVirtualClock } from "../../../src/base/clock.js";
import { createSilentLogger } from "../../../src/base/log.js";
import { createSeededRandom } from "../../../src/base/random.js";
import { LeaseGuard } from "../../../src/control/lease-guard.js";
import type { MembershipView } from "../../../src/control/membership.js";
import type { Peers } from "../../../src/control/peers.js";

const WATCHED_MS = 30_000;
const STEP_MS = 5;

/** Times at which a guard asked its first witness, and whether it could decide all the time after its first answers. */
async function watch(
  seed: number,
  memberCount: number,
): Promise<{ gapsMs: number[]; firstMs: number; holds: boolean }> {
  const clock = createVirtualClock();
  const members = new Map(Array.from({ length: memberCount }, (_, at) => [at + 1, {}]));
  const view = { epoch: 7n, selfId: memberCount, members } as unknown as MembershipView;
  const askedMs: number[] = [];
  const get = (id: number): unknown => ({
    directory: {
      witness: async () => {
        if (id === 1) {
          askedMs.push(clock.monotonicMs());
        }
        return { epoch: 7n, leaseOver: true };
      },
    },
  });
  const guard = new LeaseGuard({
    clock,
    log: createSilentLogger(),
    random: createSeededRandom(seed),
    peers: { get } as unknown as Peers,
    view: () => view,
    leaseUntilMs: () => 0,
    isRecordCurrent: () => true,
    onResume: () => {},
    onOut: () => {},
  });
  guard.renewed();
  let holds = true;
  for (let passedMs = 0; passedMs < WATCHED_MS; passedMs += STEP_MS) {
    await clock.advance(STEP_MS);
    holds &&= askedMs.length === 0 || guard.mayDecide;
  }
  guard.close();
  const gapsMs = askedMs.slice(1).map((atMs, index) => atMs - (askedMs[index] as number));
  return { gapsMs, firstMs: askedMs[0] as number, holds };
}

describe("asking witnesses", () => {
  it.each([
    { memberCount: 100, leastMs: 225, mostMs: 375 },
    { memberCount: 101, leastMs: 450, mostMs: 750 },
  ])("$memberCount members: every $leastMs to $mostMs ms, and no gap in which it may not decide", async (expected) => {
    const { gapsMs, holds } = await watch(1, expected.memberCount);
    // The first answers are not known yet when the second look is set.
    const settled = gapsMs.slice(1);
    expect(Math.min(...settled)).toBeGreaterThanOrEqual(expected.leastMs - STEP_MS);
    expect(Math.max(...settled)).toBeLessThanOrEqual(expected.mostMs + STEP_MS);
    expect(new Set(settled).size).toBeGreaterThan(5);
    expect(holds).toBe(true);
  });

  it("members draw apart", async () => {
    const firsts = await Promise.all(Array.from({ length: 20 }, (_, seed) => watch(seed + 1, 101)));
    expect(new Set(firsts.map(({ firstMs }) => firstMs)).size).toBeGreaterThan(10);
  });
});

describe("a member whose lease has ended", () => {
  /** Says that it is out: after how long, in each second of ten; with these answers of its three witnesses. */
  const outMs = async (witness: () => Promise<{ epoch: bigint; leaseOver: boolean }>): Promise<number[]> => {
    const clock = createVirtualClock();
    const view = { epoch: 7n, selfId: 4, members: new Map([1, 2, 3, 4].map((id) => [id, {}])) };
    const said: number[] = [];
    const guard = new LeaseGuard({
      clock,
      log: createSilentLogger(),
      random: createSeededRandom(1),
      peers: { get: () => ({ directory: { witness } }) } as unknown as Peers,
      view: () => view as unknown as MembershipView,
      leaseUntilMs: () => 0,
      isRecordCurrent: () => true,
      onResume: () => {},
      onOut: () => said.push(clock.monotonicMs()),
    });
    guard.renewed();
    await clock.advance(10_000);
    guard.close();
    return said;
  };

  it("and reaches none of its witnesses is out as soon as it has asked them", async () => {
    const [firstMs] = await outMs(() => Promise.reject(new Error("cut off")));
    expect(firstMs).toBeLessThanOrEqual(375);
  });

  it("and whose witnesses say that the store is there is out when that has lasted: leases don't end at the same time", async () => {
    const [firstMs] = await outMs(async () => ({ epoch: 7n, leaseOver: false }));
    expect(firstMs).toBeGreaterThanOrEqual(2_000);
    expect(firstMs).toBeLessThanOrEqual(3_000);
  });

  it("and whose witnesses don't reach the store either is not", async () => {
    expect(await outMs(async () => ({ epoch: 7n, leaseOver: true }))).toEqual([]);
  });
});
