/**
 * The log file of a worker in the background: where it is, and what of it is worth showing when the worker doesn't
 * start.
 */
import { fstatSync, mkdirSync, openSync, readSync, renameSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { parseAddress } from "../base/address.js";
import { ExitError } from "./options.js";

export interface WorkerLog {
  readonly path: string;
  /** For the worker's output; appends. */
  readonly fd: number;
  /**
   * What was written since it was opened: its last lines for people, and the sentence that a command ends with, if
   * there is one.
   */
  readNew(): { lines: string[]; cause: string | undefined };
}

/** A log that is longer is put aside at the next start. */
const ROTATE_BYTES = 64 * 2 ** 20;
const READ_BYTES_MAX = 65_536;
const LINES_MAX = 8;

/** Where workers log to unless they are told otherwise. */
export function defaultLogFolder(): string {
  if (process.getuid?.() === 0) {
    return "/var/log/hbmesh";
  }
  return join(process.env.XDG_STATE_HOME ?? join(homedir(), ".local", "state"), "hbmesh");
}

/** "worker-10.0.0.1_31501.log"; of [fd00::7]:31501 "worker-fd00--7_31501.log". Another one for each address. */
export function logName(workerAddress: string): string {
  const { host, port } = parseAddress(workerAddress, "the worker address");
  return `worker-${host.replaceAll(":", "-")}_${port}.log`;
}

/** Throws with the cause and what to give instead. */
export function openWorkerLog(workerAddress: string, folder = defaultLogFolder()): WorkerLog {
  const path = join(folder, logName(workerAddress));
  let fd: number;
  try {
    mkdirSync(folder, { recursive: true, mode: 0o750 });
    if ((statSync(path, { throwIfNoEntry: false })?.size ?? 0) > ROTATE_BYTES) {
      renameSync(path, `${path}.1`);
    }
    fd = openSync(path, "a+", 0o640);
  } catch (reason) {
    throw new ExitError(1, `the worker can't log to ${path} (${(reason as Error).message}): give --log_dir`);
  }
  const start = fstatSync(fd).size;
  return {
    path,
    fd,
    readNew() {
      const end = fstatSync(fd).size;
      const from = Math.max(start, end - READ_BYTES_MAX);
      const buffer = Buffer.alloc(Math.max(0, end - from));
      const got = readSync(fd, buffer, 0, buffer.byteLength, from);
      const lines = buffer
        .toString("utf8", 0, got)
        .split("\n")
        .filter((line) => line.trim() !== "");
      const cause = lines.findLast((line) => line.startsWith("hbmesh: "))?.slice("hbmesh: ".length);
      return { lines: lines.slice(-LINES_MAX).map(forPeople), cause };
    },
  };
}

/** A line of JSON as "error: the sidecar is gone (signal SIGKILL)"; another one as it is. */
function forPeople(line: string): string {
  let fields: { level?: unknown; msg?: unknown; cause?: unknown };
  try {
    fields = JSON.parse(line) as typeof fields;
  } catch {
    return `  ${line}`;
  }
  const cause = typeof fields.cause === "string" ? ` (${fields.cause})` : "";
  return typeof fields.msg === "string" ? `  ${String(fields.level)}: ${fields.msg}${cause}` : `  ${line}`;
}
