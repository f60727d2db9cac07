/**
 * Goal: keys of different families never mix; further locations, lost objects and explain answer what is so, also while
 * the ring changes. Method: control processes with the real Wasm over links in memory, fake sidecars and virtual time
 * (fake-cluster.ts).
 */
import { createClient } from "@connectrpc/connect";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { HbmeshError, StatusCode } from "../../../src/base/errors.js";
import {
  encodeCommits,
  encodeHeld,
  encodeKeys,
  encodeResults,
  type ResultRecord,
} from "../../../src/decision/index.js";
import { DirectoryService, HolderService } from "../../../src/gen/hbmesh/v1/directory_pb.js";
import { Presence } from "../../../src/gen/hbmesh/v1/objects_pb.js";
import { fromConnectError } from "../../../src/rpc/index.js";
import { FakeCluster, type FakeWorker } from "./fake-cluster.js";

const KEYS = Array.from({ length: 40 }, (_, index) => `key-${index}`);
const SIZES = [10n, 20n];

describe("families, locations and their end", () => {
  let cluster: FakeCluster;
  let a: FakeWorker;
  let b: FakeWorker;
  let c: FakeWorker;

  beforeEach(async () => {
    cluster = new FakeCluster();
    a = await cluster.start(1);
    b = await cluster.start(2);
    c = await cluster.start(3);
  });

  afterEach(async () => {
    await cluster.close();
  });

  const presence = async (worker: FakeWorker, keys: readonly string[]): Promise<Presence[]> =>
    (await cluster.drive(worker.control.objects.exist(keys))).map((answer) => answer.presence);
  const lookupOf = async (worker: FakeWorker, key: string): Promise<ResultRecord> =>
    (await cluster.drive(worker.sidecar.presence([key])))[0] as ResultRecord;

  it("a key of one family is INVALID to the others, with what to use instead, and nothing is changed", async () => {
    await cluster.drive(a.sidecar.set(["pub"], "p", 1, SIZES, 1));
    await cluster.drive(a.sidecar.set(["cache"], "c", 1, SIZES, 2));
    await cluster.drive(a.sidecar.set(["host"], "h", 1, SIZES, 0));
    const messages = async (keys: string[], family: 0 | 1 | 2): Promise<unknown[]> =>
      (await cluster.drive(b.sidecar.get(keys, 0, SIZES, family))).map(({ code, message }) => [code, message]);
    expect(await messages(["pub", "cache"], 0)).toEqual([
      [StatusCode.INVALID, 'key "pub" was published with devPublish; use devSubscribe'],
      [StatusCode.INVALID, 'key "cache" was set with devMSet; use devMGet'],
    ]);
    expect(await messages(["host", "pub"], 2)).toEqual([
      [StatusCode.INVALID, 'key "host" was set with mSetD2H; use mGetH2D'],
      [StatusCode.INVALID, 'key "pub" was published with devPublish; use devSubscribe'],
    ]);
    const written = await cluster.drive(b.sidecar.set(["pub"], "x", 2, SIZES, 0));
    expect(written[0]?.code).toBe(StatusCode.INVALID);
    for (const family of [0, 2] as const) {
      const [removed] = await cluster.drive(b.sidecar.delete(["pub"], family));
      expect(removed).toMatchObject({ code: StatusCode.INVALID, otherFamily: true, existed: false, family: 1 });
    }
    const [refused] = await cluster.drive(b.control.objects.delete(["cache"]));
    expect(refused).toMatchObject({
      code: StatusCode.INVALID,
      existed: false,
      message: 'key "cache" was set with devMSet; use devDelete',
    });
    expect(await presence(c, ["pub", "cache", "host"])).toEqual([Presence.HIT, Presence.HIT, Presence.HIT]);
    const [got] = await cluster.drive(c.sidecar.get(["pub"], 0, SIZES, 1));
    expect(got).toMatchObject({ code: StatusCode.OK, content: "p" });
    const meta = await cluster.drive(c.control.objects.getMetaInfo(["host", "pub", "cache"]));
    expect(meta.map(({ family }) => family)).toEqual([0, 1, 2]);
  });

  it("a family that doesn't exist is refused", async () => {
    for (const op of [32, 33, 35, 40]) {
      const reply = await cluster.drive(a.sidecar.request(op, encodeKeys(["k"]), [0n, 7n, 0n, 0n]));
      expect([op, reply.code]).toEqual([
        op,
        op === 33 || op === 40 ? StatusCode.DATA_INCONSISTENCY : StatusCode.INVALID,
      ]);
    }
    const lookup = await cluster.drive(a.sidecar.request(34, encodeKeys([]), [0n, 0n, 0n, 255n]));
    expect(lookup.code).toBe(StatusCode.INVALID);
  });

  it("families stay what they are when the ring changes and sidecars restart", async () => {
    await cluster.drive(a.sidecar.set(KEYS.slice(0, 20), "p", 1, SIZES, 1));
    await cluster.drive(b.sidecar.set(KEYS.slice(20), "c", 1, SIZES, 2));
    const d = await cluster.start(4);
    a.sidecar.die("killed by the test");
    await cluster.clock.advance(100);
    await cluster.ready();
    const published = await cluster.drive(d.sidecar.get(KEYS.slice(0, 20), 0, SIZES, 1));
    expect(published.map(({ content }) => content)).toEqual(KEYS.slice(0, 20).map(() => "p"));
    const cached = await cluster.drive(d.sidecar.get(KEYS.slice(20), 0, SIZES, 2));
    expect(cached.map(({ content }) => content)).toEqual(KEYS.slice(20).map(() => "c"));
    const mixed = await cluster.drive(d.sidecar.get(KEYS, 0, SIZES, 0));
    expect(mixed.map(({ code }) => code)).toEqual(KEYS.map(() => StatusCode.INVALID));
  });

  it("a subscriber may come first; a key that was taken and published again wakes the next one", async () => {
    const first = b.sidecar.get(["k"], 20_000, SIZES, 1);
    await cluster.clock.advance(1_000);
    await cluster.drive(a.sidecar.set(["k"], "one", 1, SIZES, 1));
    expect((await cluster.drive(first))[0]).toMatchObject({ code: StatusCode.OK, content: "one" });
    const [taken] = await cluster.drive(a.sidecar.delete(["k"], 1));
    expect(taken?.existed).toBe(true);
    const second = c.sidecar.get(["k"], 20_000, SIZES, 1);
    await cluster.clock.advance(1_000);
    const third = b.sidecar.get(["k"], 20_000, SIZES, 1);
    await cluster.drive(a.sidecar.set(["k"], "two", 1, SIZES, 1));
    expect((await cluster.drive(second))[0]).toMatchObject({ code: StatusCode.OK, content: "two" });
    expect((await cluster.drive(third))[0]).toMatchObject({ code: StatusCode.OK, content: "two" });
  });

  it("a subscriber that waits is told at once when the key comes under another family", async () => {
    const waiting = b.sidecar.get(["k"], 20_000, SIZES, 1);
    await cluster.clock.advance(1_000);
    await cluster.drive(a.sidecar.set(["k"], "h"));
    expect((await cluster.drive(waiting))[0]).toMatchObject({
      code: StatusCode.INVALID,
      message: 'key "k" was set with mSetD2H; use mGetH2D',
    });
  });

  it("readers that offer what they read are further locations, and askers begin with different ones", async () => {
    await cluster.drive(a.sidecar.set(["k"], "bytes", 1, SIZES, 2));
    const record = await lookupOf(b, "k");
    expect((await cluster.drive(b.sidecar.share("k", record, "bytes"))).code).toBe(StatusCode.OK);
    const seen = await Promise.all([a, b, c].map((worker) => lookupOf(worker, "k")));
    expect(seen.map(({ locations }) => locations.map(({ member }) => member).sort())).toEqual([
      [1, 2],
      [1, 2],
      [1, 2],
    ]);
    expect(new Set(seen.map(({ locations }) => locations[0]?.member)).size).toBe(2);
    // The setter's copy goes; the reader's still serves.
    a.sidecar.lose(["k"]);
    await cluster.clock.advance(100);
    expect((await lookupOf(c, "k")).locations.map(({ member }) => member)).toEqual([2]);
    expect((await cluster.drive(c.sidecar.get(["k"], 0, SIZES, 2)))[0]?.content).toBe("bytes");
    expect((await cluster.drive(c.sidecar.delete(["k"], 2)))[0]?.existed).toBe(true);
    expect(b.memory.sealedByKey("k")).toBeUndefined();
  });

  it("a worker may serve a cached key from several devices; a host object it holds once", async () => {
    await cluster.drive(a.sidecar.set(["k"], "bytes", 1, SIZES, 2));
    const record = await lookupOf(a, "k");
    expect((await cluster.drive(a.sidecar.share("k", record, "bytes"))).code).toBe(StatusCode.OK);
    const [first, second] = [...a.memory.objects.values()].map(({ slot }) => slot) as [number, number];
    const slots = async (): Promise<number[]> => (await lookupOf(b, "k")).locations.map(({ slot }) => slot).sort();
    expect(await slots()).toEqual([first, second]);
    // Both are announced to who owns the key now.
    await cluster.start(4);
    await cluster.ready();
    expect(await slots()).toEqual([first, second]);
    expect((await cluster.drive(c.sidecar.delete(["k"], 2)))[0]?.existed).toBe(true);
    expect(a.memory.objects.size).toBe(0);
    await cluster.drive(a.sidecar.set(["h"], "bytes"));
    const [host] = await cluster.drive(b.sidecar.presence(["h"]));
    const again = await cluster.drive(a.sidecar.share("h", host as ResultRecord, "bytes", 0));
    expect(again.code).toBe(StatusCode.KEY_ALREADY_EXISTS);
    expect((await cluster.drive(b.sidecar.share("h", host as ResultRecord, "bytes", 0))).code).toBe(StatusCode.OK);
  });

  it("a location that is offered too late brings nothing back", async () => {
    await cluster.drive(a.sidecar.set(["k"], "old", 1, SIZES, 2));
    const record = await lookupOf(b, "k");
    await cluster.drive(c.sidecar.delete(["k"], 2));
    const late = await cluster.drive(b.sidecar.share("k", record, "old"));
    expect(late.code).toBe(StatusCode.NOT_FOUND);
    expect(await presence(c, ["k"])).toEqual([Presence.MISS]);
    await cluster.drive(a.sidecar.set(["k"], "new", 1, SIZES, 2));
    expect((await cluster.drive(b.sidecar.share("k", record, "old"))).code).toBe(StatusCode.NOT_FOUND);
    expect((await lookupOf(c, "k")).locations.map(({ member }) => member)).toEqual([1]);
    expect((await cluster.drive(b.sidecar.share("k", record, "old", 0))).code).toBe(StatusCode.INVALID);
    expect(b.memory.objects.size).toBe(0);
  });

  it("a further location that is told while the ring changes is known to the new owner", async () => {
    await cluster.drive(a.sidecar.set(KEYS, "bytes", 1, SIZES, 2));
    const records = await cluster.drive(b.sidecar.presence(KEYS));
    const joining = cluster.start(4, {}, { settle: false });
    const shared = await cluster.drive(
      Promise.all(KEYS.map((key, index) => b.sidecar.share(key, records[index] as ResultRecord, "bytes"))),
    );
    await joining;
    await cluster.ready();
    expect(shared.map(({ code }) => code)).toEqual(KEYS.map(() => StatusCode.OK));
    const seen = await cluster.drive(c.sidecar.presence(KEYS));
    expect(seen.map(({ locations }) => locations.map(({ member }) => member).sort())).toEqual(KEYS.map(() => [1, 2]));
  });

  it("objects that expired or were evicted are NOT_FOUND at once; one that waits goes on waiting", async () => {
    await cluster.drive(a.sidecar.set(KEYS, "soon gone"));
    a.sidecar.lose(KEYS);
    await cluster.clock.advance(10);
    const got = await cluster.drive(b.sidecar.get(KEYS));
    expect(got.map(({ code }) => code)).toEqual(KEYS.map(() => StatusCode.NOT_FOUND));
    const waiting = b.sidecar.get([KEYS[0] as string], 10_000);
    await cluster.clock.advance(100);
    await cluster.drive(c.sidecar.set([KEYS[0] as string], "again"));
    expect((await cluster.drive(waiting))[0]).toMatchObject({ code: StatusCode.OK, content: "again" });
  });

  it("an owner that can't be reached is told later what is gone, and others at once", async () => {
    await cluster.drive(a.sidecar.set(KEYS, "soon gone"));
    cluster.isolate(c);
    a.sidecar.lose(KEYS);
    await cluster.clock.advance(100);
    const meanwhile = await presence(b, KEYS);
    expect(new Set(meanwhile)).toEqual(new Set([Presence.MISS, Presence.UNKNOWN]));
    cluster.heal(c);
    await cluster.clock.advance(1_000);
    expect(await presence(b, KEYS)).toEqual(KEYS.map(() => Presence.MISS));
  });

  it("lost between being listed and being announced: no owner knows it for ever", async () => {
    await cluster.drive(a.sidecar.set(KEYS, "soon gone"));
    a.sidecar.onList = () => {
      a.sidecar.onList = undefined;
      queueMicrotask(() => a.sidecar.lose(KEYS));
    };
    await cluster.start(4);
    await cluster.clock.advance(1_000);
    expect(await presence(b, KEYS)).toEqual(KEYS.map(() => Presence.MISS));
  });

  it("a drop that was decided under an older ring is told to the owners of now", async () => {
    await cluster.drive(a.sidecar.set(["old", "now"], "x"));
    const { epoch, members } = a.control;
    const link = members.find(({ id }) => id === a.control.memberId)?.linkAddress ?? "";
    const connection = cluster.network.forProcess(() => {}).connect(link);
    const holder = createClient(HolderService, connection.transport);
    const held = (key: string): Uint8Array => {
      const { slot, generation } = a.memory.sealedByKey(key) ?? { slot: 0, generation: 0n };
      return encodeHeld([{ slot, generation }]);
    };
    await cluster.drive(holder.drop({ objects: held("old"), keys: encodeKeys(["old"]), epoch: epoch - 1n }));
    await cluster.drive(holder.drop({ objects: held("now"), keys: encodeKeys(["now"]), epoch }));
    await cluster.clock.advance(100);
    expect(a.memory.objects.size).toBe(0);
    // Under the ring of now it is the owner itself that drops, and has forgotten already.
    expect(await presence(b, ["old", "now"])).toEqual([Presence.MISS, Presence.HIT]);
    await expect(
      cluster.drive(holder.drop({ objects: encodeHeld([{ slot: 1, generation: 1n }]), keys: encodeKeys([]), epoch })),
    ).rejects.toThrow("0 keys were sent for 1 objects");
    connection.close();
  });

  it("who is no member any more puts nothing in, and nobody speaks for the locations of others", async () => {
    await cluster.drive(a.sidecar.set(["k"], "x"));
    const [record] = await cluster.drive(a.sidecar.presence(["k"]));
    const link = c.control.members.find(({ id }) => id === c.control.memberId)?.linkAddress ?? "";
    const connection = cluster.network.forProcess(() => {}).connect(link);
    const owner = createClient(DirectoryService, connection.transport);
    const { epoch } = c.control;
    const records = encodeCommits([{ generation: 9n, bytes: 1n, slot: 1, member: 77 }]);
    const request = { epoch, memberId: 77, keys: encodeKeys(["zombie"]), records };
    for (const call of [owner.commit, owner.announce, owner.addLocation]) {
      const error = await cluster.drive(call(request).catch((reason: unknown) => fromConnectError(reason)));
      expect(error).toMatchObject({
        code: StatusCode.INTERRUPTED,
        message: expect.stringContaining("member 77 is no member of the cluster any more"),
      });
    }
    expect(await presence(a, ["zombie"])).toEqual([Presence.MISS]);
    const foreign = owner.forgetLocations({
      epoch,
      memberId: 2,
      keys: encodeKeys(["k"]),
      records: encodeResults([record as ResultRecord]),
    });
    const refused = await cluster.drive(foreign.catch((reason: unknown) => fromConnectError(reason)));
    expect(refused).toMatchObject({ code: StatusCode.INVALID, message: "member 2 spoke for objects of member 1" });
    expect(await presence(a, ["k"])).toEqual([Presence.HIT]);
    connection.close();
  });

  it("what no owner takes up is dropped by its holder", async () => {
    await cluster.drive(a.sidecar.set(["k"], "bytes", 1, SIZES, 2));
    const record = await lookupOf(a, "k");
    const others = [b, c, await cluster.start(4)];
    for (const worker of others) {
      expect((await cluster.drive(worker.sidecar.share("k", record, "bytes"))).code).toBe(StatusCode.OK);
    }
    const fifth = await cluster.start(5);
    expect((await cluster.drive(fifth.sidecar.share("k", record, "bytes"))).code).toBe(StatusCode.NO_SPACE);
    expect(fifth.memory.objects.size).toBe(0);
  });

  it("explain: there, with each holder's own answer", async () => {
    a.sidecar.detail = '{"pin":"soft"}';
    await cluster.drive(a.sidecar.set(["k"], "x"));
    const [answer, document] = [
      await cluster.drive(b.control.objects.explain("k")),
      await cluster.drive(c.sidecar.explain("k")),
    ];
    expect(answer).toMatchObject({
      key: "k",
      code: StatusCode.OK,
      sizeBytes: 30n,
      complete: true,
      family: 0,
      missing: [],
    });
    expect(answer.locations).toMatchObject([
      { workerAddress: a.address, code: StatusCode.OK, blobSizes: SIZES, detail: '{"pin":"soft"}' },
    ]);
    expect([a, b, c].map(({ address }) => address)).toContain(answer.owner);
    expect(document).toMatchObject({
      key: "k",
      code: "OK",
      family: "host",
      sizeBytes: "30",
      locations: [{ workerAddress: a.address, code: "OK", blobSizes: ["10", "20"], detail: { pin: "soft" } }],
    });
  });

  it("explain: why it isn't there, and who can't be asked", async () => {
    await cluster.drive(a.sidecar.set(["removed", "lost", "dead"], "x"));
    await cluster.drive(b.sidecar.delete(["removed"]));
    a.sidecar.lose(["lost"]);
    const waiting = c.sidecar.get(["never"], 60_000).catch(() => undefined);
    await cluster.clock.advance(500);
    const explain = (key: string) => cluster.drive(c.control.objects.explain(key));
    expect(await explain("removed")).toMatchObject({
      code: StatusCode.NOT_FOUND,
      ended: "removed",
      endedBy: b.address,
    });
    expect(await explain("lost")).toMatchObject({
      code: StatusCode.NOT_FOUND,
      ended: "forgotten",
      endedBy: a.address,
      message: expect.stringContaining("(expired, evicted, or its process ended)"),
    });
    expect(await explain("never")).toMatchObject({
      code: StatusCode.NOT_FOUND,
      ended: "",
      waiting: 1,
      message: expect.stringContaining("was never set"),
    });
    cluster.isolate(a);
    const dead = await explain("dead");
    const isOwner = dead.owner === a.address;
    expect(isOwner ? dead.code : dead.locations[0]?.code).toBe(StatusCode.RPC_UNAVAILABLE);
    expect(isOwner ? dead.message : dead.locations[0]?.message).toContain(a.address);
    await expect(cluster.drive(c.control.objects.explain("not allowed"))).rejects.toBeInstanceOf(HbmeshError);
    cluster.heal(a);
    await cluster.drive(c.control.close());
    cluster.workers.splice(cluster.workers.indexOf(c), 1);
    await waiting;
  });
});
