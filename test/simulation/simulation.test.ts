/**
 * Goal: whatever single failure befalls a cluster of control processes with the real Wasm, no key that has bytes is
 * lost, no answer is wrong, a change costs a bounded number of messages for each member; and a simulation follows from
 * its seed alone. Method: the short form of `npm run sim`. A failing run prints the seed; HBMESH_SEED replays it.
 */
import { describe, expect, it } from "vitest";
import { TOKENS_PER_WEIGHT } from "../../src/sim/decisions.js";
import type { ScenarioResult } from "../../src/sim/scenario.js";
import {
  LARGEST_SHARE_MAX,
  MOVED_SHARE_MAX,
  SCENARIO_NAMES,
  type SimulationOptions,
  simulate,
} from "../../src/sim/simulation.js";

const seed = Number(process.env["HBMESH_SEED"] ?? Date.now() % 1_000_000);

const SHORT: SimulationOptions = {
  workers: 8,
  keys: 1_000_000,
  objects: 80,
  tokens: TOKENS_PER_WEIGHT,
  seed,
  scenarios: SCENARIO_NAMES.filter((name) => name !== "placement"),
  callsPerStep: 1,
  leaseMs: 1_000,
  seconds: () => performance.now() / 1_000,
};
/** Scenarios in which a host's bytes are lost. */
const LOSES_BYTES = new Set(["host-lost", "copies-away", "link-cut"]);
/** Three requests and replies: each member concludes with three others (src/control/collector.ts). */
const MESSAGES_PER_MEMBER_MAX = 8;

describe("simulation", () => {
  it(`every single failure is survived (HBMESH_SEED=${seed})`, async () => {
    process.stdout.write(`HBMESH_SEED=${seed}\n`);
    const { scenarios, faults } = await simulate(SHORT);
    expect(faults).toEqual([]);
    expect(scenarios.map(({ name }) => name)).toEqual(SHORT.scenarios);
    for (const { name, check, calls } of scenarios) {
      expect(check.found + check.lostWithBytes, name).toBe(check.checked);
      expect(check.found, name).toBeGreaterThan(0);
      expect(calls.hits, name).toBeGreaterThan(0);
    }
    const lossless = scenarios.filter(({ name }) => !LOSES_BYTES.has(name));
    expect(lossless.filter(({ check }) => check.lostWithBytes > 0)).toEqual([]);
    // A peer that can't be reached costs one wait of less than a second, and none after that.
    for (const name of ["link-cut", "control-stopped"]) {
      const { waits } = scenarios.find((each) => each.name === name) as ScenarioResult;
      expect(waits?.firstMs, name).toBeLessThan(1_000);
      expect(waits?.laterMs, name).toBeLessThan(100);
    }
    // While nobody reaches the store, reads and writes go on; some don't as the leases end, and as all join again.
    const { calls } = scenarios.find(({ name }) => name === "store-down") as ScenarioResult;
    expect(calls.failedWrites).toBeLessThan(calls.writes / 5);
    expect(calls.unknown).toBeLessThan(calls.hits / 5);
  });

  it(`nor when workers keep copies: what was deleted stays so, whoever was away or died (HBMESH_SEED=${seed})`, async () => {
    process.stdout.write(`HBMESH_SEED=${seed}\n`);
    const { scenarios, faults } = await simulate({ ...SHORT, copies: true });
    expect(faults).toEqual([]);
    for (const { name, check } of scenarios) {
      expect(check.found + check.lostWithBytes, name).toBe(check.checked);
    }
    const lossless = scenarios.filter(({ name }) => !LOSES_BYTES.has(name));
    expect(lossless.filter(({ check }) => check.lostWithBytes > 0)).toEqual([]);
    expect(scenarios.find(({ name }) => name === "deletes-away")?.deleted).toBeGreaterThan(0);
    expect(scenarios.find(({ name }) => name === "replaced-away")?.deleted).toBeGreaterThan(0);
    expect(scenarios.find(({ name }) => name === "copies-away")?.orphans).toBeGreaterThan(0);
  });

  it("a join and a leave cost messages for each member, not for each pair of them", async () => {
    const workers = 40;
    const { scenarios, faults } = await simulate({ ...SHORT, workers, objects: 2_000, scenarios: ["join", "leave"] });
    expect(faults).toEqual([]);
    const [join, leave] = scenarios as [ScenarioResult, ScenarioResult];
    const moved = join.movedKeys ?? 0;
    expect(moved).toBeGreaterThan(0);
    // Each tells the one that joined what has become its own, once, and nobody else anything. What the same one leaves
    // behind is told to its new owners.
    expect(join.messagesByName["Announce"]).toBeLessThanOrEqual(workers);
    expect(leave.messagesByName["Announce"]).toBeLessThanOrEqual(moved);
    for (const { name, messagesByName, members } of scenarios) {
      const concluding = Object.entries(messagesByName).filter(([message]) => message.startsWith("Conclude"));
      const messages = concluding.reduce((sum, [, count]) => sum + count, 0);
      expect(messages / members, name).toBeLessThanOrEqual(MESSAGES_PER_MEMBER_MAX);
    }
  });

  it("equal seeds give equal simulations, others don't", async () => {
    const small = { ...SHORT, workers: 4, objects: 20, scenarios: ["join", "control-killed", "paused"] };
    const [one, same, other] = [
      await simulate({ ...small, seed: 7 }),
      await simulate({ ...small, seed: 7 }),
      await simulate({ ...small, seed: 8 }),
    ];
    expect(same.digest).toBe(one.digest);
    expect(same.scenarios).toEqual(one.scenarios);
    expect(other.digest).not.toBe(one.digest);
  });

  it("a ring of 100 shares a million keys as it should, and a join moves its part", async () => {
    const { placement, faults } = await simulate({ ...SHORT, workers: 100, scenarios: ["placement"] });
    expect(faults).toEqual([]);
    expect(placement?.largestShare).toBeLessThanOrEqual(LARGEST_SHARE_MAX);
    expect(placement?.movedShare).toBeLessThanOrEqual(MOVED_SHARE_MAX);
    expect(placement?.movedElsewhere).toBe(0);
  });
});
