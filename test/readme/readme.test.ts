/**
 * Goal: what README.md tells a newcomer to run works as it is written there.
 * Method: take the fenced blocks out of README.md and run them: the shell lines by sh, the TypeScript example against
 * the two workers that its `npx hbmesh dev` starts, with the usual port replaced by a free one, since another run of
 * these tests or a worker of this machine may have the usual one. `npm test` is left out, since it is what runs this.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { randomInt } from "node:crypto";
import { accessSync, constants, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { isAlive, run, until } from "../cluster/commands.js";
import { expectNothingNew, type Leftovers, leftoversNow } from "../cluster/leftovers.js";
import { read, root } from "../contract/sources.js";

const readme = read("README.md");

function blocks(language: string): string[] {
  return [...readme.matchAll(new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\``, "gm"))].map(
    (match) => match[1] ?? "",
  );
}

/** Commands of all shell blocks, without their comments. */
const commands = blocks("sh").flatMap((block) =>
  block
    .split("\n")
    .map((line) => line.replace(/\s+# .*$/, "").trim())
    .filter((line) => line !== ""),
);
const starts = commands.filter((command) => /^npm .*start\b/.test(command));
const curls = commands.filter((command) => command.startsWith("curl"));

/** One that is free now, as is the next, below those that the system hands out. */
async function freePort(): Promise<number> {
  for (;;) {
    const port = 20_000 + randomInt(10_000);
    if ((await isFree(port)) && (await isFree(port + 1))) {
      return port;
    }
  }
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}

let before: Leftovers;

beforeAll(() => {
  before = leftoversNow();
});

afterAll(() => {
  expectNothingNew(before);
});

describe("README.md", () => {
  it("has no shell command that this test does not know", () => {
    const known = [...starts, ...curls, "npm test", "npx hbmesh dev"];
    expect(commands.filter((command) => !known.includes(command))).toEqual([]);
    expect(starts.length).toBeGreaterThanOrEqual(3);
    expect(curls.length).toBeGreaterThanOrEqual(1);
  });

  it("the command that `npx` runs is executable, also when npm linked this clone before it was built anew", () => {
    const { bin } = JSON.parse(read("package.json")) as { bin: Record<string, string> };
    expect(Object.keys(bin)).toEqual(["hbmesh"]);
    for (const path of Object.values(bin)) {
      expect(() => accessSync(join(root, path), constants.X_OK), path).not.toThrow();
    }
  });

  it.each(starts)(
    "%s",
    async (command) => {
      const result = await run("sh", ["-c", command], { cwd: root });
      expect(result.code, result.stderr).toBe(0);
      if (command.includes("--json")) {
        expect(JSON.parse(result.stdout)).toMatchObject({ ok: true });
      } else {
        expect(result.stdout).toContain("[OK] Set value\n[OK] Get value\n");
      }
    },
    300_000,
  );
});

describe("README.md, from code", () => {
  const script = join(root, ".setup", "readme-example.mjs");
  let dev: ChildProcess;
  let output = "";
  let ended: Promise<number | null>;
  let port = 0;
  // The second worker of `hbmesh dev` has the next port.
  const withPort = (text: string): string =>
    text.replaceAll("31501", String(port)).replaceAll("31502", String(port + 1));

  beforeAll(async () => {
    port = await freePort();
    // A group of its own, so that Ctrl-C can be sent as a terminal does: to all of it.
    dev = spawn("sh", ["-c", `exec npx hbmesh dev --port ${port}`], {
      cwd: root,
      detached: true,
      stdio: ["ignore", "pipe", "pipe"],
    });
    dev.stdout?.setEncoding("utf8").on("data", (text: string) => {
      output += text;
    });
    dev.stderr?.setEncoding("utf8").on("data", (text: string) => {
      output += text;
    });
    ended = new Promise((resolve) => {
      dev.once("close", resolve);
    });
    let running = true;
    dev.once("close", () => {
      running = false;
    });
    await until("hbmesh dev is up or has ended", () => output.includes("Ctrl-C ends them all.") || !running, 60_000);
    expect(running, `hbmesh dev ended; it said:\n${output}`).toBe(true);
  });

  afterAll(async () => {
    rmSync(script, { force: true });
    if (dev.pid !== undefined && isAlive(dev.pid)) {
      process.kill(-dev.pid, "SIGINT");
    }
    await ended;
  });

  it("the example reads into device 2 what it set from device 0", async () => {
    const [example, ...others] = blocks("ts");
    expect(others).toEqual([]);
    mkdirSync(join(root, ".setup"), { recursive: true });
    // Inside the repository, where Node finds the package under its own name. The example has no types to strip.
    writeFileSync(script, withPort(example ?? ""));
    const result = await run(process.execPath, [script], { cwd: root });
    expect(result.stderr).toBe("");
    expect(result.code).toBe(0);
    expect(result.stdout).toMatch(new RegExp(`^\\[\\] tcp 127\\.0\\.0\\.1:${port} .* 7\\n$`));
  });

  it.each(curls)("%s", async (command) => {
    const result = await run("sh", ["-c", withPort(command)], { cwd: root });
    expect(result.code).toBe(0);
    expect(JSON.parse(result.stdout)).toHaveProperty("entries");
  });
});
