/**
 * Goal: `hbmesh bench meta` has a row for every call, place and batch, the machine's round trips and the Wasm
 * functions; wrong batches are refused by name; nothing is left behind.
 * Method: run the command with a few calls, in both forms. No figure is judged.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { MetaResult } from "../../src/bench/meta.js";
import { hbmesh } from "./commands.js";
import { expectNothingNew, type Leftovers, leftoversNow } from "./leftovers.js";

const calls = ["set", "exist", "getMetaInfo", "get", "delete"];
let before: Leftovers;

beforeAll(() => {
  before = leftoversNow();
});

afterAll(() => expectNothingNew(before));

const few = ["--calls", "3", "--threads", "2", "--wasm_ms", "1"];

describe("hbmesh bench meta", () => {
  it("measures every call, local and remote, by batch size", async () => {
    const result = await hbmesh("bench", "meta", "--batch", "1,5", ...few, "--spin_us", "50", "--json");
    expect(result.code, result.stderr).toBe(0);
    const meta = JSON.parse(result.stdout) as MetaResult;
    expect(meta).toMatchObject({ threads: 2, spinMicros: 50 });
    const wanted = ["local", "remote"].flatMap((place) =>
      [1, 5].flatMap((batch) => calls.map((op) => [op, place, batch])),
    );
    expect(meta.rows.map((row) => [row.op, row.place, row.batch])).toEqual(wanted);
    for (const row of meta.rows) {
      expect(row.p99Us).toBeGreaterThanOrEqual(row.p50Us);
      expect(row.keysPerSecond).toBeGreaterThan(0);
      expect(row.threadsKeysPerSecond).toBeGreaterThan(0);
      const trip = meta.roundTrips.find(({ kind }) => kind === (row.place === "local" ? "eventfd" : "tcp"));
      expect(row.timesRoundTrip).toBeCloseTo(row.p50Us / (trip?.p50Us ?? Number.NaN), 6);
    }
    expect(meta.roundTrips.map((trip) => trip.kind)).toEqual(["spin", "eventfd", "tcp"]);
    const names = new Set(meta.decisions.map((row) => row.name));
    expect(names.size).toBe(7);
    expect(meta.decisions.filter((row) => row.batch === 5)).toHaveLength(7);
    expect(meta.decisions.every((row) => row.value > 0)).toBe(true);
  });

  it("prints three tables, and its progress on stderr", async () => {
    const result = await hbmesh("bench", "meta", "--batch", "2", ...few);
    expect(result.code, result.stderr).toBe(0);
    expect(result.stdout).toMatch(/^call +place +batch +p50 us +p99 us +x trip +keys\/s +keys\/s, 2 threads$/m);
    expect(result.stdout).toMatch(/^getMetaInfo +remote +2 /m);
    expect(result.stdout).toMatch(/^eventfd +[\d.]+ +[\d.]+$/m);
    expect(result.stdout).toMatch(/^directory lookup +2 +[\d,]+ +keys\/s$/m);
    expect(result.stderr).toContain("remote, 2 keys a call");
  });

  it.each([
    [["--batch", "0"], /Give whole numbers from 1 to 10000 with commas/],
    [["--batch", "1,,2"], /option '--batch <N,N>' argument '1,,2' is invalid/],
    [["--calls", "1"], /Give a whole number from 2 to 100000/],
    [["--treads", "1"], /unknown option '--treads'\n\(Did you mean --threads\?\)/],
  ])("refuses %j by name", async (args, message) => {
    const result = await hbmesh("bench", "meta", ...args);
    expect(result.code).toBe(2);
    expect(result.stderr).toMatch(message);
  });

  it("--help has examples and exit codes", async () => {
    const result = await hbmesh("bench", "meta", "--help");
    expect(result.code).toBe(0);
    expect(result.stdout).toMatch(/Examples:\n[\s\S]*Exit codes:/);
  });
});
