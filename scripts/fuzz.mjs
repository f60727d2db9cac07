#!/usr/bin/env node
/**
 * `npm run fuzz`: builds the fuzzers of native/fuzz with Clang and runs them, each on its seeds, for a while. What they
 * find is kept under build-fuzz/found, with the command that shows it again; what they learnt stays in
 * build-fuzz/corpus, so that the next run goes on from there.
 *
 *   npm run fuzz [-- NAME... --seconds 60 --seed N]
 *
 * `npm test` runs each for a few seconds with a fixed seed. Without Clang they are skipped, by name.
 */
import { spawn } from "node:child_process";
import { randomInt } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join, relative } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { findFuzzTools } from "./setup/fuzz-tools.mjs";
import { root, runLogged, SetupError } from "./setup/run.mjs";
import { setUpOrExit } from "./setup.mjs";

const folder = join(root, "build-fuzz");
/** A test's share of the gate. */
export const briefSeconds = 4;
const briefSeed = 1;
/** Longest time for one input; more is a fault, too. */
const inputSecondsMax = 30;
const memoryMbMax = 2048;
const shownLinesMax = 40;

export function fuzzerNames() {
  return readdirSync(join(root, "native/fuzz"))
    .filter((name) => name.endsWith("_fuzz.cc"))
    .map((name) => name.slice(0, -"_fuzz.cc".length))
    .sort();
}

async function build(compiler) {
  const cache = join(folder, "CMakeCache.txt");
  if (existsSync(cache) && !readFileSync(cache, "utf8").includes(`CMAKE_HOME_DIRECTORY:INTERNAL=${root}\n`)) {
    rmSync(folder, { recursive: true, force: true });
  }
  const options = ["-DHBMESH_FUZZ=ON", `-DCMAKE_CXX_COMPILER=${compiler}`];
  await runLogged("fuzz-configure", "cmake", ["-S", root, "-B", folder, ...options]);
  await runLogged("fuzz-build", "cmake", ["--build", folder, "-j", String(availableParallelism())]);
}

/** Resolves to `{ code, output }`. */
function capture(program, args, environment) {
  return new Promise((resolve) => {
    const env = { ...process.env, ...environment };
    const child = spawn(program, args, { cwd: root, env, stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (text) => {
        output += text;
      });
    }
    child.on("error", (error) => resolve({ code: -1, output: `${output}${error.message}\n` }));
    child.on("close", (code) => resolve({ code: code ?? -1, output }));
  });
}

/** An empty folder, or one that keeps what is in it. */
function folderFor(kind, name, { empty }) {
  const path = join(folder, kind, name);
  if (empty) {
    rmSync(path, { recursive: true, force: true });
  }
  mkdirSync(path, { recursive: true });
  return path;
}

/** Runs one fuzzer; true: nothing was found. */
async function runOne(name, { seconds, seed, brief }) {
  const program = join(folder, "fuzz", `${name}_fuzz`);
  const seeds = folderFor("seeds", name, { empty: true });
  const learnt = folderFor(brief ? "brief" : "corpus", name, { empty: brief });
  const found = folderFor("found", name, { empty: false });
  const made = await capture(program, [], { HBMESH_FUZZ_SEEDS: seeds });
  const limits = [`-timeout=${inputSecondsMax}`, `-rss_limit_mb=${memoryMbMax}`];
  const run = [`-max_total_time=${seconds}`, `-seed=${seed}`, `-artifact_prefix=${found}/`, ...limits];
  const { code, output } = made.code === 0 ? await capture(program, [...run, learnt, seeds]) : made;
  const done = output.match(/#(\d+)\s+DONE\s+cov: (\d+)/);
  if (code === 0 && done !== null) {
    process.stdout.write(`fuzz ${name}: ${done[1]} inputs, coverage ${done[2]}, nothing found (seed ${seed})\n`);
    return true;
  }
  const kept = output.match(/Test unit written to (\S+)/)?.[1];
  const shown = output.trimEnd().split("\n").slice(-shownLinesMax).join("\n");
  const again = kept === undefined ? "" : `again: ${relative(root, program)} ${relative(root, kept)}\n`;
  process.stdout.write(`fuzz ${name}: FAILED (seed ${seed}, exit code ${code})\n${shown}\n${again}`);
  return false;
}

/** Runs several at once, one for each core. Resolves to the counts of the tests' last line. */
export async function runFuzzers(names, { seconds, seed = briefSeed, brief }) {
  const { compiler, missing } = findFuzzTools();
  if (compiler === undefined) {
    for (const name of names) {
      process.stdout.write(`fuzz ${name}: skipped, ${missing}\n`);
    }
    return { passed: 0, failed: 0, skipped: names.length };
  }
  try {
    await build(compiler);
  } catch (error) {
    process.stdout.write(`${error instanceof SetupError ? error.message : error.stack}\n`);
    return { passed: 0, failed: names.length, skipped: 0 };
  }
  const waiting = [...names];
  const sum = { passed: 0, failed: 0, skipped: 0 };
  const work = async () => {
    for (let name = waiting.shift(); name !== undefined; name = waiting.shift()) {
      sum[(await runOne(name, { seconds, seed, brief })) ? "passed" : "failed"] += 1;
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, work));
  return sum;
}

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { seconds: { type: "string", default: "60" }, seed: { type: "string" } },
  });
  const known = fuzzerNames();
  const unknown = positionals.find((name) => !known.includes(name));
  const seconds = Number(values.seconds);
  if (unknown !== undefined || !Number.isInteger(seconds) || seconds < 1) {
    const what = unknown !== undefined ? `no fuzzer ${unknown}` : `--seconds ${values.seconds}`;
    process.stderr.write(`${what}: give some of ${known.join(", ")}, and --seconds of 1 or more\n`);
    return 2;
  }
  await setUpOrExit(["build", "fuzz"], { quiet: true });
  const seed = values.seed ?? String(randomInt(1, 2 ** 31));
  const names = positionals.length > 0 ? positionals : known;
  const { passed, failed, skipped } = await runFuzzers(names, { seconds, seed, brief: false });
  process.stdout.write(`${skipped > 0 ? `${skipped} skipped\n` : ""}${passed} passed, ${failed} failed\n`);
  return failed === 0 ? 0 : 1;
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  process.exitCode = await main();
}
