/**
 * Goal: the main job does what README says: bytes set from HBM at one worker arrive in HBM at another, over tcp and
 * over shm, in JSON and as a table; a wrong argument or a failure is named; nothing is left behind.
 * Method: run `hbmesh demo` as a user would, with a file of seeded random bytes whose length fits no shape.
 */
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { hbmesh } from "./commands.js";
import { expectNothingNew, type Leftovers, leftoversNow } from "./leftovers.js";

/** 9 objects of 5 x 72 KiB and one that is shorter, whose last blob is 1,357 bytes. */
const fileBytes = 9 * 5 * 72 * 1024 + 2 * 72 * 1024 + 1_357;

interface Side {
  objects: number;
  blobs: number;
  bytes: number;
  seconds: number;
  gbps: number;
  limitGbps: number;
  ratio: number;
}

interface JobJson {
  ok: boolean;
  sha256: string;
  path: string;
  set: Side;
  get: Side;
  error?: { code: string; message: string };
}

/** xorshift32 from a fixed seed: the same bytes in every run, and no two pages alike. */
function seededBytes(count: number, seed: number): Buffer {
  const bytes = Buffer.alloc(count);
  let state = seed;
  for (let offset = 0; offset < count; offset += 1) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    bytes[offset] = state & 0xff;
  }
  return bytes;
}

let folder: string;
let file: string;
let sha256: string;
let before: Leftovers;

beforeAll(() => {
  before = leftoversNow();
  folder = mkdtempSync(join(tmpdir(), "main-job-"));
  file = join(folder, "bytes");
  const bytes = seededBytes(fileBytes, 20_251_121);
  sha256 = createHash("sha256").update(bytes).digest("hex");
  writeFileSync(file, bytes);
});

afterAll(() => {
  rmSync(folder, { recursive: true });
  expectNothingNew(before);
});

describe.each(["tcp", "shm"])("the main job over %s", (transport) => {
  it("arrives whole, and says so in one JSON document", async () => {
    const args = ["--file", file, "--shape", "5x72KB", "--rounds", "2", "--transport", transport, "--json"];
    const result = await hbmesh("demo", ...args);
    expect(result.stderr).not.toContain("hbmesh:");
    expect(result.code).toBe(0);
    const job = JSON.parse(result.stdout) as JobJson;
    expect(job).toMatchObject({ ok: true, sha256, path: transport });
    for (const side of [job.set, job.get]) {
      expect(side).toMatchObject({ objects: 10, blobs: 48, bytes: fileBytes });
      expect(side.gbps).toBeCloseTo(fileBytes / side.seconds / 1e9, 6);
      expect(side.ratio).toBeCloseTo(side.gbps / side.limitGbps, 6);
    }
  });
});

describe("the main job for people", () => {
  it("prints both OKs, the hash, the path and the table", async () => {
    const result = await hbmesh("demo", "--file", file, "--shape", "28x1MiB", "--rounds", "1");
    expect(result.code).toBe(0);
    expect(result.stdout).toMatch(/^\[OK\] Set value\n\[OK\] Get value\n/);
    expect(result.stdout).toContain(sha256);
    expect(result.stdout).toMatch(/^path: tcp from 127\.0\.0\.1:\d+, \d+ lanes/m);
    expect(result.stdout).toMatch(/^set +1 +4 /m);
    expect(result.stdout).toMatch(/^get +1 +4 /m);
    expect(result.stderr).toMatch(/warm-up/);
  });

  it("names a file that is not there, in both forms, and exits with 1", async () => {
    const missing = join(folder, "missing");
    const text = await hbmesh("demo", "--file", missing);
    expect(text.code).toBe(1);
    expect(text.stderr).toContain(`hbmesh: INVALID: ${missing} can't be read; give a file with --file PATH`);
    const json = await hbmesh("demo", "--file", missing, "--json");
    expect(json.code).toBe(1);
    expect(JSON.parse(json.stdout)).toMatchObject({ ok: false, error: { code: "INVALID" } });
  });

  it("refuses a device that the workers don't have", async () => {
    const result = await hbmesh("demo", "--file", file, "--devices", "2", "--get_device", "5", "--json");
    expect(result.code).toBe(1);
    const job = JSON.parse(result.stdout) as JobJson;
    expect(job.ok).toBe(false);
    expect(job.error?.message).toMatch(/device 5/);
  });
});

describe("arguments", () => {
  it("refuses an unknown option by name, with the nearest one", async () => {
    const result = await hbmesh("demo", "--transprot", "shm");
    expect(result.code).toBe(2);
    expect(result.stderr).toMatch(/unknown option '--transprot'/);
    expect(result.stderr).toMatch(/Did you mean --transport\?/);
  });

  it("refuses a shape, a number and a choice with what would be right", async () => {
    const shape = await hbmesh("demo", "--shape", "61*72KB");
    expect(shape).toMatchObject({ code: 2 });
    expect(shape.stderr).toContain("Give BLOBSxSIZE, as in 61x72KB.");
    const rounds = await hbmesh("demo", "--rounds", "0");
    expect(rounds).toMatchObject({ code: 2 });
    expect(rounds.stderr).toContain("Give a whole number from 1 to 1000.");
    const transport = await hbmesh("demo", "--transport", "pigeon");
    expect(transport).toMatchObject({ code: 2 });
    expect(transport.stderr).toContain("Allowed choices are auto, tcp, shm");
  });

  it("takes both spellings", async () => {
    for (const spelling of ["--shared_memory_size_mb", "--shared-memory-size-mb"]) {
      const result = await hbmesh("dev", spelling, "no-number");
      expect(result.code).toBe(2);
      expect(result.stderr).toContain("Give a whole number from 1 to 16777216.");
    }
  });

  it.each(["worker", "dev", "demo", "exist", "meta", "explain", "delete", "members", "health"])(
    "hbmesh %s --help has examples",
    async (command) => {
      const result = await hbmesh(command, "--help");
      expect(result.code).toBe(0);
      expect(result.stdout).toMatch(/Examples?:\n/);
    },
  );
});
