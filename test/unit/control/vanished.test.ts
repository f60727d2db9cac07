/**
 * Goal: a worker whose lease ends although it lives makes no key a wrong miss: until it is back, or counts as dead,
 * what is not found is UNKNOWN (TRY_AGAIN), at once; sets go on. Method: a cluster in virtual time, one worker of which
 * loses the store and its links.
 */
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { StatusCode } from "../../../src/base/errors.js";
import { Presence } from "../../../src/gen/hbmesh/v1/objects_pb.js";
import { FakeCluster, type FakeWorker } from "./fake-cluster.js";

const KEYS = Array.from({ length: 20 }, (_, index) => `key-${index}`);
const DEAD_AFTER_MS = 20_000;

describe("a worker that vanished without leaving", () => {
  let cluster: FakeCluster;
  let a: FakeWorker;
  let b: FakeWorker;
  let c: FakeWorker;

  beforeEach(async () => {
    cluster = new FakeCluster();
    a = await cluster.start(1, { deadAfterMs: DEAD_AFTER_MS });
    b = await cluster.start(2, { deadAfterMs: DEAD_AFTER_MS });
    c = await cluster.start(3, { deadAfterMs: DEAD_AFTER_MS });
    await cluster.drive(c.sidecar.set(KEYS, "from c"));
  });

  afterEach(() => cluster.close());

  const presencesAt = async (worker: FakeWorker): Promise<Set<Presence>> => {
    const answers = await cluster.drive(worker.control.objects.exist(KEYS), 1);
    return new Set(answers.map(({ presence }) => presence));
  };

  /** Returns the time at which its lease had ended, to a millisecond. */
  const vanish = async (): Promise<number> => {
    cluster.cutOff(c);
    for (let passedMs = 0; passedMs < 10_000 && b.control.members.length === 3; passedMs++) {
      await cluster.clock.advance(1);
    }
    expect(b.control.members.map(({ id }) => id)).toEqual([1, 2]);
    return cluster.clock.monotonicMs();
  };

  it("its keys are UNKNOWN below the limit, and MISS from it on", async () => {
    const vanishedAtMs = await vanish();
    await cluster.ready();
    const startMs = cluster.clock.monotonicMs();
    const answers = await cluster.drive(b.control.objects.exist(KEYS), 1);
    expect(answers.map(({ presence, code }) => [presence, code])).toEqual(
      KEYS.map(() => [Presence.UNKNOWN, StatusCode.TRY_AGAIN]),
    );
    expect(answers[0]?.message).toContain("a worker vanished without leaving");
    expect(cluster.clock.monotonicMs() - startMs).toBeLessThanOrEqual(10);
    await cluster.clock.advance(vanishedAtMs + DEAD_AFTER_MS - 20 - cluster.clock.monotonicMs());
    expect(await presencesAt(b)).toEqual(new Set([Presence.UNKNOWN]));
    await cluster.clock.advance(vanishedAtMs + DEAD_AFTER_MS - cluster.clock.monotonicMs());
    expect(await presencesAt(b)).toEqual(new Set([Presence.MISS]));
    expect(await presencesAt(a)).toEqual(new Set([Presence.MISS]));
  });

  it("when it is back and has announced, its keys are HIT and others MISS, before the limit", async () => {
    await vanish();
    await cluster.clock.advance(1_000);
    cluster.comeBack(c);
    await cluster.clock.advance(2_000);
    expect(b.control.members.map(({ id }) => id)).toEqual([1, 2, 3]);
    await cluster.ready();
    expect(await presencesAt(b)).toEqual(new Set([Presence.HIT]));
    const [other] = await cluster.drive(b.control.objects.exist(["never-set"]));
    expect(other?.presence).toBe(Presence.MISS);
  });

  it("an owner that joins meanwhile does not know it, and answers no sure miss either", async () => {
    await vanish();
    const d = await cluster.start(4, { deadAfterMs: DEAD_AFTER_MS });
    for (const worker of [a, b, d]) {
      expect(await presencesAt(worker)).toEqual(new Set([Presence.UNKNOWN]));
    }
    await cluster.clock.advance(DEAD_AFTER_MS);
    for (const worker of [a, b, d]) {
      expect(await presencesAt(worker)).toEqual(new Set([Presence.MISS]));
    }
  });

  it("sets don't wait, and their keys are found; the version that comes back later is dropped", async () => {
    await vanish();
    await cluster.ready();
    const startMs = cluster.clock.monotonicMs();
    const set = await cluster.drive(a.sidecar.set(KEYS, "anew"));
    expect(set.map(({ code, existed }) => [code, existed])).toEqual(KEYS.map(() => [StatusCode.OK, false]));
    expect(cluster.clock.monotonicMs() - startMs).toBeLessThanOrEqual(50);
    cluster.comeBack(c);
    await cluster.clock.advance(3_000);
    await cluster.ready();
    const got = await cluster.drive(b.sidecar.get(KEYS));
    expect(got.map(({ content }) => content)).toEqual(KEYS.map(() => "anew"));
    expect(c.memory.objects.size).toBe(0);
  });

  it("a get answers TRY_AGAIN at once; a waiting one waits, and is woken by a set", async () => {
    await vanish();
    await cluster.ready();
    const startMs = cluster.clock.monotonicMs();
    const now = await cluster.drive(b.sidecar.get(KEYS));
    expect(now.map(({ code }) => code)).toEqual(KEYS.map(() => StatusCode.TRY_AGAIN));
    expect(now[0]?.message).toContain("a worker vanished without leaving");
    expect(cluster.clock.monotonicMs() - startMs).toBeLessThanOrEqual(50);
    const waiting = b.sidecar.get(["late", "never"], 5_000);
    await cluster.clock.advance(2_000);
    await cluster.drive(a.sidecar.set(["late"], "set"));
    const [late, never] = await cluster.drive(waiting);
    expect(late).toMatchObject({ code: StatusCode.OK, content: "set", part: 1 });
    expect(never).toMatchObject({ code: StatusCode.TRY_AGAIN, part: 2 });
  });

  it("explain says that the answer is not sure", async () => {
    await vanish();
    await cluster.ready();
    const explained = await cluster.drive(b.control.objects.explain(KEYS[0] as string));
    expect(explained).toMatchObject({ code: StatusCode.TRY_AGAIN, complete: false, missing: ["member 3"] });
  });

  it("one that leaves as planned leaves sure misses", async () => {
    cluster.workers.splice(cluster.workers.indexOf(c), 1);
    await cluster.drive(c.control.close());
    await cluster.ready();
    expect(await presencesAt(b)).toEqual(new Set([Presence.MISS]));
  });
});
