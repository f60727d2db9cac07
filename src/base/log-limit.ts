/**
 * How many lines of one kind a log gets. What strangers can cause as often as they like, such as refusals, must not
 * fill a disk: so many lines in each window of time, and the next one says how many were left out.
 */
import { type Clock, createSystemClock } from "./clock.js";
import type { Logger } from "./log.js";

export const LIMITED_LINES_MAX = 10;
export const LIMITED_WINDOW_MS = 60_000;

/** A `warn` for lines of one kind. */
export type LimitedWarn = Logger["warn"];

export function limitedWarn(log: Logger, clock: Clock = createSystemClock()): LimitedWarn {
  let windowStartMs = 0;
  let lines = 0;
  let leftOut = 0;
  return (fields, message) => {
    const nowMs = clock.monotonicMs();
    if (lines === 0 || nowMs - windowStartMs >= LIMITED_WINDOW_MS) {
      windowStartMs = nowMs;
      lines = 0;
    }
    if (lines === LIMITED_LINES_MAX) {
      leftOut += 1;
      return;
    }
    lines += 1;
    log.warn(leftOut === 0 ? fields : { ...fields, linesLeftOut: leftOut }, message);
    leftOut = 0;
  };
}
