/**
 * The file that a set run leaves for a get run on another node. Its form is the one that its users' scripts copy
 * around: case, then device, then a suffix for each thread.
 *
 *   {"1process_1thread_1key_72KB": {"3": ["k3v0x..."]}}
 *
 * Keys are `dev{device}_key{iteration}_{number}_{suffix}`.
 */
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { HeteroCase } from "./hetero-cases.js";

/** One a process, each with one a thread. */
export type KeySuffixes = readonly (readonly string[])[];

type KeysFile = Record<string, Record<string, string[]>>;

function invalid(message: string, cause?: unknown): HbmeshError {
  return new HbmeshError(StatusCode.INVALID, message, { cause });
}

function readKeysFile(path: string): KeysFile | undefined {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") {
      return undefined;
    }
    throw invalid(`${path} can't be read: ${(error as Error).message}`, error);
  }
  try {
    return text.trim() === "" ? {} : (JSON.parse(text) as KeysFile);
  } catch (error) {
    throw invalid(`${path} is not what --set-only writes: ${(error as Error).message}`, error);
  }
}

/** Throws INVALID when the file lacks the case, a device of `devices`, or a thread. */
export function readSuffixes(path: string, test: HeteroCase, devices: readonly number[]): KeySuffixes {
  const file = readKeysFile(path);
  if (file === undefined) {
    throw invalid(`${path} is not there: run the case with --set-only first, and copy its file, or give -k FILE`);
  }
  const known = file[test.name];
  if (known === undefined) {
    const names = Object.keys(file).join(", ") || "none";
    throw invalid(`${path} has no keys of ${test.name} (it has: ${names}): run it with --set-only first`);
  }
  return devices.map((device) => {
    const suffixes = known[String(device)];
    if (!Array.isArray(suffixes) || suffixes.length !== test.threads) {
      const has = Object.keys(known).join(", ");
      throw invalid(`${path} has no keys of ${test.name} for device ${device} (it has ${has}): give -d as the set had`);
    }
    return suffixes;
  });
}

/** Keeps what the file has of other cases. */
export function writeSuffixes(path: string, test: HeteroCase, devices: readonly number[], suffixes: KeySuffixes): void {
  const file = readKeysFile(path) ?? {};
  file[test.name] = Object.fromEntries(
    devices.map((device, number) => [String(device), [...(suffixes[number] ?? [])]]),
  );
  // A reader sees the old or the new file, never half of one.
  const whole = `${path}.new`;
  writeFileSync(whole, `${JSON.stringify(file, null, 2)}\n`);
  renameSync(whole, path);
}
