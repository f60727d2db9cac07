/**
 * Goal: the hetero benchmark counts as its users count, beside the wall clock; its cases are theirs; the keys file says
 * what it lacks; the page is whole by itself.
 * Method: rows from made-up times whose results can be worked out by hand; files in a temporary folder.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { StatusCode } from "../../../src/base/errors.js";
import { callBytes, caseBytes, type HeteroCase, heteroCases } from "../../../src/bench/hetero-cases.js";
import { heteroHtml } from "../../../src/bench/hetero-html.js";
import { readSuffixes, writeSuffixes } from "../../../src/bench/hetero-keys.js";
import { csvHead, csvLine, heteroRow } from "../../../src/bench/hetero-rows.js";
import { mean, percentile, spreadOf } from "../../../src/bench/statistics.js";
import { barChart } from "../../../src/bench/svg.js";

const MB = 2 ** 20;
const test: HeteroCase = {
  name: "2process_2thread_4key_1MB",
  processes: 2,
  threads: 2,
  keys: 4,
  blobs: 2,
  blobBytes: MB,
  iterations: 2,
};
const path = { transport: "tcp", source: "127.0.0.1:1", lanes: 3, bytes: 1, calls: 1, fallback: false, staged: false };

/** Two processes, four calls each of 8 MB: 100 ms, then 20 ms; from 1 s to 2.5 s. */
const row = heteroRow({
  test,
  operate: "mget_h2d",
  runs: [
    { beginNs: 1e9, endNs: 2e9, latenciesUs: [100_000, 20_000, 20_000, 20_000], paths: [path] },
    {
      beginNs: 1.5e9,
      endNs: 2.5e9,
      latenciesUs: [20_000, 20_000, 20_000, 20_000],
      paths: [{ ...path, fallback: true }],
    },
  ],
  limitBytesPerSecond: 100 * MB,
  against: "raw sockets",
  withAllLatencies: true,
});

describe("a row", () => {
  it("has the throughput that its users know: request by mean latency without the first call, times the processes", () => {
    expect(row.ops).toBe(8);
    expect(row.totalMb).toBe(64);
    expect(row.requestMb).toBe(16);
    expect(row.latencyPerRequestSeconds).toBeCloseTo(0.02, 10);
    expect(row.throughputMbPerSecond).toBeCloseTo((16 / 0.02) * 2, 6);
    expect(row.latencyMs).toMatchObject({ min: 20, max: 100, mean: 30 });
  });

  it("has all bytes by the time from the first start to the last end, against the limit", () => {
    expect(row.durationSeconds).toBeCloseTo(1.5, 10);
    expect(row.wallMbPerSecond).toBeCloseTo(64 / 1.5, 6);
    expect(row.ratio).toBeCloseTo(64 / 1.5 / 100, 6);
    expect(row.tps).toBeCloseTo(8 / 1.5, 6);
    expect(row).toMatchObject({ lanes: 3, path: "tcp (fallback)", against: "raw sockets" });
    expect(row.allLatenciesMs).toHaveLength(8);
  });

  it("is a line with as many fields as the head, theirs first", () => {
    expect(csvLine(row).split(",")).toHaveLength(csvHead.split(",").length);
    expect(csvHead.startsWith("operate,ops,total_MB,request_MB,duration_s,latency_per_req_s,throughput_MB/s,")).toBe(
      true,
    );
    expect(csvLine(row).startsWith("mget_h2d,8,64.00,16,1.500,0.02000,1600.00,20.000,100.000,30.000,")).toBe(true);
  });
});

describe("statistics", () => {
  it("interpolate between neighbours as numpy does", () => {
    expect(percentile([4, 1, 3, 2], 90)).toBeCloseTo(3.7, 10);
    expect(percentile([7], 99)).toBe(7);
    expect(spreadOf([1, 2, 3, 4])).toMatchObject({ min: 1, max: 4, mean: 2.5, p50: 2.5 });
    expect(mean([])).toBeNaN();
  });
});

describe("the cases", () => {
  it("are the 21 that users know, each with its own name", () => {
    const names = heteroCases.map((each) => each.name);
    expect(new Set(names).size).toBe(21);
    expect(names).toContain("1process_8thread_32key_144KB");
    expect(names).toContain("8process_1thread_1key_1024KB");
    const one = heteroCases.find((each) => each.name === "1process_1thread_32key_72KB");
    expect(one).toMatchObject({ keys: 32, blobs: 61, blobBytes: 72 * 1024, iterations: 75 });
    for (const each of heteroCases.filter(({ name }) => name.includes("blob_"))) {
      expect([each.name, callBytes(each)]).toEqual([each.name, 128 * MB]);
    }
    expect(caseBytes(test)).toBe(64 * MB);
  });
});

describe("the keys file", () => {
  let folder: string;
  let file: string;

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "bench-keys-"));
    file = join(folder, "keys.json");
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  it("keeps other cases, and gives back what was written", () => {
    writeFileSync(file, JSON.stringify({ other: { "0": ["x"] } }));
    const suffixes = [
      ["a", "b"],
      ["c", "d"],
    ];
    writeSuffixes(file, test, [3, 4], suffixes);
    expect(JSON.parse(readFileSync(file, "utf8"))).toEqual({
      other: { "0": ["x"] },
      [test.name]: { "3": ["a", "b"], "4": ["c", "d"] },
    });
    expect(readSuffixes(file, test, [3, 4])).toEqual(suffixes);
  });

  it.each([
    ["is missing", undefined, /keys\.json is not there: run the case with --set-only first/],
    ["is no JSON", "{", /is not what --set-only writes/],
    ["lacks the case", '{"x":{}}', /has no keys of 2process_2thread_4key_1MB \(it has: x\)/],
    ["lacks a device", `{"${test.name}":{"5":["a","b"]}}`, /for device 3 \(it has 5\): give -d as the set had/],
    ["lacks a thread", `{"${test.name}":{"3":["a"]}}`, /for device 3/],
  ])("says so when it %s", (_what, text, message) => {
    if (text !== undefined) {
      writeFileSync(file, text);
    }
    let failure: unknown;
    try {
      readSuffixes(file, test, [3]);
    } catch (error) {
      failure = error;
    }
    expect(failure).toMatchObject({ code: StatusCode.INVALID, message: expect.stringMatching(message) as string });
  });
});

describe("the page", () => {
  it("is one file that asks for nothing, and shows each case beside its limit", () => {
    const skipped = [{ test: "8process_1thread_32key_1024KB", reason: "it needs <much> memory" }];
    const page = heteroHtml({ backend: "sim", rows: [row], skipped }, ["2 cores"]);
    expect(page.match(/<svg /g)).toHaveLength(2);
    expect(page.match(/class="limit"/g)).toHaveLength(2);
    expect(page).toContain(test.name);
    expect(page).toContain("Devices are simulated");
    expect(page).toContain("it needs &#60;much&#62; memory");
    expect(page).not.toMatch(/<script|src=|href=|url\(|https?:/);
  });

  it("draws bars to scale", () => {
    const bar = (value: number) => ({ label: "b", kind: "set", value, title: "t" });
    const svg = barChart({ title: "T", unit: "MB/s", groups: [{ label: "<g>", bars: [bar(50), bar(100)] }] });
    const widths = [...svg.matchAll(/<rect [^>]*width="([\d.]+)"/g)].map((match) => Number(match[1]));
    expect(widths[1]).toBeCloseTo((widths[0] ?? 0) * 2, 0);
    expect(svg).toContain("&#60;g&#62;");
  });
});
