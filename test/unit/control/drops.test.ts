/**
 * Goal: what an owner has decided is answered in time although old holders don't answer, nobody forgets to tell them,
 * and a commit that is told again has a sure answer. Method: control processes with fake sidecars that don't answer
 * some questions, in virtual time; Holders alone where a moment inside a retry counts.
 */
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createVirtualClock } from "../../../src/base/clock.js";
import { createDeferred } from "../../../src/base/deadline.js";
import { HbmeshError, StatusCode } from "../../../src/base/errors.js";
import { createSilentLogger } from "../../../src/base/log.js";
import { Holders } from "../../../src/control/holders.js";
import { Op } from "../../../src/control/layout-constants.js";
import type { MembershipView } from "../../../src/control/membership.js";
import { Peers } from "../../../src/control/peers.js";
import type { SidecarLink } from "../../../src/control/sidecar-link.js";
import {
  decodeResults,
  encodeCommits,
  encodeKeys,
  type Location,
  type ResultRecord,
} from "../../../src/decision/index.js";
import { Presence } from "../../../src/gen/hbmesh/v1/objects_pb.js";
import { FakeCluster, type FakeWorker } from "./fake-cluster.js";

const KEYS = Array.from({ length: 20 }, (_, index) => `key-${index}`);
const REQUEST_TIMEOUT_MS = 5_000;
const SKIP = 0n;
const REPLACE = 2n;

describe("an owner whose old holders don't answer", () => {
  let cluster: FakeCluster;
  let a: FakeWorker;
  let b: FakeWorker;

  beforeEach(async () => {
    cluster = new FakeCluster();
    a = await cluster.start(1);
    b = await cluster.start(2);
  });

  afterEach(() => cluster.close());

  it("a replace is OK within the setter's limits, and the old bytes are dropped as soon as their holder answers", async () => {
    await cluster.drive(a.sidecar.set(KEYS, "old"));
    a.sidecar.deafTo.add(Op.drop);
    const startMs = cluster.clock.monotonicMs();
    const replaced = await cluster.drive(b.sidecar.set(KEYS, "new", 2));
    expect(replaced.map(({ code }) => code)).toEqual(KEYS.map(() => StatusCode.OK));
    expect(cluster.clock.monotonicMs() - startMs).toBeLessThanOrEqual(REQUEST_TIMEOUT_MS / 3 + 20);
    const got = await cluster.drive(b.sidecar.get(KEYS));
    expect(got.map(({ content }) => content)).toEqual(KEYS.map(() => "new"));
    expect(KEYS.filter((key) => a.memory.sealedByKey(key)?.content !== "old")).toEqual([]);
    a.sidecar.deafTo.clear();
    await cluster.clock.advance(2 * REQUEST_TIMEOUT_MS);
    expect(a.memory.objects.size).toBe(0);
  });

  it("a delete is OK within the asker's limits too", async () => {
    await cluster.drive(a.sidecar.set(KEYS, "old"));
    a.sidecar.deafTo.add(Op.drop);
    const startMs = cluster.clock.monotonicMs();
    const deleted = await cluster.drive(b.sidecar.delete(KEYS));
    expect(deleted.map(({ code, existed }) => [code, existed])).toEqual(KEYS.map(() => [StatusCode.OK, true]));
    expect(cluster.clock.monotonicMs() - startMs).toBeLessThanOrEqual(REQUEST_TIMEOUT_MS / 3 + 20);
    a.sidecar.deafTo.clear();
    await cluster.clock.advance(2 * REQUEST_TIMEOUT_MS);
    expect(a.memory.objects.size).toBe(0);
  });
});

