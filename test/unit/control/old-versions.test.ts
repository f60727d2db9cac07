/**
 * Goal: a version that was replaced while its worker was away, or out of reach, stays ended, also when the newer
 * version is evicted, expires or is lost before that worker is back, and whoever owned the key then; and nothing that
 * may be all that is left is given up for it. Method: a cluster in virtual time, one worker of which has old versions
 * and is cut off.
 */
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { StatusCode } from "../../../src/base/errors.js";
import { Op } from "../../../src/control/layout-constants.js";
import { FakeCluster, type FakeWorker } from "./fake-cluster.js";

const KEYS = Array.from({ length: 30 }, (_, index) => `key-${index}`);
const BLOBS = [30n];
const SETTINGS = { deadAfterMs: 20_000 };
const SKIP = 0;
const REPLACE = 2;

let cluster: FakeCluster;
let a: FakeWorker;
let b: FakeWorker;
let c: FakeWorker;

beforeEach(async () => {
  cluster = new FakeCluster();
  a = await cluster.start(1, SETTINGS);
  b = await cluster.start(2, SETTINGS);
  c = await cluster.start(3, SETTINGS);
  await setAt(c, "old", SKIP);
});

afterEach(() => cluster.close());

const setAt = async (worker: FakeWorker, content: string, existence: 0 | 2): Promise<void> => {
  const answers = await cluster.drive(worker.sidecar.set(KEYS, content, existence, BLOBS));
  expect(new Set(answers.map(({ code }) => code))).toEqual(new Set([StatusCode.OK]));
};

const contentsAt = async (worker: FakeWorker): Promise<Set<string | undefined>> => {
  const answers = await cluster.drive(worker.sidecar.get(KEYS, 0, BLOBS));
  return new Set(answers.map(({ content }) => content));
};

const untilMembers = async (at: FakeWorker, ids: number[]): Promise<void> => {
  const idsNow = (): string => at.control.members.map(({ id }) => id).join();
  for (let passedMs = 0; passedMs < 15_000 && idsNow() !== ids.join(); passedMs += 10) {
    await cluster.clock.advance(10);
  }
  expect(idsNow()).toBe(ids.join());
};

describe("an old version at a worker that vanished", () => {
  beforeEach(async () => {
    cluster.cutOff(c);
    await untilMembers(a, [1, 2]);
    await cluster.ready();
    await setAt(a, "new", SKIP);
  });

  const isBack = async (ids: number[]): Promise<void> => {
    cluster.comeBack(c);
    await untilMembers(a, ids);
    await cluster.ready();
    await cluster.clock.advance(2_000);
  };

  it("stays ended when the newer one was evicted meanwhile", async () => {
    a.sidecar.lose(KEYS);
    await cluster.clock.advance(500);
    await isBack([1, 2, 3]);
    expect(await contentsAt(a)).toEqual(new Set([undefined]));
    expect(await contentsAt(c)).toEqual(new Set([undefined]));
    expect(c.memory.objects.size).toBe(0);
  });

  it("stays ended when the owner of then is dead, too", async () => {
    a.sidecar.lose(KEYS);
    await cluster.clock.advance(500);
    cluster.kill(b);
    await untilMembers(a, [1]);
    await isBack([1, 3]);
    expect(await contentsAt(a)).toEqual(new Set([undefined]));
    expect(c.memory.objects.size).toBe(0);
  });

  it("can be set anew after that", async () => {
    a.sidecar.lose(KEYS);
    await cluster.clock.advance(500);
    await setAt(b, "newest", SKIP);
    await isBack([1, 2, 3]);
    expect(await contentsAt(a)).toEqual(new Set(["newest"]));
    expect(c.memory.objects.size).toBe(0);
  });

  it("ends where the newer one is still there", async () => {
    await isBack([1, 2, 3]);
    expect(await contentsAt(c)).toEqual(new Set(["new"]));
  });
});

describe("an old version at a member that does not answer", () => {
  beforeEach(async () => {
    c.sidecar.deafTo.add(Op.drop);
    await setAt(a, "new", REPLACE);
    // Its owners have heard that it is sealed.
    await cluster.clock.advance(2_000);
  });

  const answersAgain = async (): Promise<void> => {
    c.sidecar.deafTo.clear();
    await cluster.ready();
    await cluster.clock.advance(3_000);
  };

  it("stays ended when the newer one was evicted, and the keys got other owners", async () => {
    a.sidecar.lose(KEYS);
    await cluster.clock.advance(500);
    await cluster.start(4, SETTINGS, { settle: false });
    cluster.kill(b);
    await untilMembers(a, [1, 3, 4]);
    await answersAgain();
    expect(await contentsAt(a)).toEqual(new Set([undefined]));
    expect(c.memory.objects.size).toBe(0);
  });

  it("stays ended when the newer one's worker is lost for good", async () => {
    cluster.kill(a);
    await untilMembers(b, [2, 3]);
    await answersAgain();
    await cluster.clock.advance(SETTINGS.deadAfterMs);
    expect(await contentsAt(b)).toEqual(new Set([undefined]));
    expect(c.memory.objects.size).toBe(0);
  });
});

describe("an old version whose newer one's setter died before it had sealed it", () => {
  it("is found again where the setter has it still, and stays", async () => {
    await cluster.drive(a.sidecar.delete(KEYS));
    await setAt(a, "old", SKIP);
    const found = await cluster.drive(c.sidecar.presence(KEYS));
    for (const [index, key] of KEYS.entries()) {
      await cluster.drive(c.sidecar.share(key, found[index] as (typeof found)[0], "old", 0));
    }
    c.sidecar.deafTo.add(Op.drop);
    // Decided by the owners, which wait for the holder of the old version; the setter dies before it hears of that.
    const replacing = a.sidecar.set(KEYS, "new", REPLACE, BLOBS).catch(() => []);
    await cluster.clock.advance(500);
    a.sidecar.die("SIGKILL");
    await cluster.drive(replacing);
    await cluster.clock.advance(10_000);
    c.sidecar.deafTo.clear();
    await cluster.ready();
    await cluster.start(4, SETTINGS);
    await cluster.clock.advance(SETTINGS.deadAfterMs);
    expect(await contentsAt(b)).toEqual(new Set(["old"]));
  });
});
