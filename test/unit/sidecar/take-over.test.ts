/**
 * Goal: a sidecar that outlived its control process is taken over with what it holds; one with other settings is ended
 * and its memory adopted; where nobody listens, nothing is done. Method: fake connections and processes, virtual time.
 */
import { describe, expect, it } from "vitest";
import { createVirtualClock } from "../../../src/base/clock.js";
import { HbmeshError, StatusCode } from "../../../src/base/errors.js";
import { createSilentLogger } from "../../../src/base/log.js";
import type { NativeSidecarPort } from "../../../src/sidecar/native-port.js";
import { type SidecarProcessOptions, sidecarArguments } from "../../../src/sidecar/sidecar-process.js";
import type { StartedSidecar } from "../../../src/sidecar/start-sidecar.js";
import { type TakeOverDependencies, takeOverSidecar } from "../../../src/sidecar/take-over.js";

const PID = 4_711;
const STORE_FD = 9;

function createOptions(devices = 2): SidecarProcessOptions {
  return {
    workerAddress: "127.0.0.1:31501",
    devices,
    arenaBytes: 2 ** 20,
    transport: "auto",
    lanes: 4,
    spinMicros: 0,
    orphanGraceMs: 60_000,
    keyRule: "strict",
    hugePages: false,
    log: createSilentLogger(),
    clock: createVirtualClock(),
  };
}

/** A sidecar that runs as process PID with these arguments and ends with SIGTERM. */
function createWorld(args: readonly string[], log: string[]): TakeOverDependencies {
  let lives = true;
  const port = {
    storeFd: STORE_FD,
    info: {},
    close: () => void log.push("port closed"),
  } as unknown as NativeSidecarPort;
  return {
    connect: async () => port,
    find: () => ({ pid: PID, args }),
    start: async (_, adoptFd) => {
      log.push(`started, adopting ${adoptFd}, while the old one ${lives ? "lives" : "is gone"}`);
      return { storeFd: 10 } as StartedSidecar;
    },
    signal: (pid, signal) => {
      expect(pid).toBe(PID);
      const lived = lives;
      if (signal !== 0) {
        log.push(signal);
        lives = false;
      }
      return lived;
    },
    closeFd: (fd) => void log.push(`closed ${fd}`),
  };
}

describe("taking over a sidecar", () => {
  it("with the same settings: it goes on, and stop() ends it and closes its memory", async () => {
    const log: string[] = [];
    const options = createOptions();
    const args = [...sidecarArguments(options, false), "--adopt_fd=4"];
    const taken = await takeOverSidecar(options, createWorld(args, log));
    expect(taken).toMatchObject({ storeFd: STORE_FD, process: { pid: PID } });
    expect(log).toEqual([]);
    await taken?.stop();
    await taken?.stop();
    expect(log).toEqual(["port closed", "SIGTERM", `closed ${STORE_FD}`]);
  });

  it("with other settings: it is ended, and its successor adopts its memory", async () => {
    const log: string[] = [];
    const args = sidecarArguments(createOptions(2), false);
    const taken = await takeOverSidecar(createOptions(4), createWorld(args, log));
    expect(taken?.storeFd).toBe(10);
    expect(log).toContain(`started, adopting ${STORE_FD}, while the old one is gone`);
    expect(log.at(-1)).toBe(`closed ${STORE_FD}`);
  });

  it("where nobody listens: undefined; one that doesn't answer: its error", async () => {
    const world = createWorld([], []);
    const failing = (code: StatusCode): TakeOverDependencies => ({
      ...world,
      connect: () => Promise.reject(new HbmeshError(code, "no")),
    });
    await expect(takeOverSidecar(createOptions(), failing(StatusCode.NO_AVAILABLE_WORKER))).resolves.toBeUndefined();
    await expect(takeOverSidecar(createOptions(), failing(StatusCode.RPC_DEADLINE_EXCEEDED))).rejects.toMatchObject({
      code: StatusCode.RPC_DEADLINE_EXCEEDED,
    });
  });
});
