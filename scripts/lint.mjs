#!/usr/bin/env node
/**
 * `npm run lint`: Biome over TypeScript and JavaScript, the tests' types, the look for forgotten promises, Buf over
 * proto/, clang-format over C++, Ruff and mypy over Python.
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
const python = join(root, "build", "venv", "bin", "python");

function run(title, program, args, cwd = root) {
  const result = spawnSync(program, args, { cwd, stdio: ["ignore", "inherit", "inherit"] });
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
  run("ruff", python, ["-m", "ruff", "check", "-q", "--no-cache", ...(fix ? ["--fix"] : []), "python"]),
  run("ruff format", python, ["-m", "ruff", "format", "-q", "--no-cache", ...(fix ? [] : ["--check"]), "python"]),
  fix || run("types of Python", python, ["-m", "mypy", "--config-file", "pyproject.toml"], join(root, "python")),
  run("clang-format", "clang-format", [...(fix ? ["-i"] : ["--dry-run", "-Werror"]), ...cpp]),
];
process.exitCode = results.every(Boolean) ? 0 : 1;
