/**
 * WaitList: requests that wait until something happens to one of their keys, or to all waiters, for a bounded time.
 * Bounded in number as well.
 */
import type { CancelSignal } from "../base/cancel.js";
import type { Clock } from "../base/clock.js";
import { abortError } from "../base/deadline.js";
import { HbmeshError, StatusCode } from "../base/errors.js";

/** Requests that may wait at once; more are refused with TRY_AGAIN. */
const WAITING_MAX = 65_536;

interface Waiter {
  keys: readonly string[];
  wake(): void;
  fail(reason: HbmeshError): void;
}

export class WaitList {
  readonly #clock: Clock;
  readonly #waiters = new Set<Waiter>();
  readonly #byKey = new Map<string, Set<Waiter>>();
  #closed: HbmeshError | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get isEmpty(): boolean {
    return this.#waiters.size === 0;
  }

  /**
   * Resolves when it is woken or the time is over; the caller looks again in either case. Rejects when the signal
   * aborts.
   */
  wait(keys: readonly string[], timeoutMs: number, signal: CancelSignal): Promise<void> {
    if (this.#closed !== undefined) {
      return Promise.reject(this.#closed);
    }
    if (signal.aborted) {
      return Promise.reject(abortError(signal, "a waiting request"));
    }
    if (this.#waiters.size >= WAITING_MAX) {
      return Promise.reject(
        new HbmeshError(StatusCode.TRY_AGAIN, `${WAITING_MAX} requests wait at this owner already; try again later`),
      );
    }
    return new Promise((resolve, reject) => {
      const settle = (): void => {
        timer.cancel();
        signal.removeEventListener("abort", onAbort);
        this.#forget(waiter);
      };
      const onAbort = (): void => waiter.fail(abortError(signal, "a waiting request"));
      const waiter: Waiter = {
        keys,
        wake: () => {
          settle();
          resolve();
        },
        fail: (reason) => {
          settle();
          reject(reason);
        },
      };
      const timer = this.#clock.setTimer(timeoutMs, () => waiter.wake());
      signal.addEventListener("abort", onAbort, { once: true });
      this.#waiters.add(waiter);
      for (const key of keys) {
        const waiting = this.#byKey.get(key) ?? new Set();
        this.#byKey.set(key, waiting);
        waiting.add(waiter);
      }
    });
  }

  /** Wakes those who wait for one of these keys. */
  wake(keys: readonly string[]): void {
    for (const key of keys) {
      for (const waiter of [...(this.#byKey.get(key) ?? [])]) {
        waiter.wake();
      }
    }
  }

  /** How many wait for this key. */
  countOf(key: string): number {
    return this.#byKey.get(key)?.size ?? 0;
  }

  wakeAll(): void {
    for (const waiter of [...this.#waiters]) {
      waiter.wake();
    }
  }

  close(reason: HbmeshError): void {
    this.#closed = reason;
    for (const waiter of [...this.#waiters]) {
      waiter.fail(reason);
    }
  }

  #forget(waiter: Waiter): void {
    this.#waiters.delete(waiter);
    for (const key of waiter.keys) {
      const waiting = this.#byKey.get(key);
      waiting?.delete(waiter);
      if (waiting?.size === 0) {
        this.#byKey.delete(key);
      }
    }
  }
}
