/**
 * Time as an argument: everything that waits or measures takes a Clock, so that tests and simulations run in virtual
 * time.
 */

/** A timer that was set. `cancel` may be called at any time, also after it fired. */
export interface Timer {
  cancel(): void;
}

export interface Clock {
  /** Milliseconds since 1970. May jump; for people and for times that are shared between machines. */
  nowMs(): number;
  /** Milliseconds from an arbitrary start, never going back, with a fraction. For durations. */
  monotonicMs(): number;
  /** Calls `fire` once, `delayMs` from now (at once, but not before returning, for 0 or less). */
  setTimer(delayMs: number, fire: () => void): Timer;
}

/** Longest delay that setTimeout takes: about 24.8 days. */
const TIMEOUT_MS_MAX = 2 ** 31 - 1;

/** The machine's clock. A timer keeps the process alive until it fires or is cancelled. */
export function createSystemClock(): Clock {
  return {
    nowMs: () => Date.now(),
    monotonicMs: () => performance.now(),
    setTimer(delayMs, fire) {
      const handle = setTimeout(fire, Math.min(Math.max(delayMs, 0), TIMEOUT_MS_MAX));
      return { cancel: () => clearTimeout(handle) };
    },
  };
}

/** A clock that stands still until it is told to move. */
export interface VirtualClock extends Clock {
  /**
   * Moves time on by `durationMs`, firing due timers in order, and lets everything that they woke run before the next
   * one.
   */
  advance(durationMs: number): Promise<void>;
  /** Lets everything run that waits for no timer. */
  settle(): Promise<void>;
  /** Timers that are set and have not fired. */
  readonly pendingTimers: number;
}

interface PendingTimer {
  dueMs: number;
  /** Orders timers that are due at the same time: first set, first fired. */
  sequence: number;
  fire: () => void;
}

/** `startMs` is what nowMs() says at first. */
export function createVirtualClock(startMs = 1_700_000_000_000): VirtualClock {
  let elapsedMs = 0;
  let sequence = 0;
  const timers = new Set<PendingTimer>();

  const nextDue = (limitMs: number): PendingTimer | undefined => {
    let first: PendingTimer | undefined;
    for (const timer of timers) {
      const earlier = first === undefined || timer.dueMs < first.dueMs;
      if (timer.dueMs <= limitMs && (earlier || (timer.dueMs === first?.dueMs && timer.sequence < first.sequence))) {
        first = timer;
      }
    }
    return first;
  };

  /** Promise chains over in-memory links are finite: a few turns of the event loop drain them. */
  const settle = async (): Promise<void> => {
    for (let turn = 0; turn < 6; turn++) {
      await new Promise<void>((resolve) => setImmediate(resolve));
    }
  };

  return {
    nowMs: () => startMs + elapsedMs,
    monotonicMs: () => elapsedMs,
    setTimer(delayMs, fire) {
      const timer = { dueMs: elapsedMs + Math.max(delayMs, 0), sequence: sequence++, fire };
      timers.add(timer);
      return { cancel: () => void timers.delete(timer) };
    },
    async advance(durationMs) {
      const limitMs = elapsedMs + durationMs;
      await settle();
      for (let timer = nextDue(limitMs); timer !== undefined; timer = nextDue(limitMs)) {
        timers.delete(timer);
        elapsedMs = Math.max(elapsedMs, timer.dueMs);
        timer.fire();
        await settle();
      }
      elapsedMs = limitMs;
    },
    settle,
    get pendingTimers() {
      return timers.size;
    },
  };
}
