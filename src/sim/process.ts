/**
 * A simulated operating system process: whatever reaches it (timers, messages) passes through `enter`, so that a paused
 * one sees nothing until it goes on, and a dead one nothing any more.
 */
import type { Clock } from "../base/clock.js";

export class SimProcess {
  readonly #waiting: (() => void)[] = [];
  readonly #onDeath = new Set<() => void>();
  #state: "running" | "paused" | "dead" = "running";
  /** Time as this process has it: it goes on while the process is paused, but its timers then fire late. */
  readonly clock: Clock;

  constructor(
    clock: Clock,
    /** Number of the host that it runs on. */
    readonly host: number,
  ) {
    this.clock = {
      nowMs: () => clock.nowMs(),
      monotonicMs: () => clock.monotonicMs(),
      setTimer: (delayMs, fire) => {
        let cancelled = false;
        const timer = clock.setTimer(delayMs, () => this.enter(() => (cancelled ? undefined : fire())));
        return {
          cancel: () => {
            cancelled = true;
            timer.cancel();
          },
        };
      },
    };
  }

  get isRunning(): boolean {
    return this.#state === "running";
  }

  get isDead(): boolean {
    return this.#state === "dead";
  }

  /** Runs it now; when the process goes on; or never. */
  enter(work: () => void): void {
    if (this.#state === "running") {
      work();
    } else if (this.#state === "paused") {
      this.#waiting.push(work);
    }
  }

  /** SIGSTOP. */
  pause(): void {
    if (this.#state === "running") {
      this.#state = "paused";
    }
  }

  /** SIGCONT: everything that came meanwhile, in order. */
  resume(): void {
    if (this.#state === "paused") {
      this.#state = "running";
      for (const work of this.#waiting.splice(0)) {
        work();
      }
    }
  }

  /** SIGKILL. */
  kill(): void {
    if (this.#state !== "dead") {
      this.#state = "dead";
      this.#waiting.length = 0;
      for (const tell of this.#onDeath) {
        tell();
      }
      this.#onDeath.clear();
    }
  }

  /** For what the operating system does when a process dies: its sockets close. Returns how to take it back. */
  onDeath(tell: () => void): () => void {
    this.#onDeath.add(tell);
    return () => void this.#onDeath.delete(tell);
  }
}
