/**
 * The clock of a simulation: virtual time that moves from one timer to the next. As createVirtualClock of src/base, for
 * millions of timers: they are kept in a heap, and all that are due at one instant fire together, in the order in which
 * they were set.
 */
import type { Clock, Timer } from "../base/clock.js";

interface SimTimer {
  dueMs: number;
  sequence: number;
  fire: (() => void) | undefined;
}

/**
 * Turns of the event loop that let everything run that waits for no timer: the control plane waits for one at most
 * (setImmediate in announcer.ts).
 */
const TURNS = 2;
/** Cancelled timers are taken out of the heap when there are so many, and they are most of it. */
const COMPACT_MIN = 10_000;

export class SimClock implements Clock {
  readonly #startMs: number;
  #heap: SimTimer[] = [];
  #cancelled = 0;
  #sequence = 0;
  #elapsedMs = 0;
  /** Instants at which something happened. */
  instants = 0;

  constructor(startMs = 1_700_000_000_000) {
    this.#startMs = startMs;
  }

  nowMs(): number {
    return this.#startMs + this.#elapsedMs;
  }

  monotonicMs(): number {
    return this.#elapsedMs;
  }

  setTimer(delayMs: number, fire: () => void): Timer {
    const timer: SimTimer = { dueMs: this.#elapsedMs + Math.max(delayMs, 0), sequence: this.#sequence++, fire };
    this.#push(timer);
    return {
      cancel: () => {
        if (timer.fire !== undefined) {
          timer.fire = undefined;
          this.#cancelled++;
          this.#compact();
        }
      },
    };
  }

  /** Resolves after `durationMs` of virtual time. */
  async advance(durationMs: number): Promise<void> {
    await this.#run(this.#elapsedMs + durationMs, () => false);
  }

  /** Lets time pass until `isDone`; false: it was not within `limitMs`. */
  async until(isDone: () => boolean, limitMs: number): Promise<boolean> {
    await this.#run(this.#elapsedMs + limitMs, isDone);
    return isDone();
  }

  /** Lets time pass until the promise is settled, and gives what it gives. */
  async drive<T>(work: Promise<T>, limitMs: number): Promise<T> {
    let settled = false;
    const mark = (): void => {
      settled = true;
    };
    work.then(mark, mark);
    if (!(await this.until(() => settled, limitMs))) {
      throw new Error(`nothing came of it within ${limitMs} ms of virtual time`);
    }
    return work;
  }

  async #run(limitMs: number, isDone: () => boolean): Promise<void> {
    await turn();
    while (!isDone()) {
      const first = this.#peek();
      if (first === undefined || first.dueMs > limitMs) {
        this.#elapsedMs = limitMs;
        return;
      }
      this.#elapsedMs = Math.max(this.#elapsedMs, first.dueMs);
      for (let due = this.#peek(); due !== undefined && due.dueMs <= this.#elapsedMs; due = this.#peek()) {
        this.#pop();
        const { fire } = due;
        due.fire = undefined;
        fire?.();
      }
      this.instants++;
      await turn();
    }
  }

  /** The first timer that was not cancelled. */
  #peek(): SimTimer | undefined {
    while (this.#heap[0] !== undefined && this.#heap[0].fire === undefined) {
      this.#pop();
      this.#cancelled--;
    }
    return this.#heap[0];
  }

  #push(timer: SimTimer): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(timer);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!isBefore(timer, heap[parent] as SimTimer)) {
        break;
      }
      heap[at] = heap[parent] as SimTimer;
      at = parent;
    }
    heap[at] = timer;
  }

  #pop(): void {
    const last = this.#heap.pop();
    if (last !== undefined && this.#heap.length > 0) {
      this.#sink(last, 0);
    }
  }

  #sink(timer: SimTimer, from: number): void {
    const heap = this.#heap;
    let at = from;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) {
        break;
      }
      if (child + 1 < heap.length && isBefore(heap[child + 1] as SimTimer, heap[child] as SimTimer)) {
        child++;
      }
      if (!isBefore(heap[child] as SimTimer, timer)) {
        break;
      }
      heap[at] = heap[child] as SimTimer;
      at = child;
    }
    heap[at] = timer;
  }

  #compact(): void {
    if (this.#cancelled > COMPACT_MIN && this.#cancelled > this.#heap.length / 2) {
      // Sorted arrays are heaps.
      this.#heap = this.#heap.filter(({ fire }) => fire !== undefined).sort((a, b) => (isBefore(a, b) ? -1 : 1));
      this.#cancelled = 0;
    }
  }
}

function isBefore(a: SimTimer, b: SimTimer): boolean {
  return a.dueMs < b.dueMs || (a.dueMs === b.dueMs && a.sequence < b.sequence);
}

async function turn(): Promise<void> {
  for (let count = 0; count < TURNS; count++) {
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
}
