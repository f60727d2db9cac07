#!/usr/bin/env node
/**
 * `npm run test:sanitize`: the native tests under AddressSanitizer with UndefinedBehaviorSanitizer, then under
 * ThreadSanitizer, each in a build folder of its own. Ends with `N passed, N failed` over both.
 *
 *   node scripts/sanitize.mjs [address|thread]
 */
import { spawnSync } from "node:child_process";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { root, runLogged, SetupError } from "./setup/run.mjs";
import { setUpOrExit } from "./setup.mjs";

const variants = [
  { name: "address", sanitize: "address" },
  { name: "thread", sanitize: "thread" },
];

function runTests(folder) {
  const args = ["--test-dir", folder, "-j", String(availableParallelism()), "--output-on-failure"];
  const result = spawnSync("ctest", args, { cwd: root, encoding: "utf8", maxBuffer: 1 << 28 });
  process.stdout.write(result.stdout);
  const total = Number(result.stdout.match(/out of (\d+)/)?.[1] ?? 0);
  const failed = Number(result.stdout.match(/(\d+) tests? failed/)?.[1] ?? 0);
  return { passed: total - failed, failed: result.status !== 0 && failed === 0 ? 1 : failed };
}

await setUpOrExit(["build", "test"], { quiet: true });
const only = process.argv[2];
const sum = { passed: 0, failed: 0 };
for (const { name, sanitize } of variants.filter((variant) => only === undefined || variant.name === only)) {
  const folder = join(root, `build-${name}`);
  process.stderr.write(`building with the ${sanitize} sanitizer ...\n`);
  try {
    const options = ["-DHBMESH_TESTS=ON", `-DHBMESH_SANITIZE=${sanitize}`, "-DCMAKE_BUILD_TYPE=RelWithDebInfo"];
    await runLogged(`sanitize-${name}-configure`, "cmake", ["-S", root, "-B", folder, ...options]);
    await runLogged(`sanitize-${name}-build`, "cmake", ["--build", folder, "-j", String(availableParallelism())]);
  } catch (error) {
    process.stderr.write(`${error instanceof SetupError ? error.message : error.stack}\n`);
    process.exit(1);
  }
  const result = runTests(folder);
  sum.passed += result.passed;
  sum.failed += result.failed;
}
process.stdout.write(`${sum.passed} passed, ${sum.failed} failed\n`);
process.exitCode = sum.failed === 0 && sum.passed > 0 ? 0 : 1;
