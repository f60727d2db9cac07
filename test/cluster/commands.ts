/** Runs `hbmesh` commands as a user's shell would, and waits for conditions without sleeping for a fixed time. */
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";

export const mainPath = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));

export interface CommandResult {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** Runs `hbmesh ...args` to its end. */
export function hbmesh(...args: string[]): Promise<CommandResult> {
  return run(process.execPath, [mainPath, ...args]);
}

export function run(
  program: string,
  args: readonly string[],
  options: { cwd?: string; env?: NodeJS.ProcessEnv } = {},
): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { ...options, stdio: ["ignore", "pipe", "pipe"] });
    let stdout = "";
    let stderr = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
    });
    child.once("error", reject);
    child.once("close", (code) => resolve({ code, stdout, stderr }));
  });
}

/** Asks again until `condition` gives something; a test that waits in vain ends with its own timeout and this name. */
export async function until<Value>(
  what: string,
  condition: () => Value | undefined | false | Promise<Value | undefined | false>,
  timeoutMs = 20_000,
): Promise<Value> {
  const end = performance.now() + timeoutMs;
  for (;;) {
    const value = await condition();
    if (value !== undefined && value !== false) {
      return value;
    }
    if (performance.now() > end) {
      throw new Error(`waited ${timeoutMs} ms in vain until ${what}`);
    }
    await delay(5);
  }
}

/** Is this process there (and not a zombie)? */
export function isAlive(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    return !/^[ZX]/.test(stat.slice(stat.lastIndexOf(")") + 2));
  } catch {
    return false;
  }
}
