/** What this machine can do without hbmesh: the limits that figures are compared with, measured in the same run. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { loadAddon, nativePath } from "../sidecar/index.js";
import { median } from "./statistics.js";

/**
 * Raw TCP sockets over loopback, measured with native/probe/raw_sockets.cc: two processes, a thread a connection.
 * Median bytes a second over the rounds; a first round warms up.
 */
export async function measureRawSockets(options: {
  connections: number;
  bytes: number;
  rounds: number;
}): Promise<number> {
  const probePath = nativePath("hbmesh-raw-sockets");
  const args = [options.connections, options.bytes, options.rounds].map(String);
  try {
    const { stdout } = await promisify(execFile)(probePath, args);
    return Number(stdout);
  } catch (cause) {
    const message = `raw sockets can't be measured with ${probePath}: ${(cause as Error).message}; npm run setup builds it`;
    throw new HbmeshError(StatusCode.RUNTIME_ERROR, message, { cause });
  }
}

/** One copy of `bytes` by `threads` threads with streaming stores, read in scattered pieces: median bytes a second. */
export async function measureOneCopy(options: {
  threads: number;
  bytes: number;
  pieceBytes: number;
  rounds: number;
}): Promise<number> {
  const { threads, bytes, pieceBytes } = options;
  const rates: number[] = [];
  // Round by round, since the addon answers with the best of its rounds.
  for (let round = 0; round < options.rounds; round += 1) {
    rates.push(await loadAddon().measureCopyBandwidth(threads, BigInt(bytes), BigInt(pieceBytes), 1));
  }
  return median(rates);
}

/** "one copy" for what stays within a host's memory, "raw sockets" for tcp. */
export type LimitKind = "one copy" | "raw sockets";

export function limitOf(transport: string): LimitKind {
  return transport === "tcp" ? "raw sockets" : "one copy";
}

/** Bytes a second of the limit that belongs to `transport`, with as many threads or connections. */
export async function measureLimit(options: {
  transport: string;
  lanes: number;
  bytes: number;
  pieceBytes: number;
  rounds: number;
}): Promise<number> {
  const { lanes, bytes, pieceBytes, rounds } = options;
  return limitOf(options.transport) === "raw sockets"
    ? await measureRawSockets({ connections: lanes, bytes, rounds })
    : await measureOneCopy({ threads: lanes, bytes, pieceBytes, rounds });
}
