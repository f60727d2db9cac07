/**
 * Processes of this machine, as /proc shows them: those in this process's network namespace, where worker addresses
 * mean the same. Nothing is kept in files that could be out of date.
 */
import { readdirSync, readFileSync, statSync } from "node:fs";

export interface FoundProcess {
  pid: number;
  /** The program first. */
  args: readonly string[];
  /** When it started, in clock ticks since the machine did: tells a process from a later one with the same number. */
  startTicks: bigint;
}

/**
 * Those for which `wanted` is true, also of other users. Processes that end while they are looked at don't count.
 */
export function findProcesses(wanted: (args: readonly string[]) => boolean): FoundProcess[] {
  const ownNetwork = networkOf("self");
  const found: FoundProcess[] = [];
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) {
      continue;
    }
    try {
      const args = argumentsOf(Number(name));
      if (wanted(args) && networkOf(name) === ownNetwork) {
        found.push({ pid: Number(name), args, startTicks: startTicksOf(Number(name)) });
      }
    } catch {}
  }
  return found;
}

/**
 * Of its network namespace: the file is one for all processes of a namespace. Unlike /proc/PID/ns/net everyone may look
 * at it, so that a process of another user is found, too.
 */
function networkOf(pid: string): string {
  const { dev, ino } = statSync(`/proc/${pid}/net/unix`, { bigint: true });
  return `${dev}:${ino}`;
}

/** The user id that a process runs under. Undefined: there is no such process. */
export function ownerOf(pid: number): number | undefined {
  return statSync(`/proc/${pid}`, { throwIfNoEntry: false })?.uid;
}

/**
 * Does it run as this process's user, whoever started it? A program that another user runs as this one (setuid) is not
 * ours: that one chose its command line.
 */
export function isOwn(pid: number): boolean {
  try {
    const ids = /^Uid:\s+(.*)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]?.split(/\s+/) ?? [];
    return ids.length > 0 && ids.every((id) => Number(id) === process.geteuid?.());
  } catch {
    return false;
  }
}

/** May this process send it signals? */
export function maySignal(found: FoundProcess): boolean {
  try {
    process.kill(found.pid, 0);
    return true;
  } catch (reason) {
    return (reason as NodeJS.ErrnoException).code !== "EPERM";
  }
}

/** Undefined: there is no such process, or only what is left of it. */
export function identify(pid: number): FoundProcess | undefined {
  try {
    return { pid, args: argumentsOf(pid), startTicks: startTicksOf(pid) };
  } catch {
    return undefined;
  }
}

function argumentsOf(pid: number): string[] {
  return readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").slice(0, -1);
}

/** 0: it has none in this container, or there is no such process. */
export function parentOf(pid: number): number {
  try {
    return Number(statFields(pid)[1]);
  } catch {
    return 0;
  }
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

/** Children of this process that have ended and were not waited for. */
export function zombieChildren(): Pick<FoundProcess, "pid" | "startTicks">[] {
  const own = String(process.pid);
  const found: Pick<FoundProcess, "pid" | "startTicks">[] = [];
  for (const name of readdirSync("/proc")) {
    if (/^\d+$/.test(name)) {
      try {
        const fields = statFields(Number(name));
        if (fields[0] === "Z" && fields[1] === own) {
          found.push({ pid: Number(name), startTicks: BigInt(fields[19] ?? "") });
        }
      } catch {}
    }
  }
  return found;
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
