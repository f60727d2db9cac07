/**
 * The signals that ask a process to end. A terminal that closes (SIGHUP), Ctrl-\ (SIGQUIT), Ctrl-C (SIGINT) and a
 * service manager (SIGTERM) mean the same: end as planned. Node's default for each is to end at once.
 */
export const ENDING_SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"] as const;

export type EndingSignal = (typeof ENDING_SIGNALS)[number];

/** Calls `handle` for each of them that comes. Returns what gives them their usual meaning back. */
export function onEndingSignal(handle: (signal: EndingSignal) => void): () => void {
  for (const signal of ENDING_SIGNALS) {
    process.on(signal, handle);
  }
  return () => {
    for (const signal of ENDING_SIGNALS) {
      process.off(signal, handle);
    }
  };
}

/**
 * Ends a process whose terminal has closed, once it has nothing to do any more, by the signal that told it. Node would
 * set such a terminal back to how it was, fail in that, and abort.
 */
export function endByHangUp(): void {
  process.removeAllListeners("SIGHUP");
  process.kill(process.pid, "SIGHUP");
}

/** As if somebody had sent SIGTERM: a command that listens ends as planned, another one now, with this code. */
export function endThisProcess(exitCode: number): void {
  if (process.listenerCount("SIGTERM") === 0) {
    process.exit(exitCode);
  }
  process.kill(process.pid, "SIGTERM");
}

/**
 * For a process that ends with the one that started it: a terminal sends its signals to the whole group, and they are
 * for that one.
 */
export function ignoreTerminalSignals(): void {
  for (const signal of ["SIGINT", "SIGHUP", "SIGQUIT"] as const) {
    process.on(signal, () => {});
  }
}
