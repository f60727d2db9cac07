/**
 * Goal: what npm and its like launched is told from what a person, a script or a service started. Method: real
 * processes in the same order, with a script that has the launcher's name; the innermost one is asked about.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { findLauncher } from "../../../src/cli/launcher.js";

describe("the launcher of a process", () => {
  let folder: string;
  let launcher: ChildProcess | undefined;

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "hbmesh-launcher-"));
  });

  afterEach(async () => {
    if (launcher !== undefined) {
      const ended = new Promise((resolve) => launcher?.once("close", resolve));
      // Its group: the shell and what that runs.
      process.kill(-(launcher.pid ?? 0), "SIGKILL");
      await ended;
    }
    rmSync(folder, { recursive: true });
  });

  /** Runs a script of this name that runs `command`, which prints the process id to ask about. */
  const launch = (name: string, program: string, ...args: string[]): Promise<number> => {
    const script = join(folder, name);
    const spawned = JSON.stringify([program, args]).slice(1, -1);
    writeFileSync(script, `require("node:child_process").spawn(${spawned}, { stdio: "inherit" });\n`);
    launcher = spawn(process.execPath, [script], { detached: true, stdio: ["ignore", "pipe", "inherit"] });
    return new Promise((resolve) => launcher?.stdout?.once("data", (text) => resolve(Number(String(text)))));
  };
  const print = "console.log(process.pid); setInterval(() => {}, 1e6)";
  /** The shell stays, since it has something to do afterwards. */
  const inShell = ["sh", "-c", `"${process.execPath}" -e "${print}"; true`] as const;

  it.each(["npm-cli.js", "npx-cli.js", "pnpm.cjs", "yarn.js"])("%s, with a shell between", async (name) => {
    const pid = await launch(name, ...inShell);
    const chain = findLauncher(pid);
    expect(chain.map(({ args }) => args[0])).toEqual(["sh", process.execPath]);
    expect(chain.at(-1)?.pid).toBe(launcher?.pid);
  });

  it("npm-cli.js itself", async () => {
    const pid = await launch("npm-cli.js", process.execPath, "-e", print);
    expect(findLauncher(pid).map(({ pid: found }) => found)).toEqual([launcher?.pid]);
  });

  it.each(["server.js", "my-npm-cli.js"])("another script, %s, is none", async (name) => {
    expect(findLauncher(await launch(name, ...inShell))).toEqual([]);
  });

  it("a shell that a person types into is none, whatever started it", async () => {
    writeFileSync(join(folder, "typed"), `"${process.execPath}" -e "${print}"\ntrue\n`);
    const pid = await launch("npm-cli.js", "sh", join(folder, "typed"));
    expect(readFileSync(`/proc/${pid}/cmdline`, "utf8")).toContain("setInterval");
    expect(findLauncher(pid)).toEqual([]);
  });
});
