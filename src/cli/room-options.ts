/**
 * Options of `hbmesh worker` and `hbmesh dev` about what makes room in the arena, and where it goes: watermarks and the
 * SSD tier.
 */
import { mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Command } from "commander";
import type { WorkerSettings } from "../base/config.js";
import { usageError, wholeNumber } from "./options.js";

export interface RoomOptions {
  eviction_high: number;
  eviction_low?: number;
  spill_directory?: string;
  spill_mb?: number;
}

const EVICTION_LOW = 80;
/** 1 PiB. */
const SPILL_MB_MAX = 1_073_741_824;

export const ssdTierHelp = `
With an SSD tier, objects that make room in the arena are written to --spill_directory and come back on a get: slower, but found.
A set waits for the writing instead of pushing objects out. Hard pinned objects and copies of remote reads never go there; when
the tier is full, what was not used there for longest is dropped. The directory is made if its parent is there; the file in it goes
with the worker, and is taken over when only the sidecar is restarted.`;

export function withRoomOptions(command: Command, directoryHelp: string): Command {
  return command
    .option(
      "--eviction_high <N>",
      "percent of the arena above which objects make room, the longest not used first",
      wholeNumber(1, 100),
      90,
    )
    .option(
      "--eviction_low <N>",
      `until at most this much of it is used (default: ${EVICTION_LOW}, or less if --eviction_high is less)`,
      wholeNumber(1, 100),
    )
    .option("--spill_directory <DIR>", directoryHelp)
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
  if (spill_directory === undefined || spill_directory === "") {
    throw usageError("--spill_mb takes --spill_directory DIR, where the SSD tier is to be");
  }
  return { ...watermarks, spillDirectory: resolve(spill_directory), spillBytes: spill_mb * 2 ** 20 };
}

/**
 * The same as arguments for the worker with this number. Each has a directory of its own, under the one that was given.
 */
export function roomArguments(options: RoomOptions): (index: number) => string[] {
  const { evictionHighPercent, evictionLowPercent, spillDirectory } = roomSettings(options);
  const shared = ["--eviction_high", String(evictionHighPercent), "--eviction_low", String(evictionLowPercent)];
  if (spillDirectory === undefined) {
    return () => shared;
  }
  try {
    mkdirSync(spillDirectory, { recursive: true });
  } catch (reason) {
    const cause = reason instanceof Error ? reason.message : String(reason);
    throw usageError(`--spill_directory ${spillDirectory} can't be made (${cause}): give one where you may make files`);
  }
  return (index) => [
    ...shared,
    "--spill_directory",
    join(spillDirectory, `worker-${index + 1}`),
    "--spill_mb",
    String(options.spill_mb),
  ];
}
