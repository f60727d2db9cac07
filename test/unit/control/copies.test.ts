/**
 * Goal: a copy never brings back what was deleted while its worker was away, whoever owned the key then and died; it
 * keeps a key whose source is dead, as long as its worker stays a member, or is back in time. The same for device
 * memory that is offered as a further source. Method: a cluster in virtual time, one worker of which holds copies and
 * is cut off, restarted, or neither.
 */
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { StatusCode } from "../../../src/base/errors.js";
import { Op } from "../../../src/control/layout-constants.js";
import { FakeCluster, type FakeWorker } from "./fake-cluster.js";
import type { Family } from "./fake-memory.js";

const KEYS = Array.from({ length: 30 }, (_, index) => `key-${index}`);
const BLOBS = [30n];
const SETTINGS = { deadAfterMs: 20_000 };

let cluster: FakeCluster;
let a: FakeWorker;
let b: FakeWorker;
let c: FakeWorker;
/** Host objects with replicas, or the device cache with shareReplica. */
let family: Family = 0;

beforeEach(async () => {
  cluster = new FakeCluster();
  a = await cluster.start(1, SETTINGS);
  b = await cluster.start(2, SETTINGS);
  c = await cluster.start(3, SETTINGS);
});

afterEach(() => cluster.close());

const contentsAt = async (worker: FakeWorker): Promise<(string | undefined)[]> => {
  const answers = await cluster.drive(worker.sidecar.get(KEYS, 0, BLOBS, family));
  return answers.map(({ content }) => content);
};
const all = (content: string | undefined): (string | undefined)[] => KEYS.map(() => content);
const codesOf = (results: readonly { code: number }[]): Set<number> => new Set(results.map(({ code }) => code));

/** Ids of the members that this one sees. */
const idsAt = (worker: FakeWorker): number[] => worker.control.members.map(({ id }) => id);

const untilMembers = async (at: FakeWorker, ids: number[]): Promise<void> => {
  for (let passedMs = 0; passedMs < 15_000 && idsAt(at).join() !== ids.join(); passedMs += 10) {
    await cluster.clock.advance(10);
  }
  expect(idsAt(at)).toEqual(ids);
};

const copyAt = async (worker: FakeWorker): Promise<void> => {
  const found = await cluster.drive(worker.sidecar.presence(KEYS));
  for (const [index, key] of KEYS.entries()) {
    const { code } = await cluster.drive(worker.sidecar.share(key, found[index] as (typeof found)[0], "set", family));
    expect(code).toBe(StatusCode.OK);
  }
  expect(worker.memory.objects.size).toBe(KEYS.length);
};

/** Set at a, with a copy of each at c. */
const setWithCopies = async (): Promise<void> => {
  expect(codesOf(await cluster.drive(a.sidecar.set(KEYS, "set", 0, BLOBS, family)))).toEqual(new Set([StatusCode.OK]));
  await copyAt(c);
};

/** Members have seen each other for so long that they can tell how long one of them is away. */
const knowEachOther = (): Promise<void> => cluster.clock.advance(SETTINGS.deadAfterMs + 1_000);

