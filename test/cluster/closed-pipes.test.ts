/**
 * Goal: a command whose output nobody reads ends quietly, whatever command it is, and never with a stack trace; one
 * whose progress nobody reads goes on. Method: every command of the real tree with the reading end of its standard
 * output or error closed before it writes, those that need a worker against a real one; and a full disk.
 */
import { spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { buildProgram } from "../../src/cli/main.js";
import { commandsOf } from "../../src/cli/options.js";
import { mainPath, until } from "./commands.js";
import { freePort } from "./etcd.js";
import { type Fixture, startFixture } from "./fixture.js";
import { leftoversNow } from "./leftovers.js";

interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  /** What came out of the end that is still read. */
  said: string;
}

/** Runs it with `closed` closed at the reader's end. It takes longer to start than that takes. */
function runClosed(closed: "stdout" | "stderr", ...args: string[]): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [mainPath, ...args], { stdio: ["ignore", "pipe", "pipe"] });
    child[closed].destroy();
    let said = "";
    const open = closed === "stdout" ? child.stderr : child.stdout;
    open.setEncoding("utf8").on("data", (text: string) => {
      said += text;
    });
    child.once("error", reject);
    child.once("close", (code, signal) => resolve({ code, signal, said }));
  });
}

/** As "bench meta": every command. */
const lines = commandsOf(buildProgram(() => {})).map((command) => {
  const parent = command.parent?.name() ?? "hbmesh";
  return parent === "hbmesh" ? command.name() : `${parent} ${command.name()}`;
});

describe("standard output that nobody reads", { timeout: 120_000 }, () => {
  let fixture: Fixture;

  beforeAll(async () => {
    fixture = await startFixture({ workers: 1 });
  });

  afterAll(() => fixture.close());

  it("the table has every command", () => {
    expect(lines.length).toBeGreaterThanOrEqual(16);
  });

  it.each(["", ...lines])("hbmesh %s --help ends quietly", async (line) => {
    const ended = await runClosed("stdout", ...line.split(" ").filter((word) => word !== ""), "--help");
    expect(ended).toEqual({ code: 141, signal: null, said: "" });
  });

  it.each([
    "members",
    "members --json",
    "health",
    "exist k",
    "meta k",
    "delete k",
    "explain k",
    "status",
    "status --json",
  ])("hbmesh %s about a worker ends quietly", async (line) => {
    const address = fixture.addresses[0] ?? "";
    const ended = await runClosed("stdout", ...line.split(" "), "--worker", address);
    expect(ended).toEqual({ code: 141, signal: null, said: "" });
  });

  it("hbmesh dev ends its workers first", async () => {
    const port = String(await freePort());
    const ended = await runClosed("stdout", "dev", "--port", port, "--workers", "1", "--shared_memory_size_mb", "16");
    expect(ended).toEqual({ code: 141, signal: null, said: "" });
    const address = `127.0.0.1:${port}`;
    await until("its processes have ended", () => leftoversNow([address]).processes.length === 0);
  });

  it("a disk that is full is said, with exit code 1", async () => {
    const full = openSync("/dev/full", "w");
    const child = spawn(process.execPath, [mainPath, "status", "--json"], { stdio: ["ignore", full, "pipe"] });
    let said = "";
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      said += text;
    });
    const code = await new Promise((resolve) => child.once("close", resolve));
    closeSync(full);
    expect(said).toMatch(/^hbmesh: the output can't be written: ENOSPC/);
    expect(code).toBe(1);
  });
});

describe("standard error that nobody reads", { timeout: 120_000 }, () => {
  it.each([
    [1, ["exist", "k", "--worker", "127.0.0.1:1"]],
    [1, ["stop", "--worker_address", "127.0.0.1:1"]],
    [2, ["members", "--nothing"]],
    [2, ["worker"]],
  ])("exit code %s of hbmesh %j is what it would be", async (code, words) => {
    expect(await runClosed("stderr", ...words)).toEqual({ code, signal: null, said: "" });
  });

  it("a worker lives on without anybody who reads its log", async () => {
    const address = `127.0.0.1:${await freePort()}`;
    const flags = ["--worker_address", address, "--shared_memory_size_mb", "16", "--orphan_grace_ms", "0"];
    const ended = runClosed("stderr", "worker", ...flags);
    const health = (): Promise<boolean> =>
      fetch(`http://${address}/hbmesh.v1.ClusterService/Health`, {
        method: "POST",
        body: "{}",
        headers: { "content-type": "application/json" },
      }).then(
        async (reply) => ((await reply.json()) as { ready?: boolean }).ready === true,
        () => false,
      );
    await until("it is ready", health);
    const [line = ""] = leftoversNow([address]).processes.filter((each) => each.includes(" worker "));
    process.kill(Number(line.split(" ")[0]), "SIGTERM");
    expect(await ended).toEqual({ code: 0, signal: null, said: "" });
    expect(leftoversNow([address]).processes).toEqual([]);
  });
});
