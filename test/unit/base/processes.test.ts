/**
 * Goal: what /proc tells of a process's main thread: one that sleeps uses nothing, one that spins is runnable and uses
 * its core; and a watch of a process that spins has it killed (src/control/sidecar-watch.ts). Method: real processes.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { afterEach, describe, expect, it } from "vitest";
import { createSystemClock } from "../../../src/base/clock.js";
import { createSilentLogger } from "../../../src/base/log.js";
import { loadOf, type ThreadLoad } from "../../../src/base/processes.js";
import { SidecarWatch } from "../../../src/control/sidecar-watch.js";

const HANG_MS = 600;

let child: ChildProcess | undefined;

afterEach(async () => {
  if (child !== undefined && child.exitCode === null && child.signalCode === null) {
    child.kill("SIGKILL");
    await once(child, "exit");
  }
});

/** A process that has said that it is there, and runs this. */
const start = async (code: string): Promise<number> => {
  const started = spawn(process.execPath, ["-e", `console.log("here"); ${code}`], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  child = started;
  await once(started.stdout as NodeJS.ReadableStream, "data");
  return started.pid as number;
};

const until = async (pid: number, wanted: (load: ThreadLoad) => boolean): Promise<ThreadLoad> => {
  for (;;) {
    const load = loadOf(pid) as ThreadLoad;
    if (wanted(load)) {
      return load;
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
};

describe("the load of a process's main thread", () => {
  it("of one that sleeps, and of none", async () => {
    const pid = await start("setTimeout(() => {}, 1e9)");
    const { cpuMs } = await until(pid, ({ state }) => state === "S");
    expect(cpuMs).toBeGreaterThanOrEqual(0);
    child?.kill("SIGKILL");
    await once(child as ChildProcess, "exit");
    expect(loadOf(pid)).toBeUndefined();
  });

  it("of one that spins: runnable, and more of a core each time", async () => {
    const pid = await start("for (;;);");
    const first = await until(pid, ({ cpuMs }) => cpuMs > 0);
    const later = await until(pid, ({ cpuMs }) => cpuMs >= first.cpuMs + 50);
    expect([first.state, later.state]).toEqual(["R", "R"]);
  });
});

describe("a watch of a process that spins", () => {
  it("has it killed, however often it waits for its core", async () => {
    const pid = await start("for (;;);");
    const startCpuMs = loadOf(pid)?.cpuMs ?? 0;
    let endCpuMs = 0;
    const told: string[] = [];
    const watch = new SidecarWatch({
      clock: createSystemClock(),
      log: createSilentLogger(),
      hangMs: HANG_MS,
      ask: () => new Promise(() => {}),
      loadOf: () => loadOf(pid),
      onHung: () => void told.push("hung"),
      onBack: () => void told.push("back"),
      onKill: () => {
        told.push("kill");
        endCpuMs = loadOf(pid)?.cpuMs ?? 0;
        child?.kill("SIGKILL");
      },
    });
    const [, signal] = await once(child as ChildProcess, "exit");
    watch.end();
    expect([signal, told]).toEqual(["SIGKILL", ["hung", "kill"]]);
    expect(endCpuMs - startCpuMs).toBeGreaterThanOrEqual(HANG_MS);
  });
});