describe.each<Family>([0, 2])("copies of a worker that was away (family %s)", (tested) => {
  beforeEach(async () => {
    family = tested;
    await setWithCopies();
  });

  afterEach(() => {
    family = 0;
  });

  it("that are all that is left are found again when it is back, and others that had them too", async () => {
    const d = await cluster.start(4, SETTINGS);
    await copyAt(d);
    cluster.kill(a);
    await untilMembers(b, [2, 3, 4]);
    await knowEachOther();
    cluster.cutOff(c);
    cluster.cutOff(d);
    await untilMembers(b, [2]);
    cluster.comeBack(c);
    cluster.comeBack(d);
    await untilMembers(b, [2, 3, 4]);
    await cluster.ready();
    for (const worker of [b, c, d]) {
      expect(await contentsAt(worker)).toEqual(all("set"));
    }
    expect([c.memory.objects.size, d.memory.objects.size]).toEqual([KEYS.length, KEYS.length]);
  });

  it("that are all that is left stay so when another one lost the last location meanwhile", async () => {
    await knowEachOther();
    cluster.cutOff(c);
    await untilMembers(b, [1, 2]);
    a.sidecar.lose(KEYS);
    await cluster.clock.advance(500);
    cluster.comeBack(c);
    await untilMembers(b, [1, 2, 3]);
    await cluster.ready();
    expect(await contentsAt(b)).toEqual(all("set"));
  });

  it("that are all that is left are dropped if they were deleted meanwhile", async () => {
    await knowEachOther();
    cluster.cutOff(c);
    await untilMembers(b, [1, 2]);
    await cluster.ready();
    expect(codesOf(await cluster.drive(b.sidecar.delete(KEYS, family)))).toEqual(new Set([StatusCode.OK]));
    cluster.comeBack(c);
    await untilMembers(b, [1, 2, 3]);
    await cluster.ready();
    await cluster.clock.advance(2_000);
    expect(c.memory.objects.size).toBe(0);
    expect(await contentsAt(b)).toEqual(all(undefined));
  });

  it("are dropped when their versions were deleted meanwhile, and the owners of then have died", async () => {
    cluster.cutOff(c);
    await untilMembers(a, [1, 2]);
    await cluster.ready();
    expect(codesOf(await cluster.drive(a.sidecar.delete(KEYS, family)))).toEqual(new Set([StatusCode.OK]));
    expect(a.memory.objects.size).toBe(0);
    await cluster.start(4, SETTINGS);
    cluster.kill(b);
    await untilMembers(a, [1, 4]);
    cluster.comeBack(c);
    await untilMembers(a, [1, 3, 4]);
    await cluster.ready();
    expect(c.memory.objects.size).toBe(0);
    expect(await contentsAt(a)).toEqual(all(undefined));
    expect(await contentsAt(c)).toEqual(all(undefined));
  });

  it("are dropped when it was away for longer than anybody keeps such deletes in mind", async () => {
    cluster.cutOff(c);
    await untilMembers(a, [1, 2]);
    await cluster.clock.advance(SETTINGS.deadAfterMs + 1_000);
    expect(codesOf(await cluster.drive(a.sidecar.delete(KEYS, family)))).toEqual(new Set([StatusCode.OK]));
    await cluster.start(4, SETTINGS);
    cluster.comeBack(c);
    await untilMembers(a, [1, 2, 3, 4]);
    await cluster.ready();
    expect(c.memory.objects.size).toBe(0);
    expect(await contentsAt(b)).toEqual(all(undefined));
  });

  it("stay, and are found again, when their versions are there", async () => {
    cluster.cutOff(c);
    await untilMembers(a, [1, 2]);
    cluster.comeBack(c);
    await untilMembers(a, [1, 2, 3]);
    await cluster.ready();
    expect(c.memory.objects.size).toBe(KEYS.length);
    cluster.kill(a);
    await untilMembers(b, [2, 3]);
    await cluster.ready();
    expect(await contentsAt(b)).toEqual(all("set"));
  });

  it("are confirmed after a restart of its sidecar, too", async () => {
    c.sidecar.die("SIGKILL");
    await cluster.clock.advance(2_000);
    await cluster.ready();
    expect(c.memory.objects.size).toBe(KEYS.length);
    cluster.kill(a);
    await untilMembers(b, [2, 3]);
    await cluster.ready();
    expect(await contentsAt(b)).toEqual(all("set"));
  });

  it("make it say that it is not ready while their owners can't be asked", async () => {
    cluster.cutOff(c);
    await untilMembers(a, [1, 2]);
    cluster.comeBack(c);
    await untilMembers(a, [1, 2, 3]);
    cluster.isolate(b);
    await cluster.clock.advance(1_000);
    expect(c.control.notReadyReason).toMatch(/not announced yet|owners have not confirmed yet \d+ copies/);
    cluster.heal(b);
    await cluster.ready();
    expect(c.control.notReadyReason).toBe("");
    expect(c.memory.objects.size).toBe(KEYS.length);
  });
});

describe("copies of a worker that stays a member", () => {
  beforeEach(setWithCopies);

  it("keep keys whose source is dead, also when these get other owners", async () => {
    cluster.kill(a);
    await untilMembers(b, [2, 3]);
    await cluster.ready();
    expect(await contentsAt(b)).toEqual(all("set"));
    const d = await cluster.start(4, SETTINGS);
    expect(await contentsAt(d)).toEqual(all("set"));
  });
});

describe("deletes while a worker is away", () => {
  it("hold when their owner dies before it has told anybody of now: others keep them in mind", async () => {
    await cluster.drive(c.sidecar.set(KEYS, "old", 0, BLOBS));
    cluster.cutOff(c);
    await untilMembers(a, [1, 2]);
    await cluster.ready();
    await cluster.drive(a.sidecar.set(KEYS, "new", 0, BLOBS));
    expect(codesOf(await cluster.drive(a.sidecar.delete(KEYS)))).toEqual(new Set([StatusCode.OK]));
    cluster.kill(b);
    await untilMembers(a, [1]);
    cluster.comeBack(c);
    await untilMembers(a, [1, 3]);
    await cluster.ready();
    await cluster.clock.advance(2_000);
    expect(c.memory.objects.size).toBe(0);
    expect(await contentsAt(a)).toEqual(all(undefined));
  });
});

describe("a replace whose setter's sidecar dies while a holder of the old version does not answer", () => {
  beforeEach(setWithCopies);

  it("leaves the old or the new version, also when the keys get other owners", async () => {
    c.sidecar.deafTo.add(Op.drop);
    const replacing = a.sidecar.set(KEYS, "new", 2, BLOBS).catch(() => []);
    await cluster.clock.advance(500);
    a.sidecar.die("SIGKILL");
    await cluster.drive(replacing);
    await cluster.clock.advance(5_000);
    c.sidecar.deafTo.clear();
    await cluster.ready();
    const d = await cluster.start(4, SETTINGS);
    for (const worker of [a, b, c, d]) {
      const contents = await contentsAt(worker);
      expect(contents.filter((content) => content !== "set" && content !== "new")).toEqual([]);
    }
  });
});
