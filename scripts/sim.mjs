#!/usr/bin/env node
/**
 * `npm run sim`: sets up, then simulates a cluster; arguments go to src/sim/main.ts. In a process of its own, whose
 * heap has room for what thousands of workers throw away.
 */
import { spawn } from "node:child_process";
import { join } from "node:path";
import { root } from "./setup/run.mjs";
import { setUpOrExit } from "./setup.mjs";

await setUpOrExit(["build"], { quiet: true });
const program = join(root, "dist/sim/run.js");
// On a machine with few cores threads that collect garbage cost more than they bring.
const heap = ["--single-threaded-gc", "--max-semi-space-size=128", "--max-old-space-size=7000"];
const child = spawn(process.execPath, [...heap, program, ...process.argv.slice(2)], { stdio: "inherit" });
child.on("exit", (code, signal) => {
  process.exitCode = code ?? (signal === "SIGINT" ? 130 : 1);
});
