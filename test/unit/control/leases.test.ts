/**
 * Goal: who may no longer be the owner of its keys claims nothing about them; when nobody reaches the store, all go on;
 * and who can't be told of a change holds up nobody but itself. Method: a cluster in virtual time, some of whose
 * workers lose the store or their links.
 */
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { StatusCode } from "../../../src/base/errors.js";
import { OUT_MESSAGE } from "../../../src/control/lease-guard.js";
import { Presence } from "../../../src/gen/hbmesh/v1/objects_pb.js";
import { FakeCluster, type FakeWorker } from "./fake-cluster.js";

const KEYS = Array.from({ length: 60 }, (_, index) => `key-${index}`);
const LATER = Array.from({ length: 60 }, (_, index) => `later-${index}`);
const LEASE_MS = 5_000;

describe("leases that end", () => {
  let cluster: FakeCluster;
  let a: FakeWorker;
  let b: FakeWorker;
  let c: FakeWorker;

  beforeEach(async () => {
    cluster = new FakeCluster();
    a = await cluster.start(1);
    b = await cluster.start(2);
    c = await cluster.start(3);
    await cluster.drive(a.sidecar.set(KEYS, "from a"));
  });

  afterEach(() => cluster.close());

  const presencesAt = async (worker: FakeWorker, keys: readonly string[]): Promise<Presence[]> => {
    const answers = await cluster.drive(worker.control.objects.exist(keys));
    return answers.map(({ presence }) => presence);
  };
  const codesOf = (answers: readonly { code: number }[]): Set<number> => new Set(answers.map(({ code }) => code));

  it("a worker that alone does not reach the store claims no miss and confirms no write, until it is back", async () => {
    cluster.cutStore(c);
    await cluster.clock.advance(2 * LEASE_MS);
    expect(a.control.members).toHaveLength(2);
    expect(codesOf(await cluster.drive(a.sidecar.set(LATER, "from a")))).toEqual(new Set([StatusCode.OK]));
    // In its ring it still owns a third of them.
    expect(await presencesAt(c, LATER)).not.toContain(Presence.MISS);
    expect(codesOf(await cluster.drive(c.sidecar.delete(LATER)))).toEqual(new Set([StatusCode.TRY_AGAIN]));
    expect((await cluster.drive(c.control.health())).reason).toContain("its lease in the store has ended");
    // Nobody waits for what is known not to come.
    const startMs = cluster.clock.monotonicMs();
    const answers = await cluster.drive(c.control.objects.exist(LATER));
    expect(cluster.clock.monotonicMs() - startMs).toBeLessThan(200);
    const own = answers.filter(({ presence }) => presence === Presence.UNKNOWN);
    expect(own.length).toBeGreaterThan(0);
    for (const { code, message } of own) {
      expect({ code, message }).toEqual({ code: StatusCode.TRY_AGAIN, message: OUT_MESSAGE });
    }
    cluster.comeBack(c);
    await cluster.clock.advance(LEASE_MS);
    await cluster.ready();
    expect(await presencesAt(c, [...KEYS, ...LATER])).toEqual([...KEYS, ...LATER].map(() => Presence.HIT));
    expect(await presencesAt(c, ["never-set"])).toEqual([Presence.MISS]);
  });

  it("when nobody reaches the store, reads and writes go on with the last ring", async () => {
    const everyone = [a, b, c];
    everyone.forEach((worker) => {
      cluster.cutStore(worker);
    });
    await cluster.clock.advance(4 * LEASE_MS);
    for (const worker of everyone) {
      const own = LATER.map((key) => `${key}-${worker.control.memberId}`);
      expect(codesOf(await cluster.drive(worker.sidecar.set(own, "now")))).toEqual(new Set([StatusCode.OK]));
      expect(await presencesAt(b, own)).toEqual(own.map(() => Presence.HIT));
      expect(await presencesAt(worker, ["never-set"])).toEqual([Presence.MISS]);
      expect(codesOf(await cluster.drive(c.sidecar.delete(own)))).toEqual(new Set([StatusCode.OK]));
    }
  });

  it("what is removed while its holder may come back is not confirmed, if the owner does not know it", async () => {
    await cluster.drive(c.sidecar.set(LATER, "from c"));
    cluster.cutOff(c);
    await cluster.clock.advance(2 * LEASE_MS);
    await cluster.ready();
    expect(codesOf(await cluster.drive(a.sidecar.delete(LATER)))).toEqual(new Set([StatusCode.TRY_AGAIN]));
    expect(codesOf(await cluster.drive(a.sidecar.delete(KEYS)))).toEqual(new Set([StatusCode.OK]));
    cluster.comeBack(c);
    await cluster.clock.advance(LEASE_MS);
    await cluster.ready();
    expect(codesOf(await cluster.drive(a.sidecar.delete(LATER)))).toEqual(new Set([StatusCode.OK]));
    expect(await presencesAt(b, [...KEYS, ...LATER])).toEqual([...KEYS, ...LATER].map(() => Presence.MISS));
  });

  it("an owner that can't be told of a change is not sure of its own keys; the others are of theirs", async () => {
    cluster.isolate(b);
    const d = await cluster.start(4, {}, { settle: false });
    await cluster.drive(Promise.all([a, c, d].map(({ control }) => control.whenReady({ timeoutMs: 5_000 }))));
    const answers = await cluster.drive(d.sidecar.set(LATER, "from d"));
    const refused = answers.filter(({ code }) => code !== StatusCode.OK);
    expect(refused.length, "those of b").toBeGreaterThan(0);
    expect(refused.length).toBeLessThan(LATER.length / 2);
    cluster.heal(b);
    await cluster.ready();
    expect(await presencesAt(b, KEYS)).toEqual(KEYS.map(() => Presence.HIT));
  });
});
