/**
 * Goal: what a cluster asks of its store grows with its members, not with their pairs: when all start at once and draw
 * their ids, and when all come back after an outage that ended every lease. Method: simulated clusters of two sizes;
 * the writes to the store are counted.
 */
import { afterEach, describe, expect, it } from "vitest";
import { SimCluster, STORE_PUT } from "../../src/sim/cluster.js";

const SEED = Number(process.env["HBMESH_SEED"] ?? Date.now() % 1_000_000);
const LEASE_MS = 1_000;
/** A record, two settings, and the id with what it takes to draw apart. */
const PUTS_TO_START_MAX = 12;
/** Its record; once more if its lease ended again meanwhile. */
const PUTS_TO_RETURN_MAX = 2;

describe("load of the store", () => {
  let cluster: SimCluster | undefined;

  afterEach(async () => {
    await cluster?.close();
  });

  it.each([12, 60])(
    `%i members that start and come back write a few times each (HBMESH_SEED=${SEED})`,
    async (members) => {
      process.stdout.write(`HBMESH_SEED=${SEED}\n`);
      const running = new SimCluster({ seed: SEED, tokens: 32, settings: { leaseMs: LEASE_MS } });
      cluster = running;
      const puts = (): number => running.trace.counts.messages.get(STORE_PUT) ?? 0;
      await running.grow(members);
      expect(puts() / members).toBeLessThanOrEqual(PUTS_TO_START_MAX);
      const [before, epoch] = [puts(), running.controls[0]?.epoch];
      running.cutStore();
      await running.clock.advance(5 * LEASE_MS);
      expect(puts(), "nobody writes before its lease is known to have ended").toBe(before);
      running.healStore();
      await running.clock.until(() => running.controls.every((control) => control.epoch !== epoch), 60_000);
      await running.settle(members);
      expect(puts() - before).toBeGreaterThanOrEqual(members);
      expect((puts() - before) / members).toBeLessThanOrEqual(PUTS_TO_RETURN_MAX);
    },
  );
});
