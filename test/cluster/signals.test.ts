/**
 * Goal: each signal that asks a worker to end ends it as planned, also when a terminal sends it to all processes of its
 * group at once; and what npx started ends with npx, but not with any other parent. Method: real processes in a group
 * of their own, as a shell makes one for each job; the log says in which order they ended.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { startLocalCluster } from "../../src/cli/local-cluster.js";
import { findKeepers } from "../../src/cli/worker-processes.js";
import { root } from "../contract/sources.js";
import { hbmesh, isAlive, mainPath, until } from "./commands.js";
import { freePort } from "./etcd.js";
import { expectNothingNew, type Leftovers, leftoversNow } from "./leftovers.js";

interface Running {
  child: ChildProcess;
  /** What it has written so far. */
  said: () => string;
  /** Its exit code, or its signal. */
  ended: Promise<number | NodeJS.Signals | null>;
}

/** In a process group of its own. */
function runInGroup(program: string, ...args: string[]): Running {
  const child = spawn(program, args, { cwd: root, detached: true, stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding("utf8").on("data", (text: string) => {
      said += text;
    });
  }
  const ended = new Promise<number | NodeJS.Signals | null>((resolve) => {
    child.once("close", (code, signal) => resolve(signal ?? code));
  });
  return { child, said: () => said, ended };
}

/**
 * Runs what follows on a terminal of its own, closes that when it has said "ready at", and prints how it ended. Node
 * has no way to make a terminal.
 */
const ON_TERMINAL = `
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
said = b""
while b"ready at" not in said:
    said += os.read(terminal, 65536)
os.close(terminal)
status = os.waitpid(pid, 0)[1]
print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else "code %d" % os.WEXITSTATUS(status))
`;

const parentOf = (pid: number): number => {
  const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
};

describe("signals", { timeout: 120_000 }, () => {
  let before: Leftovers;
  let address: string;
  let memory: string[];

  beforeEach(async () => {
    before = leftoversNow();
    address = `127.0.0.1:${await freePort()}`;
    memory = ["--shared_memory_size_mb", "16"];
  });

  afterEach(() => expectNothingNew(before, [address]));

  /** Process ids of what belongs to the address and has this in its command line. */
  const pidsOf = (what: string): number[] =>
    leftoversNow([address])
      .processes.filter((line) => line.includes(what))
      .map((line) => Number(line.split(" ")[0]));
  const isReady = async (): Promise<boolean> => (await hbmesh("health", "--worker", address)).code === 0;

  it.each(["SIGINT", "SIGHUP", "SIGQUIT", "SIGTERM"] as const)(
    "%s to all processes of a worker: it leaves its cluster first, then ends its sidecar",
    async (signal) => {
      const worker = runInGroup(process.execPath, mainPath, "worker", "--worker_address", address, ...memory);
      await until("it is ready", isReady);
      const [sidecar = 0] = pidsOf("hbmesh-sidecar");
      expect(isAlive(sidecar)).toBe(true);
      if (signal === "SIGTERM") {
        // No terminal sends it, and who does means one process.
        worker.child.kill(signal);
      } else {
        process.kill(-(worker.child.pid ?? 0), signal);
      }
      expect(await worker.ended).toBe(0);
      expect(worker.said()).toContain(`ending: ${signal}`);
      expect(worker.said()).toContain("left the cluster");
      expect(worker.said()).not.toContain('"level":"error"');
      expect(isAlive(sidecar)).toBe(false);
    },
  );

  it("a terminal that closes: the same, although nothing can be written there any more", async () => {
    const line = [process.execPath, mainPath, "worker", "--worker_address", address, ...memory];
    const terminal = runInGroup("python3", "-c", ON_TERMINAL, ...line);
    expect(await terminal.ended, terminal.said()).toBe(0);
    // SIGHUP itself, after all was done.
    expect(terminal.said()).toBe("1\n");
    // Neither a sidecar that waits for the next control process nor a keeper.
    expect(leftoversNow([address]).processes).toEqual([]);
    expect(findKeepers([address])).toEqual([]);
  });

  it("one to hbmesh dev while its workers start ends them at once", async () => {
    const signal = new AbortController();
    const starting = startLocalCluster({ workers: 1, port: Number(address.split(":")[1]), signal: signal.signal });
    const ended = expect(starting).rejects.toThrow("interrupted");
    await until("one starts", async () => pidsOf("worker").length > 0);
    signal.abort(new Error("interrupted"));
    await ended;
    expect(leftoversNow([address]).processes).toEqual([]);
  });

  it.each(["SIGHUP", "SIGQUIT"] as const)("%s to hbmesh dev and its workers ends them all", async (signal) => {
    const port = address.split(":")[1] ?? "";
    const dev = runInGroup(process.execPath, mainPath, "dev", "--workers", "1", "--port", port, ...memory);
    await until("it is ready", () => dev.said().includes("Ctrl-C ends them all."));
    process.kill(-(dev.child.pid ?? 0), signal);
    expect(await dev.ended).toBe(0);
  });

  it("npx that is ended alone takes its workers along, with every option that a worker has", async () => {
    const port = address.split(":")[1] ?? "";
    const flags = ["--workers", "1", "--port", port, "--key_rule", "extended", ...memory];
    const npx = runInGroup("npx", "hbmesh", "dev", ...flags);
    await until("it is ready", () => npx.said().includes("Ctrl-C ends them all."), 60_000);
    expect((await hbmesh("exist", "with.dots", "--worker", address)).stdout).toMatch(/with\.dots +MISS/);
    npx.child.kill("SIGTERM");
    await npx.ended;
    await until("all have ended", () => leftoversNow([address]).processes.length === 0);
    expect(npx.said()).toContain("ending, since the npm or npx that started it is gone");
  });

  it("a shell that ends leaves what it started", async () => {
    const line = `"${process.execPath}" "${mainPath}" worker --worker_address ${address} ${memory.join(" ")} & echo`;
    const shell = runInGroup("sh", "-c", line);
    const exited = new Promise((resolve) => shell.child.once("exit", resolve));
    await exited;
    await until("it is ready", isReady);
    const [worker = 0] = pidsOf(" worker ");
    expect(parentOf(worker)).not.toBe(shell.child.pid);
    process.kill(worker, "SIGTERM");
    expect(await shell.ended).toBe(0);
  });
});
