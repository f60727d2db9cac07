/**
 * Goal: what a key's owner gave and buried refuses nothing that a later owner of the key gives, however many
 * generations the first one gave under its ring: an epoch has room for 2^24 of each owner's. Method: a cluster in
 * virtual time; the first worker's directory gives generations as after so many sets. It removes keys, another worker
 * joins and takes some of them over, they are set anew, and it leaves again. Below, at and above the limit.
 */
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { StatusCode } from "../../../src/base/errors.js";
import { firstGenerationOf } from "../../../src/control/owner-checks.js";
import { createDecisions, type Decisions, encodeKeys } from "../../../src/decision/index.js";
import { FakeCluster, type FakeWorker } from "./fake-cluster.js";

const KEYS = Array.from({ length: 40 }, (_, index) => `key-${index}`);
const SETS_OF_EPOCH = 2n ** 24n;
const MEMBER_BITS = 16n;

describe.each([SETS_OF_EPOCH - 100n, SETS_OF_EPOCH, 3n * SETS_OF_EPOCH])("after %i sets under one ring", (sets) => {
  let cluster: FakeCluster;
  let a: FakeWorker;
  let b: FakeWorker;
  let decisions: Decisions;
  let newDecisions: Decisions;
  let highestRemoved: bigint;

  beforeEach(async () => {
    cluster = new FakeCluster();
    decisions = createDecisions();
    newDecisions = createDecisions();
    a = await cluster.start(1, {}, { decisions });
    decisions.directory.raiseGeneration(firstGenerationOf(a.control.epoch) + (sets << MEMBER_BITS));
    await cluster.drive(a.sidecar.set(KEYS, "old"));
    const removed = await cluster.drive(a.sidecar.delete(KEYS));
    expect(removed.map(({ code, existed }) => [code, existed])).toEqual(KEYS.map(() => [StatusCode.OK, true]));
    highestRemoved =
      removed
        .map(({ generation }) => generation)
        .sort((x, y) => Number(x - y))
        .at(-1) ?? 0n;
    b = await cluster.start(2, {}, { decisions: newDecisions });
  });

  afterEach(() => cluster.close());

  it("a new owner's generations are above them", () => {
    const owners = decisions.ownersOf(encodeKeys(KEYS));
    expect(new Set(owners)).toEqual(new Set([1, 2]));
    expect(newDecisions.directory.highestGeneration).toBeGreaterThanOrEqual(highestRemoved);
  });

  it("keys that were set anew at a new owner are found when they are the first one's again", async () => {
    const answers = await cluster.drive(a.sidecar.set(KEYS, "new"));
    expect(answers.map(({ code }) => code)).toEqual(KEYS.map(() => StatusCode.OK));
    cluster.workers.splice(cluster.workers.indexOf(b), 1);
    await cluster.drive(b.control.close());
    await cluster.ready();
    const found = await cluster.drive(a.sidecar.presence(KEYS));
    expect(found.map(({ code }) => code)).toEqual(KEYS.map(() => StatusCode.OK));
    expect([...a.memory.objects.values()].map(({ key }) => key).sort()).toEqual([...KEYS].sort());
  });
});
