/**
 * Goal: `npm run bench` measures the main job, the device cases and the fan-out beside their limits, compares with an earlier run, and names
 * wrong arguments; nothing is left behind.
 * Method: run its script for one round of single parts, and read what it prints. No figure is judged.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { RateRow } from "../../src/bench/rows.js";
import { root } from "../contract/sources.js";
import { run } from "./commands.js";
import { expectNothingNew, type Leftovers, leftoversNow } from "./leftovers.js";

let before: Leftovers;
let folder: string;

beforeAll(() => {
  before = leftoversNow();
  folder = mkdtempSync(join(tmpdir(), "bench-run-"));
});

afterAll(() => {
  rmSync(folder, { recursive: true });
  expectNothingNew(before);
});

const bench = (...args: string[]) => run(process.execPath, [join(root, "bench/run.mjs"), ...args]);

async function rowsOf(only: string): Promise<RateRow[]> {
  const result = await bench("--rounds", "1", "--only", only, "--json");
  expect(result.code, result.stderr).toBe(0);
  const { devices, rounds, rows } = JSON.parse(result.stdout) as { devices: string; rounds: number; rows: RateRow[] };
  expect({ devices, rounds }).toEqual({ devices: "simulated", rounds: 1 });
  for (const row of rows) {
    expect(row.ratio).toBeCloseTo(row.gbps / row.limitGbps, 6);
    expect(row.lanes).toBeGreaterThan(0);
  }
  return rows;
}

describe("npm run bench", () => {
  it("measures device to device, and compares with an earlier run", async () => {
    const rows = await rowsOf("device shm 61x72KB");
    const names = ["publish, subscribe", "devMSet, devMGet", "layers, one by one", "layers, two under way"];
    expect(rows.map((row) => row.name)).toEqual(names.map((name) => `${name} shm 61 x 72 KB`));
    expect(rows.every((row) => row.against === "one copy")).toBe(true);
    const file = join(folder, "earlier.json");
    writeFileSync(file, JSON.stringify({ rows: rows.map((row) => ({ ...row, ratio: row.ratio * 1000 })) }));
    const compared = await bench("--rounds", "1", "--only", "device shm 61x72KB", "--compare", file);
    expect(compared.code, compared.stderr).toBe(0);
    expect(compared.stdout).toMatch(/^case .* ratio +goal +x one +before +change$/m);
    expect(compared.stdout.match(/ +\d{4,}% +x 0\.00$/gm)).toHaveLength(4);
  });

  it("measures one source to many readers as multiples of one transfer", async () => {
    const rows = await rowsOf("fan-out devices");
    const counts = [1, 3, 7, 15];
    expect(rows.map((row) => row.name)).toEqual(
      counts.map((count) => `1 source to ${count} devices of 200 MB/s 61 x 72 KB`),
    );
    expect(rows[0]?.timesOne).toBe(1);
    expect(rows.every((row) => (row.timesOne ?? 0) > 0 && row.against === "the devices")).toBe(true);
  }, 120_000);

  it.each([
    [["--rounds", "0"], /--rounds 0 must be a whole number from 1 on/],
    [["--only", "nothing"], /--only nothing matches none of: main tcp 28x1024KB, device tcp/],
    [["--compare", "missing.json"], /--compare missing\.json can't be read/],
    [["--compare", "package.json"], /--compare package\.json is not what npm run bench -- --json prints/],
    [["--frob"], /Unknown option '--frob'/],
  ])("refuses %j by name", async (args, message) => {
    const result = await bench(...args);
    expect(result.code).toBe(2);
    expect(result.stderr).toMatch(message);
    expect(result.stderr).toContain("npm run bench -- --help lists the options.");
  });

  it("--help says what is measured", async () => {
    const result = await bench("--help");
    expect(result.code).toBe(0);
    expect(result.stdout).toContain("--compare FILE");
  });
});
