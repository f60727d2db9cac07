/**
 * Goal: `hbmesh bench objects` has a row for each number of objects and finds all again after its sidecar was killed;
 * nothing is left behind. Method: run the command with few objects, in both forms. No figure of time is judged.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { ObjectsResult } from "../../src/bench/objects.js";
import { hbmesh } from "./commands.js";
import { expectNothingNew, type Leftovers, leftoversNow } from "./leftovers.js";

let before: Leftovers;

beforeAll(() => {
  before = leftoversNow();
});

afterAll(() => expectNothingNew(before));

const few = ["--objects", "6000", "--batch", "20", "--idle_ms", "1"];

describe("hbmesh bench objects", () => {
  it("measures few and all of the objects, and the adoption of all", async () => {
    const result = await hbmesh("bench", "objects", ...few, "--json");
    expect(result.code, result.stderr).toBe(0);
    const objects = JSON.parse(result.stdout) as ObjectsResult;
    expect(objects).toMatchObject({ bytes: 1_024, batch: 20, objectsAdopted: 6_000 });
    expect(objects.rows.map((row) => row.objects)).toEqual([2_000, 6_000]);
    for (const row of objects.rows) {
      expect(row.setPerSecond).toBeGreaterThan(0);
      expect(row.getPerSecond).toBeGreaterThan(0);
      expect(row.tableBytes).toBeGreaterThanOrEqual(64 * row.objects);
      expect(row.indexBytes).toBeGreaterThan(0);
      expect(row.sidecarSharedBytes).toBeGreaterThan(1_024 * row.objects);
    }
    expect(objects.adoptionMs).toBeGreaterThan(0);
  });

  it("prints a table, and its progress on stderr", async () => {
    const result = await hbmesh("bench", "objects", ...few);
    expect(result.code, result.stderr).toBe(0);
    expect(result.stdout).toMatch(/^objects +set\/s +get\/s +table MiB +index MiB +B an object/m);
    expect(result.stdout).toMatch(/^6,000 objects adopted in [\d.]+ s$/m);
    expect(result.stderr).toContain("killing the sidecar");
  });

  it("--help has examples and exit codes", async () => {
    const result = await hbmesh("bench", "objects", "--help");
    expect(result.code).toBe(0);
    expect(result.stdout).toMatch(/Examples:\n[\s\S]*Exit codes:/);
  });
});
