/**
 * What process 1 of a container owes it: to wait for the end of processes that lost their parent, such as the keeper of
 * a sidecar that was killed, or what `docker exec` left behind. The kernel makes them children of process 1, and keeps
 * each that has ended as a defunct one until it is waited for.
 *
 * Node waits for those that it has started, and must not find them gone. It does so at the first turn of its loop after
 * their end. So a child that has been defunct for a whole look, with turns of the loop in between, is none of Node's.
 */
import { zombieChildren } from "../base/processes.js";
import { loadAddon } from "../sidecar/index.js";

export interface ReaperDependencies {
  /** Children of this process that have ended and were not waited for. */
  zombies: () => readonly { pid: number; startTicks: bigint }[];
  reap: (pid: number) => void;
  /** Calls back after that time and a turn of the loop. */
  later: (delayMs: number, look: () => void) => void;
}

const LOOK_MS = 1_000;

const SYSTEM: ReaperDependencies = {
  zombies: zombieChildren,
  reap: (pid) => void loadAddon().reapChild(pid),
  // The timer may come before signals that are there already; what it sets for the turn's end comes after them.
  later: (delayMs, look) => void setTimeout(() => setImmediate(look), delayMs).unref(),
};

export class Reaper {
  readonly #dependencies: ReaperDependencies;
  #seen = new Set<string>();
  #isLooking = false;

  constructor(dependencies: ReaperDependencies = SYSTEM) {
    this.#dependencies = dependencies;
  }

  /** A child has ended, or may have. */
  wake(): void {
    if (!this.#isLooking) {
      this.#isLooking = true;
      this.#dependencies.later(LOOK_MS, () => this.#look());
    }
  }

  #look(): void {
    this.#isLooking = false;
    const seen = new Set<string>();
    for (const { pid, startTicks } of this.#dependencies.zombies()) {
      const name = `${pid} ${startTicks}`;
      if (this.#seen.has(name)) {
        this.#dependencies.reap(pid);
      } else {
        seen.add(name);
      }
    }
    this.#seen = seen;
    if (seen.size > 0) {
      this.wake();
    }
  }
}

/** For process 1: from now on until it ends. */
export function reapOrphans(): void {
  const reaper = new Reaper();
  process.on("SIGCHLD", () => reaper.wake());
  reaper.wake();
}
