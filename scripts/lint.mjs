#!/usr/bin/env node
/**
 * `npm run lint`: Biome over TypeScript and JavaScript, the tests' types, the look for forgotten promises, Buf over proto/, clang-format over C++.
 * `npm run format` is this with --fix. Runs all of them, then exits 1 when one complained.
 */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { filesUnder } from "./lib/files.mjs";
import { findForgottenPromises } from "./lib/promises.mjs";
import { root } from "./setup/run.mjs";
import { setUpOrExit } from "./setup.mjs";

const fix = process.argv.includes("--fix");
const binary = (name) => join(root, "node_modules", ".bin", name);

function run(title, program, args) {
  const result = spawnSync(program, args, { cwd: root, stdio: ["ignore", "inherit", "inherit"] });
  const good = result.status === 0;
  process.stdout.write(`${good ? "ok    " : "FAILED"} ${title}\n`);
  return good;
}

function lintPromises() {
  const found = findForgottenPromises(root);
  for (const line of found) {
    process.stdout.write(`${line}\n`);
  }
  process.stdout.write(`${found.length === 0 ? "ok    " : "FAILED"} promises: each awaited, returned or voided\n`);
  return found.length === 0;
}

await setUpOrExit(["build", "lint"], { quiet: true });
const cpp = filesUnder(join(root, "native"), [".h", ".c", ".cc"]).filter((path) => !path.includes("/generated/"));
const results = [
  run("biome", binary("biome"), ["check", "--error-on-warnings", ...(fix ? ["--write"] : [])]),
  fix || run("types of the tests", binary("tsc"), ["-p", "test/tsconfig.json"]),
  fix || lintPromises(),
  fix || run("buf", binary("buf"), ["lint"]),
  run("clang-format", "clang-format", [...(fix ? ["-i"] : ["--dry-run", "-Werror"]), ...cpp]),
];
process.exitCode = results.every(Boolean) ? 0 : 1;
