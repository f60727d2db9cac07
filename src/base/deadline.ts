/**
 * Waiting with a limit: deadlines, cancellation, and promises that are settled from elsewhere.
 */
import type { CancelSignal } from "./cancel.js";
import type { Clock } from "./clock.js";
import { HbmeshError, StatusCode } from "./errors.js";

/** A promise with its handles outside. Settling it twice does nothing. */
export interface Deferred<T> {
  readonly promise: Promise<T>;
  resolve(value: T): void;
  reject(reason: Error): void;
}

export function createDeferred<T>(): Deferred<T> {
  let resolve!: (value: T) => void;
  let reject!: (reason: Error) => void;
  const promise = new Promise<T>((onResolve, onReject) => {
    resolve = onResolve;
    reject = onReject;
  });
  return { promise, resolve, reject };
}

/** What an aborted signal means as an error of ours: its reason if that is one, else RPC_CANCELLED. */
export function abortError(signal: CancelSignal, what: string): HbmeshError {
  return signal.reason instanceof HbmeshError
    ? signal.reason
    : new HbmeshError(StatusCode.RPC_CANCELLED, `${what} was cancelled by its caller`, { cause: signal.reason });
}

/**
 * `work`, or an error as soon as the signal aborts or the time is over (`onTimeout` makes that error). The work itself
 * is not ended; give it the same signal where it can be.
 */
export function withDeadline<T>(
  work: Promise<T>,
  options: {
    clock: Clock;
    timeoutMs?: number | undefined;
    signal?: CancelSignal | undefined;
    what: string;
    code?: StatusCode;
  },
): Promise<T> {
  const { clock, timeoutMs, signal, what } = options;
  if (signal?.aborted) {
    work.catch(() => {});
    return Promise.reject(abortError(signal, what));
  }
  return new Promise<T>((resolve, reject) => {
    const onAbort = (): void => settle(() => reject(abortError(signal as CancelSignal, what)));
    const timer =
      timeoutMs === undefined
        ? undefined
        : clock.setTimer(timeoutMs, () =>
            settle(() =>
              reject(
                new HbmeshError(
                  options.code ?? StatusCode.RPC_DEADLINE_EXCEEDED,
                  `${what} took longer than ${Math.round(timeoutMs)} ms`,
                ),
              ),
            ),
          );
    const settle = (finish: () => void): void => {
      timer?.cancel();
      signal?.removeEventListener("abort", onAbort);
      finish();
    };
    signal?.addEventListener("abort", onAbort, { once: true });
    work.then(
      (value) => settle(() => resolve(value)),
      (reason: unknown) => settle(() => reject(reason as Error)),
    );
  });
}

/** Resolves after `delayMs`, or earlier (still resolving) when the signal aborts. */
export function pause(clock: Clock, delayMs: number, signal?: CancelSignal): Promise<void> {
  if (signal?.aborted) {
    return Promise.resolve();
  }
  return new Promise((resolve) => {
    const finish = (): void => {
      timer.cancel();
      signal?.removeEventListener("abort", finish);
      resolve();
    };
    const timer = clock.setTimer(delayMs, finish);
    signal?.addEventListener("abort", finish, { once: true });
  });
}
