/**
 * Looks for what a suite may not leave behind: processes, sockets, shared memory, temporary files. Takes what is there
 * before and compares after, and only what is of this checkout: other checkouts may be under test on this machine at
 * the same time. `npm test` gives each run a temporary folder of its own.
 */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
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
    sockets: socketsOf(processLines().filter((line) => program.test(line))).filter(ours),
    sharedMemory: readdirSync("/dev/shm").filter((name) => name.includes("hbmesh")),
    temporaryFiles: readdirSync(tmpdir()).filter((name) => name.startsWith("hbmesh")),
  };
}

/**
 * Names of the unix sockets that these processes, and this one, hold. A socket with an abstract name is gone with the
 * last process that holds it, so there are no others to look for.
 */
function socketsOf(lines: readonly string[]): string[] {
  const pids = [String(process.pid), ...lines.map((line) => line.slice(0, line.indexOf(" ")))];
  const held = new Set(pids.flatMap(heldInodes));
  return readFileSync("/proc/net/unix", "utf8")
    .split("\n")
    .map((line) => line.split(/\s+/))
    .flatMap(([, , , , , , inode = "", name = ""]) => (name.startsWith("@hbmesh") && held.has(inode) ? [name] : []));
}

/** Of the sockets that process `pid` has open. */
function heldInodes(pid: string): string[] {
  return readable(() => readdirSync(`/proc/${pid}/fd`)).flatMap((fd) => {
    const target = readable(() => [readlinkSync(`/proc/${pid}/fd/${fd}`)])[0] ?? "";
    return /^socket:\[(\d+)\]$/.exec(target)?.[1] ?? [];
  });
}

/** What `look` gives, or nothing: processes and their files come and go. */
function readable(look: () => string[]): string[] {
  try {
    return look();
  } catch {
    return [];
  }
}

/** "1234 node dist/cli/main.js worker ..." for each process of this machine that can be read. */
function processLines(): string[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      const line = readable(() => [readFileSync(`/proc/${pid}/cmdline`, "utf8")])[0] ?? "";
      // A zombie has no command line; its parent has not looked yet.
      return line === "" ? [] : [`${pid} ${line.replaceAll("\0", " ").trim()}`];
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
