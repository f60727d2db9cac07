#!/usr/bin/env node
/**
 * `npm run wheel`: sets up, then builds the Python package with the library and the sidecar of build/Release inside.
 * The last line of standard output is the wheel's path, in dist/python/.
 */
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { root, runLogged, SetupError } from "./setup/run.mjs";
import { setUpOrExit } from "./setup.mjs";

await setUpOrExit(["build", "wheel"], { quiet: true });
const target = join(root, "dist", "python");
rmSync(target, { recursive: true, force: true });
mkdirSync(target, { recursive: true });
// setuptools builds where its sources are: a copy keeps the checkout clean.
const sources = mkdtempSync(join(tmpdir(), "hbmesh-wheel-"));
try {
  // What an earlier `pip install ./python` left in there is not of this state.
  const filter = (path) => !/\/(__pycache__|build|[^/]*\.egg-info)$/.test(path);
  cpSync(join(root, "python"), sources, { recursive: true, filter });
  const python = join(root, "build/venv/bin/python");
  const args = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "-w", target];
  const native = process.env.HBMESH_NATIVE_DIR ?? join(root, "build", "Release");
  await runLogged("wheel", python, [...args, sources], { env: { ...process.env, HBMESH_NATIVE_DIR: native } });
  for (const name of readdirSync(target)) {
    process.stdout.write(`${relative(root, join(target, name))}\n`);
  }
} catch (error) {
  process.stderr.write(`${error instanceof SetupError ? error.message : error.stack}\n`);
  process.exitCode = 1;
} finally {
  rmSync(sources, { recursive: true, force: true });
}
