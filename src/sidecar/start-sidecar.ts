/** A sidecar process together with the queue to it: what a control process starts, and starts again after a crash. */
import { closeSync } from "node:fs";
import { loadOf, type ThreadLoad } from "../base/processes.js";
import { connectSidecar, type NativeSidecarPort } from "./native-port.js";
import type { SidecarPort } from "./port.js";
import { type SidecarProcess, type SidecarProcessOptions, startSidecarProcess } from "./sidecar-process.js";

export interface StartedSidecar {
  readonly port: SidecarPort;
  readonly process: SidecarProcess;
  /** The store's memory, for the next sidecar; open until stop(). */
  readonly storeFd: number;
  /** Of the thread that runs its loop; undefined: not known. */
  load(): ThreadLoad | undefined;
  /** SIGKILL, now: for one that does not answer. */
  kill(): void;
  /** As stop(), but the store's memory stays open for a successor. */
  end(): Promise<void>;
  /**
   * Closes the port, ends the process and waits for its end, then closes the store's descriptor. May be called again.
   */
  stop(): Promise<void>;
}

/**
 * Resolves when the sidecar has answered. With `adoptFd` it takes over the objects in that memory; the descriptor stays
 * the caller's. Rejects as startSidecarProcess and connectSidecar do; then no process is left.
 */
export async function startSidecar(options: SidecarProcessOptions, adoptFd?: number): Promise<StartedSidecar> {
  const process = await startSidecarProcess({ ...options, adoptFd });
  let port: NativeSidecarPort;
  try {
    port = await connectSidecar(options.workerAddress, {
      connectTimeoutMs: options.startTimeoutMs,
      clock: options.clock,
    });
  } catch (error) {
    await process.stop();
    throw error;
  }
  const storeFd = port.storeFd;
  let stopped: Promise<void> | undefined;
  const end = async (): Promise<void> => {
    port.close();
    await process.stop();
  };
  const stop = async (): Promise<void> => {
    await end();
    closeSync(storeFd);
  };
  return {
    port,
    process,
    storeFd,
    load: () => loadOf(process.pid),
    kill: () => process.kill(),
    end,
    stop: () => {
      stopped ??= stop();
      return stopped;
    },
  };
}
