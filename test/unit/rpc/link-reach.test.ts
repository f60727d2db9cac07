/**
 * Goal: a peer that is cut off or stopped costs its callers one wait of less than a second, and none while that lasts;
 * one that is only slow costs nothing; calls go through again as soon as a probe connects. Method: LinkReach in virtual
 * time, with a peer that the test controls.
 */
import { describe, expect, it } from "vitest";
import { createVirtualClock, type VirtualClock } from "../../../src/base/clock.js";
import { createDeferred, type Deferred } from "../../../src/base/deadline.js";
import { HbmeshError, StatusCode } from "../../../src/base/errors.js";
import { LinkReach, type ReachChange } from "../../../src/rpc/link-reach.js";
import { SimProcess } from "../../../src/sim/process.js";

const ADDRESS = "10.0.0.2:4000";
/** Of one call that finds its peer silent. */
const ALARM_MS = 700;
const STEP_MS = 25;

/** A peer that answers pings after `answerMs`, and connects when the test says so. */
class Peer {
  readonly clock: VirtualClock = createVirtualClock();
  readonly process = new SimProcess(this.clock, 1);
  readonly pingsMs: number[] = [];
  readonly changes: ReachChange[] = [];
  readonly lost: string[] = [];
  answerMs: number | undefined;
  isWaiting = false;
  connecting: Deferred<void>[] = [];
  readonly reach = new LinkReach({
    address: ADDRESS,
    clock: this.process.clock,
    ping: () => {
      this.pingsMs.push(this.clock.monotonicMs());
      if (this.answerMs !== undefined) {
        this.clock.setTimer(this.answerMs, () => this.reach.heard());
      }
    },
    lose: ({ message }) => {
      this.lost.push(message);
      this.isWaiting = false;
    },
    connect: () => {
      const attempt = createDeferred<void>();
      this.connecting.push(attempt);
      return attempt.promise;
    },
    isWaiting: () => this.isWaiting,
    onChange: (change) => this.changes.push(change),
  });

  call(): void {
    this.reach.called();
    this.isWaiting = true;
  }

  /** Ends the probe that waits. */
  async settle(how: "connected" | "refused"): Promise<void> {
    const attempt = this.connecting.pop();
    if (how === "connected") {
      attempt?.resolve();
    } else {
      attempt?.reject(new Error("no answer"));
    }
    await this.clock.settle();
  }

  /** After how long it counts as unreachable, from now; undefined: not within `withinMs`. */
  async untilLost(withinMs: number): Promise<number | undefined> {
    const startMs = this.clock.monotonicMs();
    const before = this.lost.length;
    while (this.clock.monotonicMs() - startMs < withinMs) {
      await this.clock.advance(STEP_MS);
      if (this.lost.length > before) {
        return this.clock.monotonicMs() - startMs;
      }
    }
    return undefined;
  }
}

function errorOf(call: () => void): HbmeshError {
  try {
    call();
  } catch (reason) {
    return HbmeshError.from(reason);
  }
  throw new Error("the call was made");
}

