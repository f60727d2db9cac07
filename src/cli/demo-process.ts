/**
 * The launcher's end of a client process of the main job: one order at a time, each with its answer or a typed failure.
 */
import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { Answer, Order } from "./demo-job.js";

const clientPath = fileURLToPath(new URL("../../dist/cli/demo-client.js", import.meta.url));
const keptOutputBytesMax = 8_192;

export class ClientProcess {
  readonly #name: string;
  readonly #child: ChildProcess;
  readonly #ended: Promise<string>;
  #output = "";

  /** `name` is for messages: "set client". */
  constructor(name: string) {
    this.#name = name;
    this.#child = fork(clientPath, [], { execArgv: [], stdio: ["ignore", "ignore", "pipe", "ipc"] });
    this.#child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.#output = (this.#output + text).slice(-keptOutputBytesMax);
    });
    this.#ended = new Promise((resolve) => {
      this.#child.once("error", (cause) => resolve(cause.message));
      this.#child.once("close", (code, signal) => resolve(signal === null ? `exit code ${code}` : `signal ${signal}`));
    });
  }

  /**
   * Rejects with the client's own failure, or with CLIENT_WORKER_DISCONNECT when the process ended instead of
   * answering.
   */
  async ask<Kind extends Answer["t"]>(order: Order, kind: Kind): Promise<Extract<Answer, { t: Kind }>> {
    const answered = new Promise<Answer>((resolve, reject) => {
      this.#child.once("message", (message: Answer) => resolve(message));
      this.#child.send(order, (error) => {
        if (error !== null) {
          reject(error);
        }
      });
    });
    const died = this.#ended.then((reason): never => {
      const said = this.#output === "" ? "" : `; its last output:\n${this.#output.trim()}`;
      throw new HbmeshError(
        StatusCode.CLIENT_WORKER_DISCONNECT,
        `the ${this.#name} process ended with ${reason}${said}`,
      );
    });
    died.catch(() => undefined);
    const answer = await Promise.race([answered, died]);
    if (answer.t === "failed") {
      const code = StatusCode[answer.code as keyof typeof StatusCode] ?? StatusCode.RUNTIME_ERROR;
      const fields = answer.key === null ? {} : { key: answer.key };
      throw new HbmeshError(code, `the ${this.#name}: ${answer.message}`, fields);
    }
    if (answer.t !== kind) {
      throw new Error(`the ${this.#name} answered ${answer.t} to ${order.t}`);
    }
    return answer as Extract<Answer, { t: Kind }>;
  }

  /** Ends the process, whatever it does. Resolves when it is gone. */
  async end(): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      this.#child.kill("SIGKILL");
    }
    await this.#ended;
  }

  /** Resolves when the process has ended by itself, after the order `close`. */
  async finished(): Promise<string> {
    return await this.#ended;
  }
}
