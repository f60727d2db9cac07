/**
 * Goal: strangers can't fill a log: so many lines of a kind in each window, and how many were left out is said. Method:
 * a logger that remembers, in virtual time; the limit below, at and above.
 */
import { describe, expect, it } from "vitest";
import { createVirtualClock } from "../../../src/base/clock.js";
import { createSilentLogger, type LogFields } from "../../../src/base/log.js";
import { LIMITED_LINES_MAX, LIMITED_WINDOW_MS, limitedWarn } from "../../../src/base/log-limit.js";

describe("limitedWarn", () => {
  it("writes the first lines of each window, and tells with the next one how many were left out", async () => {
    const lines: [LogFields, string][] = [];
    const log = {
      ...createSilentLogger(),
      warn: (fields: LogFields, message: string) => void lines.push([fields, message]),
    };
    const clock = createVirtualClock();
    const warn = limitedWarn(log, clock);
    await clock.advance(12_345);
    for (let index = 0; index < LIMITED_LINES_MAX + 3; index += 1) {
      warn({ index }, "refused");
    }
    expect(lines).toEqual(Array.from({ length: LIMITED_LINES_MAX }, (_, index) => [{ index }, "refused"]));
    await clock.advance(LIMITED_WINDOW_MS - 1);
    warn({ index: -1 }, "refused");
    expect(lines).toHaveLength(LIMITED_LINES_MAX);
    await clock.advance(1);
    warn({ index: 100 }, "refused");
    warn({ index: 101 }, "refused");
    expect(lines.slice(LIMITED_LINES_MAX)).toEqual([
      [{ index: 100, linesLeftOut: 4 }, "refused"],
      [{ index: 101 }, "refused"],
    ]);
  });
});
