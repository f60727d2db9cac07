/**
 * Goal: what a set, get or delete promises holds over several workers, while members come, go, die and can't be
 * reached. Method: control processes with the real Wasm over links in memory, fake sidecars and virtual time
 * (fake-cluster.ts).
 */
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { StatusCode } from "../../../src/base/errors.js";
import { Presence } from "../../../src/gen/hbmesh/v1/objects_pb.js";
import { FakeCluster, type FakeWorker } from "./fake-cluster.js";
import { FakeMemory, FakeSidecar } from "./fake-sidecar.js";

/** Enough that each of three owners has several. */
const KEYS = Array.from({ length: 40 }, (_, index) => `key-${index}`);

describe("a cluster of control processes", () => {
  let cluster: FakeCluster;

  beforeEach(() => {
    cluster = new FakeCluster();
  });

  afterEach(async () => {
    await cluster.close();
  });

  const threeWorkers = async (): Promise<[FakeWorker, FakeWorker, FakeWorker]> => [
    await cluster.start(1),
    await cluster.start(2),
    await cluster.start(3),
  ];

  it("what is set at one worker is got at another, with a plan that covers every byte", async () => {
    const [a, b] = await threeWorkers();
    const set = await cluster.drive(a.sidecar.set(KEYS, "from a"));
    expect(set.map(({ code, existed }) => [code, existed])).toEqual(KEYS.map(() => [StatusCode.OK, false]));
    const got = await cluster.drive(b.sidecar.get(KEYS));
    expect(got.map(({ code, content }) => [code, content])).toEqual(KEYS.map(() => [StatusCode.OK, "from a"]));
    for (const answer of got) {
      expect(answer.slices.reduce((sum, slice) => sum + slice.bytes, 0n)).toBe(30n);
      expect(new Set(answer.slices.map(({ member }) => member))).toEqual(new Set([a.control.memberId]));
    }
  });

  it("gets of one slice each use the connections to their source one after the other", async () => {
    const [a, b] = [await cluster.start(1, { lanes: 3 }), await cluster.start(2, { lanes: 3 })];
    await cluster.drive(a.sidecar.set(["key"], "from a"));
    const lanes: (number | undefined)[] = [];
    for (let call = 0; call < 6; call += 1) {
      const [answer] = await cluster.drive(b.sidecar.get(["key"]));
      lanes.push(answer?.slices[0]?.lane);
    }
    expect(lanes).toEqual([0, 1, 2, 0, 1, 2]);
  });

  it("every member has the same epoch and the same members", async () => {
    const workers = await threeWorkers();
    expect(new Set(workers.map(({ control }) => control.epoch)).size).toBe(1);
    expect(workers.map(({ control }) => control.members.map(({ id }) => id))).toEqual(workers.map(() => [1, 2, 3]));
    expect(workers.map(({ sidecar }) => sidecar.selfId)).toEqual([1, 2, 3]);
    expect([...(workers[0]?.sidecar.peers ?? [])]).toEqual(
      workers.map(({ control, address }) => [control.memberId, address]),
    );
  });

  it("skip: of two sets at once the first commit wins, and the other says existed and keeps nothing", async () => {
    const [a, b] = await threeWorkers();
    const [first, second] = await cluster.drive(
      Promise.all([a.sidecar.set(KEYS, "from a"), b.sidecar.set(KEYS, "from b")]),
    );
    for (const [index, key] of KEYS.entries()) {
      expect([first[index]?.code, second[index]?.code]).toEqual([StatusCode.OK, StatusCode.OK]);
      expect([first[index]?.existed, second[index]?.existed].filter(Boolean)).toHaveLength(1);
      const holders = [a, b].filter(({ memory }) => memory.sealedByKey(key) !== undefined);
      expect(holders).toHaveLength(1);
      expect(holders[0]).toBe(first[index]?.existed === true ? b : a);
    }
  });

  it("fail: a second set answers KEY_ALREADY_EXISTS", async () => {
    const [a, b] = await threeWorkers();
    await cluster.drive(a.sidecar.set(KEYS, "from a"));
    const second = await cluster.drive(b.sidecar.set(KEYS, "from b", 1));
    expect(second.map(({ code }) => code)).toEqual(KEYS.map(() => StatusCode.KEY_ALREADY_EXISTS));
    expect(b.memory.objects.size).toBe(0);
  });

  it("replace: when it is done nobody finds the old bytes, also where they were", async () => {
    const [a, b, c] = await threeWorkers();
    await cluster.drive(a.sidecar.set(KEYS, "old"));
    const replaced = await cluster.drive(b.sidecar.set(KEYS, "new", 2));
    expect(replaced.map(({ code }) => code)).toEqual(KEYS.map(() => StatusCode.OK));
    expect(a.memory.objects.size).toBe(0);
    for (const worker of [a, b, c]) {
      const got = await cluster.drive(worker.sidecar.get(KEYS));
      expect(got.map(({ content }) => content)).toEqual(KEYS.map(() => "new"));
    }
  });

  it("delete drops everywhere, and says which keys existed", async () => {
    const [a, b, c] = await threeWorkers();
    await cluster.drive(a.sidecar.set(KEYS.slice(0, 30), "from a"));
    const deleted = await cluster.drive(c.sidecar.delete(KEYS));
    expect(deleted.map(({ code, existed }) => [code, existed])).toEqual(
      KEYS.map((_, index) => [StatusCode.OK, index < 30]),
    );
    expect(a.memory.objects.size).toBe(0);
    const got = await cluster.drive(b.sidecar.get(KEYS));
    expect(got.map(({ code }) => code)).toEqual(KEYS.map(() => StatusCode.NOT_FOUND));
    expect(got[0]?.message).toBe("no object is set under this key; set it first, or wait longer");
  });

  it("a waiting get is woken by the set, key by key; a key that never comes holds up no other", async () => {
    const [a, b] = await threeWorkers();
    const startMs = cluster.clock.monotonicMs();
    const getting = b.sidecar.get(["early", "late", "never"], 10_000);
    await cluster.clock.advance(1_000);
    await cluster.drive(a.sidecar.set(["early"], "1"));
    await cluster.clock.advance(1_000);
    await cluster.drive(a.sidecar.set(["late"], "2"));
    const [early, late, never] = await cluster.drive(getting);
    expect([early?.content, late?.content]).toEqual(["1", "2"]);
    expect([early?.part, late?.part, never?.part]).toEqual([1, 2, 3]);
    expect(never).toMatchObject({
      code: StatusCode.NOT_FOUND,
      message: expect.stringContaining("after waiting 10000 ms"),
    });
    expect(cluster.clock.monotonicMs() - startMs).toBeLessThanOrEqual(10_100);
  });

  it("an owner that can't be reached: UNKNOWN and RPC_UNAVAILABLE naming the worker; keys of other owners are answered", async () => {
    const [a, b, c] = await threeWorkers();
    await cluster.drive(a.sidecar.set(KEYS, "from a"));
    cluster.isolate(c);
    const answers = await cluster.drive(b.control.objects.exist(KEYS));
    const unknown = answers.filter(({ presence }) => presence === Presence.UNKNOWN);
    expect(unknown.length).toBeGreaterThan(0);
    expect(unknown.length).toBeLessThan(KEYS.length);
    expect(answers.filter(({ presence }) => presence === Presence.HIT)).toHaveLength(KEYS.length - unknown.length);
    expect(unknown[0]).toMatchObject({ code: StatusCode.RPC_UNAVAILABLE, message: expect.stringContaining(c.address) });
    const got = await cluster.drive(b.sidecar.get(KEYS));
    expect(got.filter(({ code }) => code === StatusCode.RPC_UNAVAILABLE)).toHaveLength(unknown.length);
    expect(got.filter(({ code }) => code === StatusCode.OK)).toHaveLength(KEYS.length - unknown.length);
    cluster.heal(c);
    const healed = await cluster.drive(b.control.objects.exist(KEYS));
    expect(healed.every(({ presence }) => presence === Presence.HIT)).toBe(true);
  });

  it("members join and leave: nothing that still has bytes is lost", async () => {
    const [a, b, c] = await threeWorkers();
    await cluster.drive(a.sidecar.set(KEYS, "from a"));
    const d = await cluster.start(4);
    const joined = await cluster.drive(d.sidecar.get(KEYS));
    expect(joined.map(({ content }) => content)).toEqual(KEYS.map(() => "from a"));
    cluster.workers.splice(cluster.workers.indexOf(c), 1);
    await cluster.drive(c.control.close());
    await cluster.ready();
    const left = await cluster.drive(b.sidecar.get(KEYS));
    expect(left.map(({ content }) => content)).toEqual(KEYS.map(() => "from a"));
  });

  it("while a new member has not heard from everyone, a key is never a wrong miss", async () => {
    const [a, b, c] = await threeWorkers();
    await cluster.drive(a.sidecar.set(KEYS, "from a"));
    // a sees the change of the ring, but its announcements fail: it can't reach the link of anyone, nor is it reached.
    for (const worker of [a, b, c]) {
      cluster.isolate(worker);
    }
    const d = await cluster.start(4, {}, { settle: false, isolated: true });
    const own = await cluster.drive(d.control.objects.exist(KEYS));
    const undecided = own.filter(({ code }) => code === StatusCode.TRY_AGAIN);
    expect(undecided.length).toBeGreaterThan(0);
    expect(own.filter(({ presence }) => presence !== Presence.UNKNOWN)).toEqual([]);
    await expect(cluster.drive(d.control.whenReady({ timeoutMs: 1_000 }))).rejects.toMatchObject({
      code: StatusCode.NOT_READY,
      message: expect.stringContaining(a.address),
    });
    for (const worker of [a, b, c, d]) {
      cluster.heal(worker);
    }
    await cluster.ready();
    for (const { control } of [b, d]) {
      const settled = await cluster.drive(control.objects.exist(KEYS));
      expect(settled.map(({ presence }) => presence)).toEqual(KEYS.map(() => Presence.HIT));
    }
  });

  it("a worker that dies is gone after its lease; the keys that it held miss, those that it only owned are found", async () => {
    const a = await cluster.start(1, { deadAfterMs: 0 });
    const b = await cluster.start(2, { deadAfterMs: 0 });
    const c = await cluster.start(3, { deadAfterMs: 0 });
    await cluster.drive(a.sidecar.set(KEYS.slice(0, 20), "from a"));
    await cluster.drive(c.sidecar.set(KEYS.slice(20), "from c"));
    cluster.kill(c);
    // Nobody tells of its death: its lease of 5 s ends.
    await cluster.clock.advance(3_000);
    expect(b.control.members.map(({ id }) => id)).toEqual([1, 2, 3]);
    await cluster.clock.advance(2_001);
    expect(b.control.members.map(({ id }) => id)).toEqual([1, 2]);
    await cluster.ready();
    const answers = await cluster.drive(b.control.objects.exist(KEYS));
    const expected = KEYS.map((_, index) => (index < 20 ? Presence.HIT : Presence.MISS));
    expect(answers.map(({ presence }) => presence)).toEqual(expected);
  });

  it("a dead sidecar fails what is pending, is restarted, and its sealed objects are found again", async () => {
    const [a, b] = await threeWorkers();
    await cluster.drive(a.sidecar.set(KEYS, "from a"));
    const dead = a.sidecar;
    const pending = dead.get(["not-there"], 60_000).catch((reason: unknown) => reason);
    await cluster.clock.settle();
    const epoch = b.control.epoch;
    dead.die("killed by the test");
    expect(await pending).toMatchObject({ message: "killed by the test" });
    await cluster.clock.settle();
    expect(a.sidecar).not.toBe(dead);
    await cluster.clock.advance(100);
    await cluster.ready();
    expect(b.control.epoch).toBeGreaterThan(epoch);
    expect(dead.stopped).toBe(true);
    const got = await cluster.drive(b.sidecar.get(KEYS));
    expect(got.map(({ content }) => content)).toEqual(KEYS.map(() => "from a"));
  });

  it("a set between whose commit and seal the sidecar dies leaves nothing behind", async () => {
    const [a, b] = await threeWorkers();
    const dead = a.sidecar;
    dead.beforeCommit = async () => {
      queueMicrotask(() => queueMicrotask(() => dead.die("killed by the test")));
    };
    await expect(cluster.drive(dead.set(KEYS, "half"))).rejects.toThrow("killed by the test");
    await cluster.clock.advance(100);
    await cluster.ready();
    const answers = await cluster.drive(b.control.objects.exist(KEYS));
    expect(answers.map(({ presence }) => presence)).toEqual(KEYS.map(() => Presence.MISS));
  });

  it("a new sidecar's first requests are answered, and one that dies before it is taken into use is restarted", async () => {
    const [a] = await threeWorkers();
    const dead = a.sidecar;
    const stop = dead.stop.bind(dead);
    let early: Promise<unknown> | undefined;
    dead.stop = async () => {
      // The control process waits here, with the next sidecar running already.
      expect(a.sidecar).not.toBe(dead);
      early = a.sidecar.set(["early"], "x");
      await stop();
    };
    dead.die("killed by the test");
    await cluster.clock.advance(100);
    expect(await cluster.drive(early as Promise<unknown>)).toMatchObject([{ code: StatusCode.OK }]);
    await cluster.ready();
    const second = a.sidecar;
    const stopSecond = second.stop.bind(second);
    second.stop = async () => {
      a.sidecar.die("killed before it was taken into use");
      await stopSecond();
    };
    second.die("killed by the test");
    await cluster.clock.advance(1_000);
    await cluster.ready();
    expect(await cluster.drive(a.sidecar.set(["later"], "x"))).toMatchObject([{ code: StatusCode.OK }]);
  });

  it("a sidecar that dies again and again ends the worker, with the cause", async () => {
    const a = await cluster.start(1, { sidecarRestartsMax: 2 });
    for (let death = 0; death < 3; death++) {
      a.sidecar.die("killed by the test");
      await cluster.clock.advance(1_000);
    }
    const reason = await cluster.drive(a.control.failed);
    expect(reason).toMatchObject({
      code: StatusCode.RUNTIME_ERROR,
      node: a.address,
      message: expect.stringContaining("ended 3 times within a minute"),
    });
  });

  it("a ring that changes between reserve and commit loses no key", async () => {
    const [a, b] = await threeWorkers();
    let joined: Promise<FakeWorker> | undefined;
    a.sidecar.beforeCommit = async () => {
      joined = cluster.start(4, {}, { settle: false });
      await Promise.resolve();
    };
    const set = await cluster.drive(a.sidecar.set(KEYS, "from a"));
    expect(set.map(({ code }) => code)).toEqual(KEYS.map(() => StatusCode.OK));
    await joined;
    await cluster.ready();
    const got = await cluster.drive(b.sidecar.get(KEYS));
    expect(got.map(({ content }) => content)).toEqual(KEYS.map(() => "from a"));
  });

  it("deleted while its holder can't be reached: it doesn't come back", async () => {
    const [a, b] = await threeWorkers();
    await cluster.drive(a.sidecar.set(KEYS, "from a"));
    cluster.isolate(a);
    const deleted = await cluster.drive(b.sidecar.delete(KEYS));
    const reached = KEYS.filter((_, index) => deleted[index]?.code === StatusCode.OK);
    expect(reached.length).toBeGreaterThan(0);
    cluster.heal(a);
    // It announces what it holds to the same owners again.
    a.sidecar.die("killed by the test");
    await cluster.clock.advance(100);
    await cluster.ready();
    const answers = await cluster.drive(b.control.objects.exist(reached));
    expect(answers.map(({ presence }) => presence)).toEqual(reached.map(() => Presence.MISS));
    await cluster.clock.advance(5_000);
    expect(reached.filter((key) => a.memory.sealedByKey(key) !== undefined)).toEqual([]);
  });

  it("a reader's report is believed only if the holder agrees", async () => {
    const [a, b] = await threeWorkers();
    await cluster.drive(a.sidecar.set(["there", "gone"], "from a"));
    const [there, gone] = await cluster.drive(b.sidecar.presence(["there", "gone"]));
    a.memory.objects.delete(gone?.locations[0]?.slot ?? 0);
    b.sidecar.reportMissing("there", there as NonNullable<typeof there>);
    b.sidecar.reportMissing("gone", gone as NonNullable<typeof gone>);
    await cluster.clock.advance(100);
    const answers = await cluster.drive(b.control.objects.exist(["there", "gone"]));
    expect(answers.map(({ presence }) => presence)).toEqual([Presence.HIT, Presence.MISS]);
  });

  it("getMetaInfo tells sizes, generation and holders", async () => {
    const [a, b] = await threeWorkers();
    await cluster.drive(a.sidecar.set(["one"], "from a", 0, [5n, 7n, 9n]));
    const [one, none] = await cluster.drive(b.control.objects.getMetaInfo(["one", "none"]));
    expect(one).toMatchObject({ code: StatusCode.OK, sizeBytes: 21n, blobSizes: [5n, 7n, 9n], locations: [a.address] });
    expect(one?.generation).toBeGreaterThan(0n);
    expect(none).toMatchObject({ code: StatusCode.NOT_FOUND, message: expect.stringContaining("set it first") });
  });

  it("a key that is not allowed fails the whole call, naming it", async () => {
    const [a] = await threeWorkers();
    await expect(a.control.objects.exist(["good", "b d"])).rejects.toMatchObject({
      code: StatusCode.INVALID,
      key: "b d",
    });
    await expect(cluster.drive(a.sidecar.set(["x", "x"], "twice"))).rejects.toMatchObject({ code: StatusCode.INVALID });
    const broken = await cluster.drive(a.sidecar.request(32, Buffer.from([9, 9, 9])));
    expect(broken.code).toBe(StatusCode.INVALID);
    const unknown = await cluster.drive(a.sidecar.request(99, new Uint8Array(0)));
    expect(unknown.code).toBe(StatusCode.NOT_SUPPORTED);
  });

  it("a worker with another key rule may not join", async () => {
    await cluster.start(1);
    await expect(cluster.start(2, { keyRule: "extended" })).rejects.toMatchObject({
      code: StatusCode.INVALID,
      message: expect.stringContaining("has the key rule strict and this worker extended"),
    });
  });

  it("a control process alone holds nothing, owns its share, and weight 0 owns nothing", async () => {
    const a = await cluster.start(1, { weight: 0 });
    const [answer] = await cluster.drive(a.control.objects.exist(["k"]));
    expect(answer).toMatchObject({ code: StatusCode.NO_AVAILABLE_WORKER, presence: Presence.UNKNOWN });
    const b = await cluster.start(2);
    await cluster.drive(a.sidecar.set(KEYS, "from a"));
    const answers = await cluster.drive(b.control.objects.exist(KEYS));
    expect(answers.every(({ presence }) => presence === Presence.HIT)).toBe(true);
  });

  it("a restarted worker takes the place of its predecessor, and its objects are found", async () => {
    const [a, b] = await threeWorkers();
    await cluster.drive(a.sidecar.set(KEYS, "from a"));
    cluster.kill(a);
    const again = await cluster.start(1, {}, { memory: a.memory });
    expect(again.control.memberId).toBe(4);
    expect(b.control.members.map(({ id }) => id)).toEqual([2, 3, 4]);
    const got = await cluster.drive(b.sidecar.get(KEYS));
    expect(got.map(({ content }) => content)).toEqual(KEYS.map(() => "from a"));
    // The predecessor was only cut off: it ends as soon as it sees who has its address.
    cluster.comeBack(a);
    await expect(cluster.drive(a.control.failed)).resolves.toMatchObject({ code: StatusCode.INTERRUPTED });
  });

  it("a control process that takes a living sidecar over announces what it holds, and starts none", async () => {
    const [, b] = await threeWorkers();
    const living = new FakeSidecar("127.0.0.1:20004", new FakeMemory(), cluster.fabric);
    living.memory.objects.set(7, {
      key: "kept",
      family: 0,
      slot: 7,
      generation: 1n,
      blobSizes: [10n, 20n],
      content: "from before",
      state: "sealed",
    });
    const again = await cluster.start(4, {}, { memory: living.memory, takeOver: living });
    expect(again.sidecar).toBe(living);
    const [got] = await cluster.drive(b.sidecar.get(["kept"]));
    expect(got).toMatchObject({ code: StatusCode.OK, content: "from before" });
    living.die("killed by the test");
    await cluster.clock.advance(1_000);
    await cluster.ready();
    expect(again.sidecar).not.toBe(living);
    expect(living.stopped).toBe(true);
  });

  it("close settles everything that is pending", async () => {
    const [a] = await threeWorkers();
    const getting = a.sidecar.get(["never"], 600_000).catch((reason: unknown) => reason);
    const existing = a.control.objects.exist(KEYS);
    await cluster.drive(existing);
    cluster.workers.splice(cluster.workers.indexOf(a), 1);
    await cluster.drive(a.control.close());
    const settled = await cluster.drive(getting);
    expect(settled).toMatchObject([{ code: StatusCode.SHUTTING_DOWN, message: "this worker is shutting down" }]);
    await expect(a.control.objects.exist(["k"])).rejects.toMatchObject({ code: StatusCode.SHUTTING_DOWN });
    await expect(a.control.whenReady()).rejects.toMatchObject({ code: StatusCode.SHUTTING_DOWN });
  });
});
