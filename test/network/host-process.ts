/** The test's end of host-process.mjs: starts a client process on a host, asks it, kills it. */
import { fileURLToPath } from "node:url";
import { AskedProcess } from "../support/asked-process.js";
import type { Hosts } from "./hosts.js";

const script = fileURLToPath(new URL("host-process.mjs", import.meta.url));

/** What one key of a call came to. `version`: of the bytes that were read; -1: they are no version's. */
export interface Outcome {
  key: string;
  code: string;
  message: string;
  existed?: boolean;
  version?: number;
  presence?: "HIT" | "MISS" | "UNKNOWN";
  /** Worker address that the call's first bytes came from. */
  source?: string;
}

export const WRONG_BYTES = -1;

export class HostProcess extends AskedProcess {
  static async start(hosts: Hosts, host: number, worker: string, tokenFile: string): Promise<HostProcess> {
    const started = new HostProcess(
      hosts.spawn(host, process.execPath, [script, worker, tokenFile], {
        stdio: ["ignore", "inherit", "inherit", "ipc"],
      }),
    );
    await started.untilReady(`the client process of ${worker}`);
    return started;
  }
}