describe("a commit that is told again", () => {
  let cluster: FakeCluster;
  let a: FakeWorker;
  let b: FakeWorker;

  beforeEach(async () => {
    cluster = new FakeCluster();
    a = await cluster.start(1);
    b = await cluster.start(2);
  });

  afterEach(() => cluster.close());

  const reserve = async (existence: bigint): Promise<bigint[]> => {
    const reply = await cluster.drive(a.sidecar.request(Op.reserve, encodeKeys(KEYS), [existence, 0n, 0n, 0n]));
    return decodeResults(reply.payload).map(({ generation }) => generation);
  };

  const commit = async (generations: readonly bigint[], existence: bigint): Promise<ResultRecord[]> => {
    const records = encodeCommits(
      generations.map((generation, index) => ({ generation, bytes: 30n, slot: 1_000 + index, member: 0 })),
    );
    const payload = Buffer.concat([encodeKeys(KEYS), records]);
    const reply = await cluster.drive(a.sidecar.request(Op.commit, payload, [existence, 0n, 0n, 0n]));
    expect(reply.code).toBe(StatusCode.OK);
    return decodeResults(reply.payload);
  };

  const codesOf = (results: readonly ResultRecord[]): [StatusCode, boolean][] =>
    results.map(({ code, existed }) => [code, existed]);

  it.each([SKIP, REPLACE])("is OK again, without `existed` (existence %s)", async (existence) => {
    const generations = await reserve(existence);
    expect(codesOf(await commit(generations, existence))).toEqual(KEYS.map(() => [StatusCode.OK, false]));
    expect(codesOf(await commit(generations, existence))).toEqual(KEYS.map(() => [StatusCode.OK, false]));
  });

  it("after its owner could not be reached: OK", async () => {
    const generations = await reserve(SKIP);
    cluster.isolate(b);
    const unsure = await commit(generations, SKIP);
    const cut = unsure.filter(({ code }) => code === StatusCode.RPC_UNAVAILABLE);
    expect(cut.length).toBeGreaterThan(0);
    cluster.heal(b);
    expect(codesOf(await commit(generations, SKIP))).toEqual(KEYS.map(() => [StatusCode.OK, false]));
  });

  it("after it was replaced: TRY_AGAIN under replace, existed with the newer version under skip", async () => {
    const generations = await reserve(REPLACE);
    await commit(generations, REPLACE);
    await cluster.drive(b.sidecar.set(KEYS, "newer", 2));
    expect((await commit(generations, REPLACE)).map(({ code }) => code)).toEqual(KEYS.map(() => StatusCode.TRY_AGAIN));
    const skipped = await commit(generations, SKIP);
    expect(codesOf(skipped)).toEqual(KEYS.map(() => [StatusCode.OK, true]));
    expect(skipped.every(({ generation }, index) => generation > (generations[index] as bigint))).toBe(true);
  });

  it.each([SKIP, REPLACE])("after it was removed: TRY_AGAIN (existence %s)", async (existence) => {
    const generations = await reserve(existence);
    await commit(generations, existence);
    await cluster.drive(b.sidecar.delete(KEYS));
    expect((await commit(generations, existence)).map(({ code }) => code)).toEqual(
      KEYS.map(() => StatusCode.TRY_AGAIN),
    );
  });

  it("after the ring has changed: the new owners, who never heard of it, take it", async () => {
    const generations = await reserve(REPLACE);
    await commit(generations, REPLACE);
    const c = await cluster.start(3);
    expect(codesOf(await commit(generations, REPLACE))).toEqual(KEYS.map(() => [StatusCode.OK, false]));
    const answers = await cluster.drive(c.control.objects.exist(KEYS));
    expect(answers.map(({ presence }) => presence)).toEqual(KEYS.map(() => Presence.HIT));
  });
});

describe("drops that are owed", () => {
  it("stay owed until the retry that tells of them has succeeded", async () => {
    const clock = createVirtualClock();
    const answers = [
      (): Promise<number[]> => Promise.reject(new HbmeshError(StatusCode.WORKER_TIMEOUT, "no answer")),
      (): Promise<number[]> => second.promise,
    ];
    const second = createDeferred<number[]>();
    const holders = new Holders({
      clock,
      log: createSilentLogger(),
      peers: new Peers({
        network: { listen: () => Promise.reject(), connect: () => ({}) as never },
        log: createSilentLogger(),
      }),
      sidecar: () => ({ drop: () => answers.shift()?.() }) as unknown as SidecarLink,
      requestTimeoutMs: REQUEST_TIMEOUT_MS,
      onDrop: () => {},
      onOwed: async () => {},
      inDoubt: () => false,
    });
    holders.setView({ epoch: 1n, selfId: 1, members: new Map([[1, {} as never]]) } as unknown as MembershipView);
    const object = { slot: 3, generation: 7n };
    const locations: Location[] = [{ member: 1, slot: object.slot }];
    await holders.dropEverywhere([{ key: "k", generation: object.generation, locations }], 1n, true);
    expect(holders.owesDrop(1, object)).toBe(true);
    await clock.advance(1_000);
    expect(answers).toEqual([]);
    expect(holders.owesDrop(1, object)).toBe(true);
    second.resolve([0]);
    await clock.settle();
    expect(holders.owesDrop(1, object)).toBe(false);
    holders.close();
  });
});
