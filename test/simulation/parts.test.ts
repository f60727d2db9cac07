/**
 * Goal: the parts that a simulation stands on do what they say: virtual time in order, processes that stop and die, a
 * command that says how to replay what it found. Method: each by itself.
 */
import { afterEach, describe, expect, it, vi } from "vitest";
import { SimClock } from "../../src/sim/clock.js";
import { main } from "../../src/sim/main.js";
import { SimProcess } from "../../src/sim/process.js";

describe("the clock of a simulation", () => {
  it("fires timers in order of time, then of setting, and lets what they woke run before the next instant", async () => {
    const clock = new SimClock();
    const seen: string[] = [];
    clock.setTimer(2, () => seen.push("c"));
    clock.setTimer(1, () => {
      seen.push("a");
      void Promise.resolve().then(() => seen.push("a woke"));
    });
    clock.setTimer(1, () => seen.push("b"));
    clock.setTimer(1, () => seen.push("never")).cancel();
    clock.setTimer(3, () => seen.push("d"));
    await clock.advance(2);
    expect(seen).toEqual(["a", "b", "a woke", "c"]);
    expect(clock.monotonicMs()).toBe(2);
    await clock.advance(5);
    expect(seen.at(-1)).toBe("d");
    expect(clock.monotonicMs()).toBe(7);
  });

  it("keeps its order when most of very many timers are cancelled", async () => {
    const clock = new SimClock();
    const seen: number[] = [];
    for (let at = 0; at < 30_000; at++) {
      const delayMs = (at * 7_919) % 1_000;
      const timer = clock.setTimer(delayMs, () => seen.push(delayMs));
      if (at % 10 !== 0) {
        timer.cancel();
      }
    }
    await clock.advance(1_000);
    expect(seen).toHaveLength(3_000);
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
  });

  it("drives a promise, and says when nothing comes of it", async () => {
    const clock = new SimClock();
    const late = new Promise<string>((resolve) => clock.setTimer(50, () => resolve("there")));
    await expect(clock.drive(late, 100)).resolves.toBe("there");
    expect(clock.monotonicMs()).toBe(50);
    await expect(clock.drive(new Promise(() => {}), 100)).rejects.toThrow("nothing came of it within 100 ms");
  });
});

describe("a simulated process", () => {
  it("sees nothing while it is stopped, then everything in order; a dead one nothing more", async () => {
    const clock = new SimClock();
    const process = new SimProcess(clock, 1);
    const seen: string[] = [];
    let told = 0;
    process.onDeath(() => told++);
    process.clock.setTimer(1, () => seen.push("timer"));
    const cancelled = process.clock.setTimer(2, () => seen.push("never"));
    process.pause();
    process.enter(() => seen.push("message"));
    await clock.advance(10);
    expect(seen).toEqual([]);
    expect(process.clock.monotonicMs(), "time goes on").toBe(10);
    cancelled.cancel();
    process.resume();
    expect(seen).toEqual(["message", "timer"]);
    process.kill();
    process.kill();
    process.enter(() => seen.push("too late"));
    expect(seen).toHaveLength(2);
    expect(told).toBe(1);
  });
});

describe("npm run sim", () => {
  afterEach(() => vi.restoreAllMocks());

  const run = async (...args: string[]): Promise<{ code: number; out: string; err: string }> => {
    let out = "";
    let err = "";
    vi.spyOn(process.stdout, "write").mockImplementation((text) => {
      out += String(text);
      return true;
    });
    vi.spyOn(process.stderr, "write").mockImplementation((text) => {
      err += String(text);
      return true;
    });
    const code = await main(args);
    vi.restoreAllMocks();
    return { code, out, err };
  };

  it("says what it takes, and refuses what it doesn't know", async () => {
    expect(await run("--help")).toMatchObject({ code: 0, out: expect.stringContaining("--workers N") });
    expect(await run("--scenario", "fire")).toMatchObject({
      code: 2,
      err: expect.stringContaining('there is no scenario "fire"; there are placement, join'),
    });
    expect(await run("--workers", "2")).toMatchObject({
      code: 2,
      err: expect.stringContaining("--workers must be a whole number from 3 to 4000"),
    });
    expect(await run("--wrokers", "5")).toMatchObject({ code: 2 });
  });

  it("ends with 1 and the command that replays a fault", async () => {
    // So few keys can't be shared evenly.
    const { code, out, err } = await run("--workers", "50", "--keys", "200", "--seed", "9", "--scenario", "placement");
    expect(code).toBe(1);
    expect(out).toContain("FAULTS: 1\nplacement: an owner has");
    expect(err).toContain("To replay: npm run sim -- --seed 9 --workers 50 --keys 200");
    expect(err).toContain("--scenario placement");
  });

  it("prints one JSON document on request", async () => {
    const { code, out } = await run(
      "--workers",
      "3",
      "--keys",
      "100000",
      "--seed",
      "9",
      "--scenario",
      "placement",
      "--json",
    );
    expect(code).toBe(0);
    expect(JSON.parse(out)).toMatchObject({ seed: 9, workers: 3, placement: { keys: 100_000 }, faults: [] });
  });
});
