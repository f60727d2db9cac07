/**
 * Processes of this machine, as /proc shows them: those in this process's network namespace, where worker addresses
 * mean the same. Nothing is kept in files that could be out of date.
 */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";

export interface FoundProcess {
  pid: number;
  /** The program first. */
  args: readonly string[];
  /** When it started, in clock ticks since the machine did: tells a process from a later one with the same number. */
  startTicks: bigint;
}

/** Those for which `wanted` is true. Processes that end, or belong to others, while they are looked at don't count. */
export function findProcesses(wanted: (args: readonly string[]) => boolean): FoundProcess[] {
  const ownNetwork = readlinkSync("/proc/self/ns/net");
  const found: FoundProcess[] = [];
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) {
      continue;
    }
    try {
      const args = readFileSync(`/proc/${name}/cmdline`, "utf8").split("\0").slice(0, -1);
      if (wanted(args) && readlinkSync(`/proc/${name}/ns/net`) === ownNetwork) {
        found.push({ pid: Number(name), args, startTicks: startTicksOf(Number(name)) });
      }
    } catch {}
  }
  return found;
}

/** Does this very process still run? A zombie, which only its parent can take away, does not. */
export function isRunning(process: Pick<FoundProcess, "pid" | "startTicks">): boolean {
  try {
    return startTicksOf(process.pid) === process.startTicks;
  } catch {
    return false;
  }
}

/** Sends a signal to this very process. False: it is gone. Throws when it may not be signalled. */
export function signalProcess(found: FoundProcess, signal: NodeJS.Signals): boolean {
  if (!isRunning(found)) {
    return false;
  }
  try {
    return process.kill(found.pid, signal);
  } catch (reason) {
    if ((reason as NodeJS.ErrnoException).code === "ESRCH") {
      return false;
    }
    throw reason;
  }
}

/** What the main thread of a process does. */
export interface ThreadLoad {
  /** As /proc names it: R runs or could, S sleeps, D waits for a disk, T is stopped. */
  state: string;
  /** What it has used of a core since its start. */
  cpuMs: number;
}

/** Of its main thread. Undefined: there is no such process. */
export function loadOf(pid: number): ThreadLoad | undefined {
  try {
    const fields = statFields(pid, `/task/${pid}`);
    // Fields 14 and 15: in user mode, and in the kernel.
    const cpuTicks = Number(fields[11]) + Number(fields[12]);
    return { state: fields[0] as string, cpuMs: (cpuTicks * 1_000) / TICKS_PER_SECOND };
  } catch {
    return undefined;
  }
}

/** Throws when there is no such process, or only what is left of it. */
function startTicksOf(pid: number): bigint {
  const fields = statFields(pid);
  if (fields[0] === "Z" || fields[0] === "X") {
    throw new Error(`process ${pid} has ended`);
  }
  return BigInt(fields[19] ?? "");
}

/** The name, in parentheses, may have blanks; what follows has none: state is field 3, the start field 22. */
function statFields(pid: number, task = ""): string[] {
  const stat = readFileSync(`/proc/${pid}${task}/stat`, "latin1");
  return stat.slice(stat.lastIndexOf(")") + 2).split(" ");
}

/** Linux counts a process's start, and what it uses of a core, in hundredths of a second. */
const TICKS_PER_SECOND = 100;

/** When it started, in ms since 1970. */
export function startedAtMs(found: FoundProcess): number {
  const bootSeconds = /^btime (\d+)$/m.exec(readFileSync("/proc/stat", "utf8"))?.[1] ?? "0";
  return Number(bootSeconds) * 1_000 + (Number(found.startTicks) * 1_000) / TICKS_PER_SECOND;
}
