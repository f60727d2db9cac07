/** Options of a worker about what makes room in the arena, and where it goes: watermarks and the SSD tier. */
import type { Command } from "commander";
import { SETTING_DEFAULTS as DEFAULTS, SETTING_LIMITS, type WorkerSettings } from "../base/config.js";
import { directoryPath, usageError, wholeNumber } from "./options.js";

export interface RoomOptions {
  eviction_high: number;
  eviction_low?: number;
  spill_directory?: string;
  spill_mb?: number;
}

const EVICTION_LOW = DEFAULTS.evictionLowPercent;
const SPILL_MB_MAX = SETTING_LIMITS.spillBytes[1] / 2 ** 20;

export const ssdTierHelp = `
With an SSD tier, objects that make room in the arena are written to --spill_directory and come back on a get: slower, but found.
A set waits for the writing instead of pushing objects out. Hard pinned objects and copies of remote reads never go there; when
the tier is full, what was not used there for longest is dropped. The directory is made if its parent is there; the file in it goes
with the worker, and is taken over when only the sidecar is restarted.`;

export function withRoomOptions(command: Command): Command {
  return command
    .option(
      "--eviction_high <N>",
      "percent of the arena above which objects make room, the longest not used first",
      wholeNumber(...SETTING_LIMITS.evictionHighPercent),
      DEFAULTS.evictionHighPercent,
    )
    .option(
      "--eviction_low <N>",
      `until at most this much of it is used (default: ${EVICTION_LOW}, or less if --eviction_high is less)`,
      wholeNumber(...SETTING_LIMITS.evictionLowPercent),
    )
    .option(
      "--spill_directory <DIR>",
      "a directory of this worker alone, on an SSD, for what makes room; see below",
      directoryPath,
    )
    .option("--spill_mb <N>", "size of the SSD tier, all allocated at the start", wholeNumber(1, SPILL_MB_MAX));
}

/** Throws a usage error for options that contradict each other. */
export function roomSettings(options: RoomOptions): Partial<WorkerSettings> {
  const { eviction_high: high, eviction_low: low = Math.min(EVICTION_LOW, high), spill_directory, spill_mb } = options;
  if (low > high) {
    throw usageError(`--eviction_low ${low} is more than --eviction_high ${high}: give at most ${high}`);
  }
  const watermarks = { evictionHighPercent: high, evictionLowPercent: low };
  if (spill_directory === undefined && spill_mb === undefined) {
    return watermarks;
  }
  if (spill_mb === undefined) {
    throw usageError("--spill_directory takes --spill_mb N, the size of the SSD tier in MiB");
  }
  if (spill_directory === undefined) {
    throw usageError("--spill_mb takes --spill_directory DIR, where the SSD tier is to be");
  }
  return { ...watermarks, spillDirectory: spill_directory, spillBytes: spill_mb * 2 ** 20 };
}
