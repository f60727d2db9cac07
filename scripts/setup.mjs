#!/usr/bin/env node
/**
 * Sets up a clone: tools, npm packages, generated code, Wasm, TypeScript, native code. Plain Node without packages,
 * since it runs before there are any. Done once, it costs well under 2 seconds: each step looks first whether its
 * inputs changed.
 *
 *   node scripts/setup.mjs [--for build,test,lint] [--quiet]
 *
 * Progress goes to stderr, so that what is started after it owns stdout. Exits 1 with a cause and a remedy.
 */
import { closeSync, mkdirSync, openSync, readFileSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { SetupError, stateFolder } from "./setup/run.mjs";
import { setupSteps } from "./setup/steps.mjs";

const lockPath = join(stateFolder, "lock");

/** `purposes` is "build" and, as wanted, "test" and "lint". Resolves when everything is up to date. */
export async function setUp(purposes, { quiet = false } = {}) {
  const started = performance.now();
  const release = await takeLock();
  try {
    const steps = setupSteps(purposes);
    let ran = 0;
    for (const [index, step] of steps.entries()) {
      if (!step.needed()) {
        continue;
      }
      const label = `[${index + 1}/${steps.length}] ${step.title}`;
      const stepStarted = performance.now();
      // The look at the tools takes no time and is only worth a line when it installs something.
      const isQuick = step.name === "tools";
      if (!isQuick) {
        process.stderr.write(`${label} ...\n`);
        ran += 1;
      }
      await step.run((text) => process.stderr.write(`${label}: ${text}\n`));
      if (!isQuick) {
        process.stderr.write(`${label}: ${seconds(stepStarted)}\n`);
      }
    }
    if (!quiet || ran > 0) {
      process.stderr.write(`set-up: ${ran === 0 ? "nothing to do" : "done"}, ${seconds(started)}\n`);
    }
  } finally {
    release();
  }
}

function seconds(since) {
  return `${((performance.now() - since) / 1000).toFixed(1)} s`;
}

/**
 * One set-up at a time in one clone: a second one waits for the first. A lock of a process that is gone is taken over.
 */
async function takeLock() {
  mkdirSync(stateFolder, { recursive: true });
  let told = false;
  for (;;) {
    try {
      const lock = openSync(lockPath, "wx");
      writeSync(lock, String(process.pid));
      closeSync(lock);
      return () => rmSync(lockPath, { force: true });
    } catch (error) {
      if (error.code !== "EEXIST") {
        throw error;
      }
    }
    const holder = lockHolder();
    if (holder === undefined) {
      rmSync(lockPath, { force: true });
      continue;
    }
    if (!told) {
      process.stderr.write(`set-up: waiting for the set-up that process ${holder} is doing\n`);
      told = true;
    }
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

/** The process that holds the lock, or undefined when it is gone. */
function lockHolder() {
  try {
    const pid = Number(readFileSync(lockPath, "utf8"));
    process.kill(pid, 0);
    return pid;
  } catch (error) {
    return error.code === "EPERM" ? "of another user" : undefined;
  }
}

/** Runs setUp for a command: prints an expected failure without a stack and ends the process with 1. */
export async function setUpOrExit(purposes, options) {
  try {
    await setUp(purposes, options);
  } catch (error) {
    const text = error instanceof SetupError ? error.message : error.stack;
    process.stderr.write(`set-up failed: ${text}\n`);
    process.exit(1);
  }
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const index = process.argv.indexOf("--for");
  const purposes = index < 0 ? ["build"] : process.argv[index + 1].split(",");
  await setUpOrExit(purposes, { quiet: process.argv.includes("--quiet") });
}
