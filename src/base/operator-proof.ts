/**
 * Who may have a worker leave without its cluster's token: its own user, on its own host, and root. They may end it by
 * a signal, too.
 *
 * A worker makes a secret when it starts and keeps it in a file that has no name any more, readable through
 * `/proc/PID/fd` alone: the kernel lets only those in who may look into the process. Nothing is left of it when the
 * process ends, however it ends, and it stands on no command line and in no message.
 */
import { randomBytes } from "node:crypto";
import { closeSync, openSync, readdirSync, readFileSync, readlinkSync, statSync, unlinkSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ClusterToken } from "./credentials.js";

export interface OperatorProof {
  /** What is shown must match it. */
  readonly token: ClusterToken;
  close(): void;
}

const NAME = "hbmesh-operator-";
const SECRET_BYTES = 32;

/** Undefined where no file can be made: then only the cluster's token is good. */
export function createOperatorProof(folders: readonly string[] = ["/dev/shm", tmpdir()]): OperatorProof | undefined {
  const secret = randomBytes(SECRET_BYTES).toString("hex");
  for (const folder of folders) {
    const path = join(folder, NAME + randomBytes(8).toString("hex"));
    try {
      const fd = openSync(path, "wx+", 0o600);
      unlinkSync(path);
      writeSync(fd, secret);
      return { token: new ClusterToken(secret, "the worker's own proof"), close: () => closeSync(fd) };
    } catch {
      // The next folder.
    }
  }
  return undefined;
}

/** What this process keeps, if it is a worker and this one may look into it. */
export function readOperatorProof(pid: number): string | undefined {
  try {
    const folder = `/proc/${pid}/fd`;
    for (const fd of readdirSync(folder)) {
      const path = join(folder, fd);
      if (isProof(path)) {
        return readFileSync(path, "utf8");
      }
    }
  } catch {
    // Another user's, or it has ended.
  }
  return undefined;
}

function isProof(path: string): boolean {
  try {
    // One with a name is no worker's: another user may have opened it by a name like ours without being let read it.
    return readlinkSync(path).includes(`/${NAME}`) && statSync(path).nlink === 0;
  } catch {
    // Closed since the folder was read.
    return false;
  }
}
