/**
 * Looks for what a suite may not leave behind: processes, abstract sockets, shared memory, temporary files. Takes what is there
 * before and compares after, so that a worker that somebody else runs on this machine does not matter.
 */
import { readdirSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { expect } from "vitest";
import { root } from "../contract/sources.js";

export interface Leftovers {
  processes: string[];
  sockets: string[];
  sharedMemory: string[];
  temporaryFiles: string[];
}

/** A program of this checkout, as the first or second word after the process id. */
const program = new RegExp(`^\\d+ (\\S*node\\S* )?${root}(build/Release/hbmesh-|dist/cli/)`);

/** Only what belongs to one of these worker addresses, if any are given. */
export function leftoversNow(addresses: readonly string[] = []): Leftovers {
  const ours = (text: string): boolean => addresses.length === 0 || addresses.some((address) => text.includes(address));
  return {
    processes: processLines().filter((line) => program.test(line) && ours(line)),
    sockets: readFileSync("/proc/net/unix", "utf8")
      .split("\n")
      .map((line) => line.slice(line.lastIndexOf(" ") + 1))
      .filter((name) => name.startsWith("@hbmesh") && ours(name) && !isOfOthers(name)),
    sharedMemory: readdirSync("/dev/shm"),
    temporaryFiles: readdirSync(tmpdir()).filter((name) => name.startsWith("hbmesh")),
  };
}

/** "@hbmesh-shm/<process id>-...": is that a living process of another checkout? */
function isOfOthers(name: string): boolean {
  const pid = /^@hbmesh-shm\/(\d+)-/.exec(name)?.[1];
  return processLines().some((line) => line.startsWith(`${pid} `) && !program.test(line));
}

/** "1234 node dist/cli/main.js worker ..." for each process of this machine that can be read. */
function processLines(): string[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        const line = readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").trim();
        // A zombie has no command line; its parent has not looked yet.
        return line === "" ? [] : [`${pid} ${line}`];
      } catch {
        return [];
      }
    });
}

/** Fails with what is there now and was not before. */
export function expectNothingNew(before: Leftovers, addresses: readonly string[] = []): void {
  const now = leftoversNow(addresses);
  const added = (kind: keyof Leftovers): string[] => now[kind].filter((item) => !before[kind].includes(item));
  expect({
    processes: added("processes"),
    sockets: added("sockets"),
    sharedMemory: added("sharedMemory"),
    temporaryFiles: added("temporaryFiles"),
  }).toEqual({ processes: [], sockets: [], sharedMemory: [], temporaryFiles: [] });
}