describe("a peer that says nothing", () => {
  it("is pinged, and lost after three pings; the call that waits ends, later ones fail at once", async () => {
    const peer = new Peer();
    peer.call();
    expect(await peer.untilLost(5_000)).toBe(ALARM_MS);
    expect(peer.pingsMs).toEqual([175, 350, 525]);
    expect(peer.lost).toEqual(["no sign of life for 700 ms"]);
    expect(peer.changes).toEqual([{ isReachable: false, forMs: 700, cause: "no sign of life for 700 ms" }]);
    await peer.clock.advance(10_000);
    expect(errorOf(() => peer.call())).toMatchObject({
      code: StatusCode.RPC_UNAVAILABLE,
      node: ADDRESS,
      message: expect.stringMatching(
        /^the control process at 10\.0\.0\.2:4000 can't be reached, for 10000 ms now \(no sign of life for 700 ms\)/,
      ),
    });
    peer.reach.close();
    expect(peer.clock.pendingTimers).toBe(0);
  });

  it("is probed all the time, at most 100 ms after the last try; calls go through from the moment that one connects", async () => {
    const peer = new Peer();
    peer.call();
    await peer.untilLost(5_000);
    for (let probe = 0; probe < 20; probe += 1) {
      expect(peer.connecting.length).toBe(1);
      await peer.settle("refused");
      expect(errorOf(() => peer.call()).message).toContain("(no answer)");
      await peer.clock.advance(100);
    }
    await peer.settle("connected");
    expect(peer.changes.at(-1)).toEqual({ isReachable: true, forMs: 2_000, cause: "" });
    peer.call();
    expect(await peer.untilLost(5_000)).toBe(ALARM_MS);
  });

  it("is found out by calls that each wait for less than that, too", async () => {
    const peer = new Peer();
    for (let call = 0; call < 3; call += 1) {
      peer.call();
      await peer.clock.advance(200);
      peer.isWaiting = false;
      await peer.clock.advance(25);
    }
    await peer.clock.advance(25);
    expect(peer.lost).toEqual(["no sign of life for 700 ms"]);
  });

  it("whose connection ended counts anew: who called knows", async () => {
    const peer = new Peer();
    peer.call();
    await peer.clock.advance(600);
    peer.reach.ended();
    peer.isWaiting = false;
    expect(await peer.untilLost(5_000)).toBeUndefined();
    expect(peer.clock.pendingTimers).toBe(0);
  });
});

describe("a peer that is slow", () => {
  it("and answers pings is never lost, however long its calls take; the pings become rare", async () => {
    const peer = new Peer();
    peer.answerMs = 1;
    peer.call();
    expect(await peer.untilLost(60_000)).toBeUndefined();
    expect(peer.pingsMs.length).toBeGreaterThan(40);
    expect(peer.pingsMs.length).toBeLessThan(60);
    // A new call finds out as fast as the first one, nevertheless.
    peer.answerMs = undefined;
    peer.call();
    expect(await peer.untilLost(5_000)).toBe(ALARM_MS);
  });

  it("gets three times its longest round trip, and less again as that is forgotten", async () => {
    const peer = new Peer();
    peer.answerMs = 500;
    peer.call();
    expect(await peer.untilLost(2_000)).toBeUndefined();
    peer.answerMs = 1_300;
    expect(await peer.untilLost(3_000)).toBeUndefined();
    peer.answerMs = 1;
    await peer.clock.advance(60_000);
    peer.answerMs = undefined;
    peer.call();
    expect(await peer.untilLost(5_000)).toBe(ALARM_MS);
  });

  it("gets as much while it may be putting a long answer together", async () => {
    const peer = new Peer();
    peer.reach.called({ isLong: true });
    peer.isWaiting = true;
    await peer.clock.advance(2 * ALARM_MS);
    expect(peer.lost).toEqual([]);
    expect(peer.reach.isReachable).toBe(true);
    await peer.clock.advance(4 * ALARM_MS);
    expect(peer.reach.isReachable).toBe(false);
  });

  it("never gets more than three seconds", async () => {
    const peer = new Peer();
    for (const answerMs of [500, 1_400, 2_900]) {
      peer.answerMs = answerMs;
      peer.call();
      await peer.untilLost(3_000);
    }
    expect(peer.lost).toEqual([]);
    peer.answerMs = undefined;
    // The answer to the last ping is on its way.
    await peer.clock.advance(2_900 + 3_150);
    expect(peer.lost.length).toBe(1);
  });

  it("is not lost a second time by the same slowness: an alarm that was wrong makes it patient", async () => {
    const peer = new Peer();
    peer.call();
    await peer.untilLost(5_000);
    await peer.clock.advance(300);
    await peer.settle("connected");
    peer.answerMs = 1_000;
    peer.call();
    expect(await peer.untilLost(10_000)).toBeUndefined();
  });

  it("is not lost because this process, or its machine, stood still", async () => {
    const peer = new Peer();
    peer.call();
    for (let stop = 0; stop < 2; stop += 1) {
      await peer.clock.advance(100);
      peer.process.pause();
      await peer.clock.advance(20_000);
      peer.process.resume();
      expect(peer.lost).toEqual([]);
      // What the peer said meanwhile is read after the timers that were due.
      await peer.clock.advance(100);
    }
    peer.reach.heard();
    expect(peer.lost).toEqual([]);
  });
});
