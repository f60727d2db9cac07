#!/usr/bin/env node
/**
 * `npm test`: sets up with the native tests, runs every test, and ends with one line that sums them up:
 * `N passed, N failed`. Exits 1 when a test failed or a runner broke.
 *
 *   node scripts/test.mjs [--native-only | --fuzz-only | --js-only | --python-only] [filters...]
 *
 * The filters are vitest's, or pytest's.
 */
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { briefSeconds, fuzzerNames, runFuzzers } from "./fuzz.mjs";
import { root, stateFolder } from "./setup/run.mjs";
import { setUpOrExit } from "./setup.mjs";

const args = process.argv.slice(2);
const filters = args.filter((arg) => !arg.startsWith("--"));

/** Runs with inherited output; resolves to the exit code. */
function run(program, programArgs) {
  return new Promise((resolve) => {
    const child = spawn(program, programArgs, { cwd: root, stdio: ["ignore", "inherit", "inherit"] });
    child.on("error", () => resolve(-1));
    child.on("exit", (code) => resolve(code ?? -1));
  });
}

async function runVitest() {
  const reportPath = join(stateFolder, "vitest.json");
  rmSync(reportPath, { force: true });
  const reporters = ["--reporter=default", "--reporter=json", `--outputFile.json=${reportPath}`];
  const code = await run(join(root, "node_modules/.bin/vitest"), ["run", ...reporters, ...filters]);
  if (!existsSync(reportPath)) {
    return { passed: 0, failed: 1, skipped: 0 };
  }
  const report = JSON.parse(readFileSync(reportPath, "utf8"));
  // A file that could not be loaded has no tests to count; it is one failure.
  const broken = report.testResults.filter(
    (file) => file.status === "failed" && file.assertionResults.length === 0,
  ).length;
  const failed = report.numFailedTests + broken;
  const skipped = report.numPendingTests + report.numTodoTests;
  return { passed: report.numPassedTests, failed: code !== 0 && failed === 0 ? 1 : failed, skipped };
}

async function runCtest() {
  const reportPath = join(stateFolder, "ctest.xml");
  mkdirSync(stateFolder, { recursive: true });
  rmSync(reportPath, { force: true });
  const jobs = String(availableParallelism());
  const where = ["--test-dir", join(root, "build")];
  const code = await run("ctest", [
    ...where,
    "-C",
    "Release",
    "-j",
    jobs,
    "--output-on-failure",
    "--output-junit",
    reportPath,
  ]);
  return countsOf(reportPath, code);
}

/** Of a runner that ended with `code` and wrote a JUnit file. */
function countsOf(reportPath, code) {
  if (!existsSync(reportPath)) {
    return { passed: 0, failed: 1, skipped: 0 };
  }
  // The head: <testsuite ... tests="N" failures="N" errors="N" disabled="N" skipped="N" ...>.
  const head = readFileSync(reportPath, "utf8").match(/<testsuite\s[^>]*>/)?.[0] ?? "";
  const count = (name) => Number(head.match(new RegExp(`\\s${name}="(\\d+)"`))?.[1] ?? 0);
  const skipped = count("skipped") + count("disabled");
  const failed = count("failures") + count("errors");
  return { passed: count("tests") - failed - skipped, failed: code !== 0 && failed === 0 ? 1 : failed, skipped };
}

/** The suites of python/tests, with the library of build/Release and the workers of dist/. */
async function runPytest() {
  const reportPath = join(stateFolder, "pytest.xml");
  rmSync(reportPath, { force: true });
  const named = args.includes("--python-only") && filters.length > 0 ? ["-k", filters.join(" or ")] : [];
  const places = ["--rootdir", "python", "-c", "python/pyproject.toml", `--basetemp=${join(stateFolder, "pytest")}`];
  const report = ["-q", ...places, `--junitxml=${reportPath}`];
  const code = await run(join(root, "build/venv/bin/python"), ["-m", "pytest", ...report, "python/tests", ...named]);
  return countsOf(reportPath, code);
}

await setUpOrExit(["build", "test"]);
// A temporary folder of its own for the whole run: what it leaves behind is told from what others have in /tmp.
const temporary = mkdtempSync(join(tmpdir(), "hbmesh-test-"));
process.env.TMPDIR = temporary;
const sum = { passed: 0, failed: 0, skipped: 0 };
const runBriefFuzz = () => runFuzzers(fuzzerNames(), { seconds: briefSeconds, brief: true });
const all = { native: runCtest, fuzz: runBriefFuzz, js: runVitest, python: runPytest };
const wanted = Object.keys(all).filter((name) => args.includes(`--${name}-only`));
for (const name of wanted.length > 0 ? wanted : Object.keys(all)) {
  const runner = all[name];
  const result = await runner();
  sum.passed += result.passed;
  sum.failed += result.failed;
  sum.skipped += result.skipped;
}
rmSync(temporary, { recursive: true, force: true });
if (sum.skipped > 0) {
  process.stdout.write(`${sum.skipped} skipped\n`);
}
process.stdout.write(`${sum.passed} passed, ${sum.failed} failed\n`);
process.exitCode = sum.failed === 0 && sum.passed > 0 ? 0 : 1;
