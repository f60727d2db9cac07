/**
 * Goal: `hbmesh bench interference` measures each rate and compares it with none; wrong rates are refused by name;
 * nothing is left behind. Method: run the command with small layers for a second a rate, in both forms. No figure is
 * judged.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { InterferenceRow } from "../../src/bench/interference.js";
import { hbmesh } from "./commands.js";
import { expectNothingNew, type Leftovers, leftoversNow } from "./leftovers.js";

let before: Leftovers;

beforeAll(() => {
  before = leftoversNow();
});

afterAll(() => expectNothingNew(before));

const small = ["--seconds", "1", "--repeats", "1", "--loop_mb", "1", "--layers", "3", "--blobs", "2", "--blob_kb", "4"];

describe("hbmesh bench interference", () => {
  it.each(["tcp", "shm"])("compares rates over %s with none", async (transport) => {
    const result = await hbmesh("bench", "interference", ...small, "--rates", "8", "--transport", transport, "--json");
    expect(result.code, result.stderr).toBe(0);
    const { rows, devices } = JSON.parse(result.stdout) as { rows: InterferenceRow[]; devices: string };
    expect(devices).toBe("simulated");
    expect(rows.map((row) => row.requestsPerSecond)).toEqual([0, 8]);
    const [alone, loaded] = rows;
    expect(alone).toMatchObject({ requests: 0, minChange: 0, avgChange: 0, maxChange: 0 });
    expect(loaded?.requests).toBeGreaterThan(0);
    expect(loaded?.requests).toBeLessThanOrEqual(8);
    expect(loaded?.avgChange).toBeCloseTo(((loaded?.avgMs ?? 0) / (alone?.avgMs ?? 1) - 1) * 100, 6);
    for (const row of rows) {
      expect(row.rounds).toBeGreaterThan(0);
      expect(row.minMs).toBeLessThanOrEqual(row.avgMs);
      expect(row.avgMs).toBeLessThanOrEqual(row.maxMs);
    }
  });

  it("prints a table, and its progress on stderr", async () => {
    const result = await hbmesh("bench", "interference", ...small, "--rates", "0,4");
    expect(result.code, result.stderr).toBe(0);
    const head = /^requests\/s +requests +GB\/s +rounds +min ms +avg ms +max ms +min +avg +max$/m;
    expect(result.stdout).toMatch(head);
    expect(result.stdout).toMatch(/^ +4 +\d+ +[\d.]+ +\d+( +[\d.]+){3}( +[+-][\d.]+%){3}$/m);
    expect(result.stderr).toContain("repeat 1 of 1: 4 requests a second for 1 s");
  });

  it.each([
    [["--rates", "1,x"], /Give requests a second from 0 to 1000 with commas/],
    [["--rates", "1001"], /argument '1001' is invalid/],
    [["--layers", "0"], /Give a whole number from 1 to 10000/],
    [["--layer", "1"], /unknown option '--layer'\n\(Did you mean --layers\?\)/],
  ])("refuses %j by name", async (args, message) => {
    const result = await hbmesh("bench", "interference", ...args);
    expect(result.code).toBe(2);
    expect(result.stderr).toMatch(message);
  });

  it("--help says that devices are simulated, with examples and exit codes", async () => {
    const result = await hbmesh("bench", "interference", "--help");
    expect(result.code).toBe(0);
    expect(result.stdout).toContain("Devices are simulated");
    expect(result.stdout).toMatch(/Examples:\n[\s\S]*Exit codes:/);
  });
});
