/**
 * Writes the lines of a log to a descriptor, at once, and loses them rather than its process: a disk that is full, a
 * terminal that has closed, a reader that has ended or has stopped reading must not end or stop a worker.
 */
import { writeSync } from "node:fs";

/** How long a reader that takes nothing holds up this process, once. */
const PATIENCE_MS = 1_000;
const LOOK_MS = 5;

export class LogWriter {
  readonly #fd: number;
  readonly #patienceMs: number;
  readonly #sleeper = new Int32Array(new SharedArrayBuffer(4));
  /** The reader took nothing the last time: lines are lost, without waiting, until it reads on. */
  #isStuck = false;

  constructor(fd: number, patienceMs = PATIENCE_MS) {
    this.#fd = fd;
    this.#patienceMs = patienceMs;
  }

  write(line: string): void {
    const bytes = Buffer.from(line);
    const endMs = performance.now() + (this.#isStuck ? 0 : this.#patienceMs);
    let written = 0;
    while (written < bytes.byteLength) {
      try {
        written += writeSync(this.#fd, bytes, written);
        this.#isStuck = false;
      } catch (reason) {
        // A pipe that is full, of which somebody has made the descriptor one that does not wait.
        if ((reason as NodeJS.ErrnoException).code !== "EAGAIN") {
          return;
        }
        if (performance.now() >= endMs) {
          this.#isStuck = true;
          return;
        }
        Atomics.wait(this.#sleeper, 0, 0, LOOK_MS);
      }
    }
  }
}
