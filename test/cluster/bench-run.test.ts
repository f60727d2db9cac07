/**
 * Goal: `npm run bench` measures eight processes at once, device to device, layers and one source to many readers
 * beside their limits, prints one JSON document or a table against an earlier run, and names wrong arguments; nothing
 * is left behind. Method: the cases themselves with small objects in this process, for one round; the script for one
 * round of one part, in both forms. No figure is judged.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { BenchContext } from "../../src/bench/cluster.js";
import { measureDeviceCases, measureFanOut } from "../../src/bench/device-cases.js";
import { measureObjectCases } from "../../src/bench/object-cases.js";
import type { RateRow } from "../../src/bench/rows.js";
import { openLocalCluster } from "../../src/cli/bench-context.js";
import { root } from "../contract/sources.js";
import { run } from "./commands.js";
import { expectNothingNew, type Leftovers, leftoversNow } from "./leftovers.js";

const small = { blobs: 3, blobBytes: 4_096, objects: 2, rounds: 1 };
const ways = ["publish, subscribe", "devMSet, devMGet", "layers, one by one", "layers, two under way"];
const context: BenchContext = {
  openCluster: openLocalCluster,
  progress: () => undefined,
  signal: new AbortController().signal,
  warmUpCalls: 2,
};
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

function expectFigures(rows: readonly RateRow[]): void {
  for (const row of rows) {
    expect(row.gbps).toBeGreaterThan(0);
    expect(row.ratio).toBeCloseTo(row.gbps / row.limitGbps, 6);
    expect(row.lanes).toBeGreaterThan(0);
  }
}

describe("the cases", () => {
  it.each([
    { transport: "tcp", against: "raw sockets" },
    { transport: "shm", against: "one copy" },
  ] as const)("device to device over $transport stand beside $against", async ({ transport, against }) => {
    const rows = await measureDeviceCases({ ...small, transport }, context);
    expect(rows.map((row) => row.name)).toEqual(ways.map((way) => `${way} ${transport} 3 x 4 KB`));
    expect(rows.map((row) => row.against)).toEqual(ways.map(() => against));
    expectFigures(rows);
  });

  it.each([
    { transport: "tcp", against: "raw sockets" },
    { transport: "shm", against: "one copy" },
  ] as const)("eight processes over $transport stand beside $against", async ({ transport, against }) => {
    const rows = await measureObjectCases({ ...small, transport }, context);
    expect(rows.map((row) => row.name)).toEqual([
      `local set beside ${transport} 3x4KB, 8 processes`,
      `local get beside ${transport} 3x4KB, 8 processes`,
      `remote get ${transport} 3x4KB, 8 processes`,
    ]);
    expect(rows.map((row) => row.against)).toEqual(["one copy", "one copy", against]);
    expectFigures(rows);
  });

  it("one source to several readers is a multiple of one transfer, at two workers", async () => {
    const rows = await measureFanOut({ ...small, transport: "tcp", readers: [1, 3] }, context);
    expect(rows.map((row) => row.name)).toEqual(["1 source to 1 tcp 3 x 4 KB", "1 source to 3 tcp 3 x 4 KB"]);
    expect(rows[0]?.timesOne).toBe(1);
    expect(rows[1]?.timesOne).toBeGreaterThan(0);
    expectFigures(rows);
  });

  it("devices of limited speed are the limit themselves", async () => {
    const options = { ...small, transport: "shm", readers: [1, 4], deviceMbPerSecond: 10 } as const;
    const rows = await measureFanOut(options, context);
    expect(rows.map((row) => [row.name, row.against, row.limitGbps])).toEqual([
      ["1 source to 1 devices of 10 MB/s 3 x 4 KB", "the devices", 0.01],
      ["1 source to 4 devices of 10 MB/s 3 x 4 KB", "the devices", 0.04],
    ]);
    expectFigures(rows);
  });
});

const bench = (...args: string[]) => run(process.execPath, [join(root, "bench/run.mjs"), ...args]);

describe("npm run bench", () => {
  it("prints one JSON document, and compares with an earlier one", async () => {
    const part = ["--rounds", "1", "--warm-up", "2", "--only", "device shm 61x72KB"];
    const first = await bench(...part, "--json");
    expect(first.code, first.stderr).toBe(0);
    const result = JSON.parse(first.stdout) as { devices: string; rounds: number; rows: RateRow[] };
    expect(result).toMatchObject({ devices: "simulated", rounds: 1 });
    expect(result.rows.map((row) => row.name)).toEqual(ways.map((way) => `${way} shm 61 x 72 KB`));
    const file = join(folder, "earlier.json");
    writeFileSync(file, JSON.stringify({ rows: result.rows.map((row) => ({ ...row, ratio: 1000 })) }));
    const compared = await bench(...part, "--compare", file);
    expect(compared.code, compared.stderr).toBe(0);
    expect(compared.stdout).toMatch(/^case .* ratio +goal +x one +before +change$/m);
    expect(compared.stdout.match(/ +100000% +x 0\.00$/gm)).toHaveLength(4);
  });

  it.each([
    [["--rounds", "0"], /--rounds 0 must be a whole number from 1 on/],
    [["--warm-up", "-1"], /'--warm-up' argument is ambiguous/],
    [["--warm-up=-1"], /--warm-up -1 must be a whole number from 0 on/],
    [["--only", "nothing"], /--only nothing matches none of: main tcp 28x1024KB, processes tcp 28x1024KB, device tcp/],
    [["--compare", "missing.json"], /--compare missing\.json can't be read/],
    [["--compare", join(root, "package.json")], /package\.json is not what npm run bench -- --json prints/],
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
