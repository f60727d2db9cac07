/**
 * RateLimit: spreads bytes over time. What was let through before a piece is at most rate x time since the limit was
 * made, so that a piece more is the most that it is ever ahead.
 */
import type { Clock } from "./clock.js";
import { pause } from "./deadline.js";

export class RateLimit {
  readonly #clock: Clock;
  #bytesPerSecond: number;
  /** When the next piece may go. */
  #freeMs: number;

  /** 0: no limit. */
  constructor(clock: Clock, bytesPerSecond: number) {
    this.#clock = clock;
    this.#bytesPerSecond = bytesPerSecond;
    this.#freeMs = clock.monotonicMs();
  }

  /** For what comes from now on. */
  set bytesPerSecond(value: number) {
    this.#bytesPerSecond = value;
  }

  /**
   * Resolves when this piece may go; pieces go in the order in which they were asked for. Early when the signal aborts.
   */
  async take(bytes: number, signal: AbortSignal): Promise<void> {
    const nowMs = this.#clock.monotonicMs();
    const startMs = Math.max(this.#freeMs, nowMs);
    const takesMs = this.#bytesPerSecond === 0 ? 0 : (bytes / this.#bytesPerSecond) * 1_000;
    this.#freeMs = startMs + takesMs;
    if (startMs > nowMs) {
      await pause(this.#clock, startMs - nowMs, signal);
    }
  }
}
