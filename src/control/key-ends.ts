/**
 * KeyEnds: how the last keys of an owner were lost, for who asks why a key isn't there. A memory of bounded size, that
 * nothing depends on.
 */
import type { Clock } from "../base/clock.js";

export interface KeyEnd {
  /** `removed` by a delete or by its receiver; `forgotten` because its last holder no longer had it. */
  how: "removed" | "forgotten";
  generation: bigint;
  atMs: number;
  /** Member that asked for it. */
  by: number;
}

const ENDS_MAX = 4_096;

export class KeyEnds {
  readonly #clock: Clock;
  readonly #ends = new Map<string, KeyEnd>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Of a large batch the last ENDS_MAX are kept. */
  note(ended: readonly { key: string; generation: bigint }[], how: KeyEnd["how"], by: number): void {
    const atMs = this.#clock.monotonicMs();
    for (const { key, generation } of ended.slice(-ENDS_MAX)) {
      this.#ends.delete(key);
      this.#ends.set(key, { how, generation, atMs, by });
    }
    for (const key of this.#ends.keys()) {
      if (this.#ends.size <= ENDS_MAX) {
        break;
      }
      this.#ends.delete(key);
    }
  }

  of(key: string): KeyEnd | undefined {
    return this.#ends.get(key);
  }
}
