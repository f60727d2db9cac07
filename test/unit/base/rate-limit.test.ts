/**
 * Goal: bytes never go faster than the rate says, beyond one piece; pieces go in order; another rate holds from then
 * on; without a rate nothing waits. Method: a clock that stands still until a test moves it; every piece notes when it
 * went.
 */
import { describe, expect, it } from "vitest";
import { RateLimit } from "../../../src/base/rate-limit.js";
import { SimClock } from "../../../src/sim/clock.js";

const never = new AbortController().signal;

async function run(rate: number, pieces: readonly number[], forMs: number): Promise<{ bytes: number; atMs: number }[]> {
  const clock = new SimClock();
  const startMs = clock.monotonicMs();
  const limit = new RateLimit(clock, rate);
  const went: { bytes: number; atMs: number }[] = [];
  void (async () => {
    for (const bytes of pieces) {
      await limit.take(bytes, never);
      went.push({ bytes, atMs: clock.monotonicMs() - startMs });
    }
  })();
  await clock.advance(forMs);
  return went;
}

describe("RateLimit", () => {
  it("what went before a piece is at most rate x time", async () => {
    const pieces = [500, 1, 1_000, 3_000, 250, 250, 700, 10];
    const went = await run(1_000, pieces, 60_000);
    expect(went.map(({ bytes }) => bytes)).toEqual(pieces);
    let before = 0;
    for (const { bytes, atMs } of went) {
      expect(before).toBeLessThanOrEqual(atMs + 1e-6);
      before += bytes;
    }
    // And not slower either: all but the last piece take their time.
    expect(went.at(-1)?.atMs).toBeCloseTo(before - 10, 0);
  });

  it("half of the time, half of the bytes", async () => {
    const pieces = new Array<number>(100).fill(100);
    expect((await run(1_000, pieces, 5_000 - 1)).length).toBe(50);
    expect((await run(1_000, pieces, 60_000)).length).toBe(100);
  });

  it("0 is no limit", async () => {
    const went = await run(0, [2 ** 40, 2 ** 40, 1], 0);
    expect(went.map(({ atMs }) => atMs)).toEqual([0, 0, 0]);
  });

  it("another rate is for what comes from then on; idle time is not saved up", async () => {
    const clock = new SimClock();
    const limit = new RateLimit(clock, 1_000);
    await clock.advance(10_000);
    await limit.take(1_000, never);
    limit.bytesPerSecond = 100;
    let went = false;
    void limit.take(50, never).then(() => {
      went = true;
    });
    await clock.advance(999);
    expect(went).toBe(false);
    await clock.advance(1);
    expect(went).toBe(true);
    let third = false;
    void limit.take(1, never).then(() => {
      third = true;
    });
    await clock.advance(499);
    expect(third).toBe(false);
    await clock.advance(1);
    expect(third).toBe(true);
  });

  it("who waits is let go when the signal aborts", async () => {
    const clock = new SimClock();
    const limit = new RateLimit(clock, 1);
    const ending = new AbortController();
    await limit.take(1_000, never);
    const waiting = limit.take(1, ending.signal);
    ending.abort();
    await waiting;
  });
});
