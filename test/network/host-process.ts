/** The test's end of host-process.mjs: starts a client process on a host, asks it, kills it. */
import type { ChildProcess } from "node:child_process";
import { fileURLToPath } from "node:url";
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

interface Message {
  ready?: true;
  id?: number;
  answer?: unknown;
  failure?: { code: string; message: string };
}

export class HostProcess {
  readonly #child: ChildProcess;
  readonly #ended: Promise<void>;
  readonly #open = new Map<number, { resolve: (answer: unknown) => void; reject: (cause: Error) => void }>();
  #lastId = 0;

  private constructor(child: ChildProcess) {
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

  static async start(hosts: Hosts, host: number, worker: string, tokenFile: string): Promise<HostProcess> {
    const child = hosts.spawn(host, process.execPath, [script, worker, tokenFile], {
      stdio: ["ignore", "inherit", "inherit", "ipc"],
    });
    const started = new HostProcess(child);
    await new Promise<void>((resolve, reject) => {
      void started.#ended.then(() => reject(new Error(`the client process of ${worker} ended before it was ready`)));
      child.on("message", (message: Message) => {
        if (message.ready === true) {
          resolve();
        } else {
          started.#settle(message);
        }
      });
    });
    return started;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  get isRunning(): boolean {
    return this.#child.connected;
  }

  /** What a command of host-process.mjs answers; rejects when it failed, or with the process (`hasEnded`). */
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

const ENDED = "the client process has ended";

export function hasEnded(reason: unknown): boolean {
  return reason instanceof Error && reason.message === ENDED;
}
