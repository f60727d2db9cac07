/**
 * The parent's end of a process that answers commands over its channel, one object of `id`, `command` and `args` each,
 * and says `ready` first.
 */
import type { ChildProcess } from "node:child_process";

interface Message {
  ready?: true;
  id?: number;
  answer?: unknown;
  failure?: { code: string; message: string };
}

const ENDED = "the client process has ended";

/** Was a question left without an answer because its process ended? */
export function hasEnded(reason: unknown): boolean {
  return reason instanceof Error && reason.message === ENDED;
}

export class AskedProcess {
  readonly #child: ChildProcess;
  readonly #ended: Promise<void>;
  readonly #open = new Map<number, { resolve: (answer: unknown) => void; reject: (cause: Error) => void }>();
  #lastId = 0;

  /** `child` has just been started, with a channel. */
  constructor(child: ChildProcess) {
    this.#child = child;
    this.#ended = new Promise((resolve) => {
      child.once("close", () => {
        for (const { reject } of this.#open.values()) {
          reject(new Error(ENDED));
        }
        this.#open.clear();
        resolve();
      });
    });
  }

  /** Once, right after the constructor; `what` names it in the error. */
  async untilReady(what: string): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      void this.#ended.then(() => reject(new Error(`${what} ended before it was ready`)));
      this.#child.on("message", (message: Message) => {
        if (message.ready === true) {
          resolve();
        } else {
          this.#settle(message);
        }
      });
    });
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  get isRunning(): boolean {
    return this.#child.connected;
  }

  /** What the command answers; rejects when it failed, or with the process (`hasEnded`). */
  ask<Answer>(command: string, args: object = {}): Promise<Answer> {
    this.#lastId += 1;
    const id = this.#lastId;
    return new Promise<Answer>((resolve, reject) => {
      if (!this.#child.connected) {
        reject(new Error(ENDED));
        return;
      }
      this.#open.set(id, { resolve: (answer) => resolve(answer as Answer), reject });
      this.#child.send({ id, command, args }, () => {}); // a channel that breaks is told by the process's end
    });
  }

  /** SIGKILL; resolves when it is gone. */
  async kill(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#ended;
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
