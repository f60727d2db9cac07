/** The parent's end of client-process.mjs: starts one, asks it, kills it. */
import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";

const script = fileURLToPath(new URL("client-process.mjs", import.meta.url));

interface Message {
  ready?: true;
  id?: number;
  answer?: unknown;
  failure?: { code: string; message: string };
}

export class ClientProcess {
  readonly #child: ChildProcess;
  readonly #ended: Promise<void>;
  readonly #open = new Map<number, { resolve: (answer: unknown) => void; reject: (cause: Error) => void }>();
  #lastId = 0;

  private constructor(address: string) {
    this.#child = fork(script, [address], { execArgv: [], stdio: ["ignore", "inherit", "inherit", "ipc"] });
    this.#ended = new Promise((resolve) => {
      this.#child.once("close", () => {
        for (const { reject } of this.#open.values()) {
          reject(new Error("the client process has ended"));
        }
        this.#open.clear();
        resolve();
      });
    });
  }

  /** Resolves when it is connected to the worker. */
  static async start(address: string): Promise<ClientProcess> {
    const started = new ClientProcess(address);
    await new Promise<void>((resolve, reject) => {
      void started.#ended.then(() => reject(new Error(`the client process of ${address} ended before it was ready`)));
      started.#child.on("message", (message: Message) => {
        if (message.ready === true) {
          resolve();
        } else {
          started.#settle(message);
        }
      });
    });
    return started;
  }

  /** What a command of client-process.mjs answers; rejects when it failed, or with the process. */
  ask<Answer>(command: string, args: object): Promise<Answer> {
    this.#lastId += 1;
    const id = this.#lastId;
    return new Promise<Answer>((resolve, reject) => {
      this.#open.set(id, { resolve: (answer) => resolve(answer as Answer), reject });
      this.#child.send({ id, command, args });
    });
  }

  /** SIGKILL; resolves when it is gone. */
  async kill(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#ended;
  }

  /** Lets it close its client, then ends it. Of no effect on one that has ended. */
  async close(): Promise<void> {
    if (this.#child.connected) {
      await this.ask("close", {});
    }
    await this.kill();
  }

  #settle(message: Message): void {
    const open = this.#open.get(message.id ?? 0);
    this.#open.delete(message.id ?? 0);
    if (message.failure !== undefined) {
      open?.reject(new Error(`${message.failure.code}: ${message.failure.message}`));
    } else {
      open?.resolve(message.answer);
    }
  }
}
