#!/usr/bin/env node
/**
 * `npm run test:sanitize`: the native tests under AddressSanitizer with UndefinedBehaviorSanitizer, then under
 * ThreadSanitizer, each in a build folder of its own; then for each the API suite with a sidecar of that build (the
 * addon stays as it is, since Node is not built with a sanitizer). Ends with `N passed, N failed` over all of it. What
 * a sidecar reports fails the run, also when its worker started another one and the test went on.
 *
 *   node scripts/sanitize.mjs [address|thread] [--native-only | --api-only]
 *
 * CMAKE_CXX_COMPILER_LAUNCHER=ccache in the environment makes the next build a short one.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { root, runLogged, SetupError } from "./setup/run.mjs";
import { setUpOrExit } from "./setup.mjs";

const variants = ["address", "thread"];
/** What clients, sidecars and copies do with each other; the rest of test/api asks the control process. */
const apiFiles = ["host-objects", "publish-subscribe", "device-cache", "layers", "replicas", "middle", "bad-input"];
const reportLinesMax = 60;
/** Of one API test or hook: a sanitized sidecar takes several times as long. */
const testMsMax = 300_000;
const suppressions = `suppressions=${join(root, "native/tsan.supp")}`;

function runNative(folder) {
  const args = ["--test-dir", folder, "-j", String(availableParallelism()), "--output-on-failure"];
  const env = { ...process.env, TSAN_OPTIONS: suppressions };
  const result = spawnSync("ctest", args, { cwd: root, env, encoding: "utf8", maxBuffer: 1 << 28 });
  process.stdout.write(result.stdout);
  const total = Number(result.stdout.match(/out of (\d+)/)?.[1] ?? 0);
  const failed = Number(result.stdout.match(/(\d+) tests? failed/)?.[1] ?? 0);
  return { passed: total - failed, failed: result.status !== 0 && failed === 0 ? 1 : failed };
}

/** A folder with the sidecar of this build and the addon of the usual one, and an empty one for reports. */
function apiFolders(folder) {
  const [native, reports] = [join(folder, "api"), join(folder, "reports")];
  for (const each of [native, reports]) {
    rmSync(each, { recursive: true, force: true });
    mkdirSync(each);
  }
  symlinkSync(join(folder, "Release/hbmesh-sidecar"), join(native, "hbmesh-sidecar"));
  for (const name of ["hbmesh.node", "libhbmesh.so"]) {
    symlinkSync(join(root, "build/Release", name), join(native, name));
  }
  return { native, reports };
}

function runApi(folder) {
  const { native, reports } = apiFolders(folder);
  const report = join(folder, "api.json");
  rmSync(report, { force: true });
  const options = `log_path=${join(reports, "sidecar")}`;
  const env = {
    ...process.env,
    HBMESH_NATIVE_DIR: native,
    ASAN_OPTIONS: options,
    UBSAN_OPTIONS: `${options}:print_stacktrace=1`,
    TSAN_OPTIONS: `${options}:${suppressions}`,
  };
  const files = apiFiles.map((name) => `test/api/${name}.test.ts`);
  const limits = [`--testTimeout=${testMsMax}`, `--hookTimeout=${testMsMax}`];
  const args = ["run", "--reporter=default", "--reporter=json", `--outputFile.json=${report}`, ...limits, ...files];
  spawnSync(join(root, "node_modules/.bin/vitest"), args, { cwd: root, env, stdio: "inherit" });
  const counts = existsSync(report) ? JSON.parse(readFileSync(report, "utf8")) : undefined;
  const found = readdirSync(reports);
  for (const name of found) {
    const lines = readFileSync(join(reports, name), "utf8").split("\n").slice(0, reportLinesMax);
    process.stdout.write(`${join(reports, name)}:\n${lines.join("\n")}\n`);
  }
  return { passed: counts?.numPassedTests ?? 0, failed: (counts?.numFailedTests ?? 1) + found.length };
}

async function build(name, folder) {
  process.stderr.write(`building with the ${name} sanitizer ...\n`);
  try {
    const options = ["-DHBMESH_TESTS=ON", `-DHBMESH_SANITIZE=${name}`, "-DCMAKE_BUILD_TYPE=RelWithDebInfo"];
    await runLogged(`sanitize-${name}-configure`, "cmake", ["-S", root, "-B", folder, ...options]);
    await runLogged(`sanitize-${name}-build`, "cmake", ["--build", folder, "-j", String(availableParallelism())]);
  } catch (error) {
    process.stderr.write(`${error instanceof SetupError ? error.message : error.stack}\n`);
    process.exit(1);
  }
}

await setUpOrExit(["build", "test"], { quiet: true });
const args = process.argv.slice(2);
const named = args.filter((arg) => !arg.startsWith("--"));
const sum = { passed: 0, failed: 0 };
for (const name of variants.filter((variant) => named.length === 0 || named.includes(variant))) {
  const folder = join(root, `build-${name}`);
  await build(name, folder);
  const runs = [
    ...(args.includes("--api-only") ? [] : [runNative]),
    ...(args.includes("--native-only") ? [] : [runApi]),
  ];
  for (const run of runs) {
    const { passed, failed } = run(folder);
    sum.passed += passed;
    sum.failed += failed;
  }
}
process.stdout.write(`${sum.passed} passed, ${sum.failed} failed\n`);
process.exitCode = sum.failed === 0 && sum.passed > 0 ? 0 : 1;
