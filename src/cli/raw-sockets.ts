/** Measures raw TCP sockets over loopback with native/probe/raw_sockets.cc: two processes, a thread a connection. */
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { HbmeshError, StatusCode } from "../base/errors.js";

const probePath = fileURLToPath(new URL("../../build/Release/hbmesh-raw-sockets", import.meta.url));

/** Median bytes a second over the rounds; a first round warms up. */
export async function measureRawSockets(options: {
  connections: number;
  bytes: number;
  rounds: number;
}): Promise<number> {
  const args = [options.connections, options.bytes, options.rounds].map(String);
  try {
    const { stdout } = await promisify(execFile)(probePath, args);
    return Number(stdout);
  } catch (cause) {
    const message = `raw sockets can't be measured with ${probePath}: ${(cause as Error).message}; npm run setup builds it`;
    throw new HbmeshError(StatusCode.RUNTIME_ERROR, message, { cause });
  }
}
