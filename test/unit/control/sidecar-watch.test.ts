/**
 * Goal: a sidecar that lives and does not answer holds up no change of the ring for longer than a third of the limit,
 * is killed at the limit, and its objects are found again; one that answers again is announced anew; and a machine that
 * is loaded, or stands still, makes no alarm. Method: a watch in virtual time with a sidecar that answers when the test
 * says; then a cluster whose sidecar takes questions and does not answer them.
 */
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createVirtualClock, type VirtualClock } from "../../../src/base/clock.js";
import { createDeferred, type Deferred } from "../../../src/base/deadline.js";
import { StatusCode } from "../../../src/base/errors.js";
import { createSilentLogger } from "../../../src/base/log.js";
import { SidecarWatch } from "../../../src/control/sidecar-watch.js";
import type { PortMessage } from "../../../src/sidecar/port.js";
import { FakeCluster, type FakeWorker } from "./fake-cluster.js";
import type { FakeSidecar } from "./fake-sidecar.js";

const HANG_MS = 30_000;
const TICK_MS = HANG_MS / 15;

describe("a watch of a sidecar", () => {
  let clock: VirtualClock;
  let watch: SidecarWatch;
  let state: string | undefined;
  let cpuMs: number;
  let asked: Deferred<void>[];
  let told: string[];

  beforeEach(() => {
    clock = createVirtualClock();
    state = "S";
    cpuMs = 5_000;
    asked = [];
    told = [];
    watch = new SidecarWatch({
      clock,
      log: createSilentLogger(),
      hangMs: HANG_MS,
      ask: () => {
        const question = createDeferred<void>();
        asked.push(question);
        return question.promise;
      },
      loadOf: () => (state === undefined ? undefined : { state, cpuMs }),
      onHung: () => void told.push("hung"),
      onBack: () => void told.push("back"),
      onKill: () => void told.push("kill"),
    });
  });

  afterEach(() => watch.end());

  const ticks = async (count: number): Promise<void> => {
    for (let tick = 0; tick < count; tick++) {
      await clock.advance(TICK_MS);
    }
  };
  const answer = async (): Promise<void> => {
    asked.at(-1)?.resolve();
    await clock.settle();
  };

  it("asks again and again, and finds nothing wrong with one that answers", async () => {
    for (let tick = 0; tick < 40; tick++) {
      await ticks(1);
      await answer();
    }
    expect(asked.length).toBe(40);
    expect([told, watch.reason, watch.isHung]).toEqual([[], "", false]);
  });

  it("silent: below a third nothing, then hung, killed at the limit, and nothing after that", async () => {
    state = "T";
    await ticks(1 + 4);
    expect([told, watch.isHung]).toEqual([[], false]);
    await ticks(1);
    expect([told, watch.isHung]).toEqual([["hung"], true]);
    expect(watch.reason).toBe(
      "the sidecar has not answered for 10000 ms (state T: stopped); it is killed and started again after 30000 ms",
    );
    await ticks(9);
    expect(told).toEqual(["hung"]);
    await ticks(1);
    expect([told, watch.isHung]).toEqual([["hung", "kill"], false]);
    await ticks(20);
    expect(told).toEqual(["hung", "kill"]);
  });

  it("back before the limit: said once, and the time begins anew", async () => {
    await ticks(1 + 12);
    await answer();
    expect([told, watch.isHung, watch.reason]).toEqual([["hung", "back"], false, ""]);
    await ticks(1 + 4);
    expect(told).toEqual(["hung", "back"]);
  });

  it("a sidecar that waits for a core, and a machine that stands still, are not silent", async () => {
    state = "R";
    await ticks(100);
    expect(told).toEqual([]);
    state = "S";
    // One late tick is one tick.
    await ticks(3);
    expect(told).toEqual([]);
  });

  /** A loop that has a core for this share of each tick. */
  const spin = async (count: number, share: number): Promise<void> => {
    for (let tick = 0; tick < count; tick++) {
      cpuMs += TICK_MS * share;
      await ticks(1);
    }
  };

  it("one that computes and never answers is hung after a third of the limit, and killed at the limit", async () => {
    state = "R";
    await spin(1 + 4, 1);
    expect(told).toEqual([]);
    await spin(1, 1);
    expect([told, watch.isHung]).toEqual([["hung"], true]);
    expect(watch.reason).toBe(
      "the sidecar has not answered for 10000 ms (state R: computing); it is killed and started again after 30000 ms",
    );
    await spin(9, 1);
    expect(told).toEqual(["hung"]);
    await spin(1, 1);
    expect(told).toEqual(["hung", "kill"]);
  });

  it("of one that shares its core only its own part counts, and nothing of what it used before it was asked", async () => {
    state = "R";
    await spin(1 + 19, 0.25);
    expect(told).toEqual([]);
    await spin(1, 0.25);
    expect(told).toEqual(["hung"]);
    await answer();
    expect(told).toEqual(["hung", "back"]);
    await spin(1 + 4, 1);
    expect(told).toEqual(["hung", "back"]);
  });

  it("one whose state nobody knows is judged by its silence alone", async () => {
    state = undefined;
    await ticks(1 + 5);
    expect(told).toEqual(["hung"]);
    expect(watch.reason).toContain("has not answered for 10000 ms; it is killed");
  });

  it("after its end nothing is called", async () => {
    await ticks(3);
    watch.end();
    await ticks(20);
    expect(told).toEqual([]);
    expect(clock.pendingTimers).toBe(0);
  });
});

