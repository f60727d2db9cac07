/**
 * Goal: `node bench/mooncake.mjs` puts the tcp transport, raw sockets and Mooncake's program beside each other, does
 * without Mooncake where it isn't installed and says so by name, and names what is wrong.
 * Method: the script with few bytes, without Mooncake, and with a program in its place that prints what Mooncake's
 * does. No figure of ours is judged.
 */
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { root } from "../contract/sources.js";
import { run } from "./commands.js";
import { expectNothingNew, type Leftovers, leftoversNow } from "./leftovers.js";

interface Report {
  program: string | null;
  missing: string;
  rows: { operation: string; bytes: number; connections: number; hbmesh: number; raw: number; mooncake?: number }[];
}

const program = "transfer_engine_bench";
const small = ["--rounds", "1", "--megabytes", "8", "--depth", "4", "--connections", "2"];
let before: Leftovers;
let folder: string;
let withoutIt: NodeJS.ProcessEnv;

beforeAll(() => {
  before = leftoversNow();
  folder = mkdtempSync(join(tmpdir(), "bench-mooncake-"));
  mkdirSync(join(folder, "empty"));
  withoutIt = { ...process.env, PATH: join(folder, "empty"), VIRTUAL_ENV: join(folder, "empty") };
});

afterAll(() => {
  rmSync(folder, { recursive: true });
  expectNothingNew(before);
});

function mooncake(args: readonly string[], env: NodeJS.ProcessEnv): ReturnType<typeof run> {
  return run(process.execPath, [join(root, "bench/mooncake.mjs"), ...args], { env });
}

/** In place of Mooncake's: a target that stays and an initiator that ends, each with a line of its arguments. */
function fakeProgram(name: string, body: string): string {
  const file = join(folder, name);
  writeFileSync(file, `#!/bin/sh\necho "$@" >> ${folder}/calls\n${body}\n`);
  chmodSync(file, 0o755);
  return file;
}

describe("node bench/mooncake.mjs", () => {
  it("measures without Mooncake, and names what is not there", async () => {
    const result = await mooncake([...small, "--sizes", "64K,1M", "--json"], withoutIt);
    expect(result.code, result.stderr).toBe(0);
    const { program: found, missing, rows } = JSON.parse(result.stdout) as Report;
    expect(found).toBeNull();
    expect(missing).toMatch(/transfer_engine_bench is not measured.*pip install mooncake-transfer-engine-non-cuda==/);
    expect(rows.map(({ operation, bytes }) => [operation, bytes])).toEqual([
      ["write", 65_536],
      ["write", 1_048_576],
      ["read", 65_536],
      ["read", 1_048_576],
    ]);
    for (const row of rows) {
      expect(row.connections).toBe(2);
      expect(row.hbmesh).toBeGreaterThan(0);
      expect(row.raw).toBeGreaterThan(0);
      expect(row.mooncake).toBeUndefined();
    }
  });

  it("runs Mooncake's program with the same transfers and prints both, and ends all of its processes", async () => {
    const file = fakeProgram(
      program,
      `case "$*" in
*"-mode target"*)
  echo "using P2P handshake, listening on 127.0.0.1:4567" >&2
  echo "DRAM is used" >&2
  exec sleep 600
  ;;
*) echo "Test completed: duration 1.00, batch count 9, throughput 1.2500 GB/s" >&2 ;;
esac`,
    );
    const result = await mooncake([...small, "--program", file, "--sizes", "64K", "--operations", "read"], process.env);
    expect(result.code, result.stderr).toBe(0);
    expect(result.stdout).toMatch(/^read 64 KiB +2 +[\d.]+ +[\d.]+ +\d+ % +1\.25 +\d+ %$/m);
    const calls = readFileSync(join(folder, "calls"), "utf8").trim().split("\n");
    expect(calls).toHaveLength(4);
    const initiators = calls.filter((call) => call.includes("-mode initiator"));
    expect(initiators).toHaveLength(2);
    for (const call of initiators) {
      expect(call).toContain("-segment_id 127.0.0.1:4567 -operation read -duration 1");
      expect(call).toContain("-block_size 65536 -batch_size 4 -threads 2");
    }
  });

  it("says which library a program lacks that ends at once", async () => {
    const line = `${program}: error while loading shared libraries: libibverbs.so.1: cannot open shared object file`;
    const file = fakeProgram("broken", `echo "${line}" >&2; exit 127`);
    const result = await mooncake([...small, "--program", file, "--sizes", "64K"], process.env);
    expect(result.code).toBe(1);
    expect(result.stderr).toContain(`${program} ended without a result`);
    expect(result.stderr).toContain("Install the package that has libibverbs.so.1");
  });

  it.each([
    { args: ["--sizes", "64K,much"], message: "--sizes much: Give a size above 0" },
    { args: ["--connections", "17"], message: "--connections 17 must be a whole number from 1 to 16" },
    { args: ["--operations", "copy"], message: "--operations copy must be read or write" },
    { args: ["--program", "/nowhere"], message: "--program /nowhere is no program that can be run" },
    { args: ["--many"], message: "--many" },
  ])("refuses $args", async ({ args, message }) => {
    const result = await mooncake(args, process.env);
    expect(result.code).toBe(2);
    expect(result.stderr).toContain(message);
    expect(result.stderr).toContain("node bench/mooncake.mjs --help lists the options.");
  });
});
