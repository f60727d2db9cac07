/**
 * What becomes of a command whose output nobody reads any more, as in `hbmesh status | head -1`. Node would end it with
 * a stack trace.
 *
 * Standard output: the command ends quietly, with the exit code that shells give to programs that SIGPIPE ends. What it
 * runs is ended first, as by SIGTERM. Standard error: what is said there is lost, and the command goes on, since a
 * worker must not be left half stopped because nobody reads the progress of `hbmesh stop`.
 */
import { endThisProcess } from "./signals.js";

/** 128 + SIGPIPE. */
export const CLOSED_PIPE_EXIT_CODE = 141;

export class Output {
  #failureCode: number | undefined;

  /** Watches the output of this process from here on. */
  constructor() {
    process.stdout.on("error", (cause: NodeJS.ErrnoException) => {
      if (this.#failureCode !== undefined) {
        return;
      }
      this.#failureCode = cause.code === "EPIPE" ? CLOSED_PIPE_EXIT_CODE : 1;
      if (cause.code !== "EPIPE") {
        process.stderr.write(`hbmesh: the output can't be written: ${cause.message}\n`);
      }
      endThisProcess(this.#failureCode);
    });
    process.stderr.on("error", () => {});
  }

  /** That of the process: the command's, unless its output could not be written. */
  exitCodeOf(commandCode: number): number {
    return this.#failureCode ?? commandCode;
  }
}