describe("a cluster with a sidecar that hangs", () => {
  const KEYS = Array.from({ length: 20 }, (_, index) => `key-${index}`);
  const SETTINGS = { sidecarHangMs: 15_000, deadAfterMs: 60_000 };
  let cluster: FakeCluster;
  let a: FakeWorker;
  let b: FakeWorker;
  let resume: () => void;

  /** As SIGSTOP: what it is asked waits. Returns what SIGCONT is. */
  const stop = ({ port }: FakeSidecar): (() => void) => {
    const { send } = port;
    const waiting: PortMessage[] = [];
    Object.assign(port, { send: (message: PortMessage) => void waiting.push(message) });
    return () => {
      Object.assign(port, { send });
      waiting.forEach(send);
    };
  };

  beforeEach(async () => {
    cluster = new FakeCluster();
    a = await cluster.start(1, SETTINGS);
    b = await cluster.start(2, SETTINGS);
    await cluster.drive(b.sidecar.set(KEYS, "from b"));
    resume = stop(b.sidecar);
  });

  afterEach(() => cluster.close());

  const codesAt = async (worker: FakeWorker): Promise<Set<number>> => {
    const answers = await cluster.drive(worker.sidecar.get(KEYS));
    return new Set(answers.map(({ code }) => code));
  };

  it("holds up a change of the ring for no longer than a third of the limit; its keys are no misses, and sets go on", async () => {
    const c = await cluster.start(3, SETTINGS, { settle: false });
    await cluster.clock.advance(1_000);
    expect(c.control.notReadyReason).toContain("not announced yet");
    await cluster.clock.advance(5_500);
    expect([a.control.notReadyReason, c.control.notReadyReason]).toEqual(["", ""]);
    expect(b.control.notReadyReason).toMatch(
      /^the sidecar has not answered for \d+ ms; it is killed and started again/,
    );
    expect([...(await codesAt(a)), ...(await codesAt(c))]).not.toContain(StatusCode.NOT_FOUND);
    const set = await cluster.drive(c.sidecar.set(["new"], "from c"));
    expect(set.map(({ code }) => code)).toEqual([StatusCode.OK]);
  });

  it("is killed at the limit, and what it held is found again", async () => {
    const hung = b.sidecar;
    await cluster.clock.advance(14_000);
    expect(b.sidecar).toBe(hung);
    await cluster.clock.advance(4_000);
    expect(b.sidecar).not.toBe(hung);
    await cluster.ready();
    expect(await codesAt(a)).toEqual(new Set([StatusCode.OK]));
  });

  it("answers again before the limit: everything is found, without another sidecar", async () => {
    const hung = b.sidecar;
    const c = await cluster.start(3, SETTINGS, { settle: false });
    await cluster.clock.advance(8_000);
    expect(b.control.notReadyReason).not.toBe("");
    const epoch = a.control.epoch;
    resume();
    await cluster.clock.advance(1_000);
    await cluster.ready();
    expect(a.control.epoch, "it has announced anew").toBeGreaterThan(epoch);
    expect(await codesAt(c)).toEqual(new Set([StatusCode.OK]));
    await cluster.clock.advance(30_000);
    expect(b.sidecar).toBe(hung);
  });
});
