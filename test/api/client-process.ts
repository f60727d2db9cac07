/** The parent's end of client-process.mjs: starts one, asks it, kills it. */
import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { AskedProcess } from "../support/asked-process.js";

const script = fileURLToPath(new URL("client-process.mjs", import.meta.url));

export class ClientProcess extends AskedProcess {
  /** Resolves when it is connected to the worker. */
  static async start(address: string): Promise<ClientProcess> {
    const started = new ClientProcess(
      fork(script, [address], { execArgv: [], stdio: ["ignore", "inherit", "inherit", "ipc"] }),
    );
    await started.untilReady(`the client process of ${address}`);
    return started;
  }

  /** Lets it close its client, then ends it. Of no effect on one that has ended. */
  async close(): Promise<void> {
    if (this.isRunning) {
      await this.ask("close");
    }
    await this.kill();
  }
}
