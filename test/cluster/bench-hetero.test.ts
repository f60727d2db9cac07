/**
 * Goal: `hbmesh bench hetero` runs the named cases with real processes and threads, in one go at its own workers and in
 * two halves at workers that are there; what it prints is complete; wrong arguments and missing data are named; nothing
 * is left behind. Method: run the command as a user would with one or two iterations, and read what it prints. No
 * figure is judged.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { BenchClient, startTogether } from "../../src/bench/native-client.js";
import { hbmesh } from "./commands.js";
import { type Fixture, startFixture } from "./fixture.js";
import { expectNothingNew, type Leftovers, leftoversNow } from "./leftovers.js";

interface Row {
  test: string;
  operate: string;
  ops: number;
  totalMb: number;
  durationSeconds: number;
  wallMbPerSecond: number;
  limitMbPerSecond: number;
  ratio: number;
  path: string;
  against: string;
  allLatenciesMs?: number[];
}

const requestMb = (61 * 72) / 1024;
const small = "1process_1thread_1key_72KB";
let folder: string;
let before: Leftovers;

beforeAll(() => {
  before = leftoversNow();
  folder = mkdtempSync(join(tmpdir(), "bench-hetero-"));
});

afterAll(() => {
  rmSync(folder, { recursive: true });
  expectNothingNew(before);
});

describe("hbmesh bench hetero at its own workers", () => {
  it("prints the rows that its users know, tells its progress, and writes the page", async () => {
    const page = join(folder, "page.html");
    const result = await hbmesh("bench", "hetero", "-n", small, "--iterations", "2", "--html", page);
    expect(result.stderr).toContain(`1 of 1: ${small}, 2 of 100 iterations`);
    expect(result.code, result.stderr).toBe(0);
    const [head = "", ...lines] = result.stdout.trim().split("\n");
    expect(head.split(",").slice(0, 14).join(",")).toBe(
      "operate,ops,total_MB,request_MB,duration_s,latency_per_req_s,throughput_MB/s,min,max,mean,p90,p95,p99,tps",
    );
    expect(lines.map((line) => line.split(",").slice(0, 4))).toEqual(
      ["mset_d2h", "mget_h2d_local", "mget_h2d"].map((name) => [name, "2", "8.58", String(requestMb)]),
    );
    expect(lines.map((line) => line.split(",").slice(-4))).toEqual([
      ["one copy", expect.any(String), "local", small],
      ["one copy", expect.any(String), "local", small],
      ["raw sockets", expect.any(String), "tcp", small],
    ]);
    expect(readFileSync(page, "utf8")).toContain(`<td>${small}</td>`);
  });

  it("runs eight processes at once, gets as often as asked, and says all of it in JSON", async () => {
    const name = "8process_1thread_1key_72KB";
    const args = ["-n", name, "--iterations", "1", "--get-multiplier", "3", "--show-all-request-times", "--json"];
    const result = await hbmesh("bench", "hetero", ...args, "--transport", "shm", "--no-warmup", "-d", "6");
    expect(result.code, result.stderr).toBe(0);
    const { rows, backend, skipped } = JSON.parse(result.stdout) as {
      rows: Row[];
      backend: string;
      skipped: unknown[];
    };
    expect({ backend, skipped }).toEqual({ backend: "sim", skipped: [] });
    expect(rows.map((row) => [row.operate, row.ops, row.path])).toEqual([
      ["mset_d2h", 8, "local"],
      ["mget_h2d_local", 24, "local"],
      ["mget_h2d", 24, "shm"],
    ]);
    for (const row of rows) {
      expect(row.allLatenciesMs).toHaveLength(row.ops);
      expect(row.totalMb).toBeCloseTo(row.ops * requestMb, 6);
      expect(row.wallMbPerSecond).toBeCloseTo(row.totalMb / row.durationSeconds, 6);
      expect(row.ratio).toBeCloseTo(row.wallMbPerSecond / row.limitMbPerSecond, 6);
      expect(row.against).toBe("one copy");
    }
  });
});

describe("hbmesh bench hetero in two halves", () => {
  let fixture: Fixture;
  beforeAll(async () => {
    fixture = await startFixture({ sharedMemorySizeMb: 128, devices: 8 });
  });
  afterAll(() => fixture.close());

  it("sets at one node, gets at another with the keys file, and leaves no data", async () => {
    const keys = join(folder, "keys.json");
    const half = (worker: number, only: string): string[] => {
      const [ip = "", port = ""] = (fixture.addresses[worker] ?? "").split(":");
      return [
        "bench",
        "hetero",
        "-i",
        ip,
        "-p",
        port,
        only,
        "-k",
        keys,
        "-n",
        small,
        "--no-warmup",
        "--iterations",
        "2",
      ];
    };
    const set = await hbmesh(...half(0, "--set-only"));
    expect(set.code, set.stderr).toBe(0);
    expect(set.stdout.trim().split("\n").slice(1)).toEqual([expect.stringMatching(/^mset_d2h,2,.*,local,1process/)]);
    expect(JSON.parse(readFileSync(keys, "utf8"))).toEqual({
      [small]: { "3": [expect.stringMatching(/^[0-9a-z]{10}$/)] },
    });
    const get = await hbmesh(...half(1, "--get-only"));
    expect(get.code, get.stderr).toBe(0);
    expect(get.stdout.trim().split("\n").slice(1)).toEqual([expect.stringMatching(/^mget_h2d,2,.*,tcp,1process/)]);
    const client = await fixture.client(0);
    const [[suffix = ""] = []] = Object.values(
      (JSON.parse(readFileSync(keys, "utf8")) as Record<string, Record<string, string[]>>)[small] ?? {},
    );
    const left = await client.exist([`dev3_key0_0_${suffix}`, `dev3_key1_0_${suffix}`]);
    expect(left.presences).toEqual(["MISS", "MISS"]);
  });

  it("has threads of one process that share a client, each with its own keys and bytes", async () => {
    const client = await BenchClient.start("client", fixture.addresses[0] ?? "");
    const shape = { device: 1, threads: 3, keys: 2, blobs: 3, bytes: 1_001 };
    const run = { memory: "m", prefix: "threads_", suffixes: ["a", "b", "c"], iterations: 4 };
    await client.allocate("m", shape, 9);
    const set = await client.run("set", { ...run, at: startTogether() });
    expect(set.latenciesUs).toHaveLength(12);
    expect(set.endNs).toBeGreaterThan(set.beginNs);
    await client.allocate("m", shape, 0);
    await expect(client.expectBytes("m", 9)).rejects.toMatchObject({ codeName: "DATA_INCONSISTENCY" });
    await client.run("get", run);
    await client.expectBytes("m", 9);
    expect((await client.run("exist", run)).latenciesUs).toHaveLength(12);
    await client.run("delete", run);
    const gone = client.run("meta", run);
    await expect(gone).rejects.toMatchObject({
      codeName: "NOT_FOUND",
      message: expect.stringMatching(/threads_0_/) as string,
    });
    await client.end();
  });

  it("says which worker is not there, and names a process that ended", async () => {
    await expect(BenchClient.start("lost client", "127.0.0.1:1")).rejects.toMatchObject({
      codeName: "NO_AVAILABLE_WORKER",
      message: expect.stringMatching(/^the lost client: .*127\.0\.0\.1:1/) as string,
    });
    const client = await BenchClient.start("short client", "-");
    await client.end();
    await expect(client.settle()).rejects.toMatchObject({
      codeName: "CLIENT_WORKER_DISCONNECT",
      message: expect.stringContaining("the short client process ended with exit code 0") as string,
    });
  });
});

describe("arguments of hbmesh bench hetero", () => {
  it.each([
    [["--set-only", "--get-only"], /give --set-only or --get-only, not both/],
    [["--set-only"], /--set-only needs -i IP/],
    [["--get-only", "-i", "127.0.0.1"], /--get-only needs -n NAME/],
    [["-p", "31501"], /-p needs -i IP/],
    [["-n", "2process_1key"], /there is no case 2process_1key; give one of\n {2}1process_1thread_1key_72KB\n/],
    [["--get-multiplier", "0"], /Give a whole number from 1 to 10000/],
    [["--get-multiplyer", "2"], /unknown option '--get-multiplyer'\n\(Did you mean --get-multiplier\?\)/],
  ])("%j is refused by name", async (args, message) => {
    const result = await hbmesh("bench", "hetero", ...args);
    expect(result.code).toBe(2);
    expect(result.stderr).toMatch(message);
    expect(result.stdout).toBe("");
  });

  it("a keys file that is not there is named", async () => {
    const fixture = await startFixture();
    const [ip = "", port = ""] = (fixture.addresses[0] ?? "").split(":");
    const missing = join(folder, "missing.json");
    const args = ["-i", ip, "-p", port, "--get-only", "-n", small, "-k", missing];
    const result = await hbmesh("bench", "hetero", ...args);
    await fixture.close();
    expect(result.code).toBe(1);
    expect(result.stderr).toContain(`INVALID: ${missing} is not there: run the case with --set-only first`);
  });

  it("--help lists every case and the exit codes", async () => {
    const result = await hbmesh("bench", "hetero", "--help");
    expect(result.code).toBe(0);
    expect(result.stdout).toMatch(/^ {2}1process_1key_512blob_256KB +1, 1, 1, 512 x 256 KB, 80 iterations$/m);
    expect(result.stdout).toContain("Exit codes:");
    expect(result.stdout).toMatch(/Examples:\n/);
  });
});
