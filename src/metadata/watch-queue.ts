/**
 * A bounded queue between a source of watch batches and the loop that reads them. A reader that falls behind for good
 * loses its watch, with an error that says so, rather than memory without limit.
 */
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { WatchBatch } from "./store.js";

/** Batches that may wait for a reader. */
const WAITING_MAX = 10_000;

export class WatchQueue implements AsyncIterable<WatchBatch> {
  readonly #waiting: WatchBatch[] = [];
  #wake: (() => void) | undefined;
  #end: { error: HbmeshError | undefined } | undefined;

  push(batch: WatchBatch): void {
    if (this.#end !== undefined) {
      return;
    }
    if (this.#waiting.length >= WAITING_MAX) {
      this.end(
        new HbmeshError(StatusCode.TRY_AGAIN, `a watch fell ${WAITING_MAX} changes behind and was ended; watch again`),
      );
      return;
    }
    this.#waiting.push(batch);
    this.#wake?.();
  }

  /** After what is waiting, the iteration ends, or throws `error`. Later calls do nothing. */
  end(error?: HbmeshError): void {
    this.#end ??= { error };
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<WatchBatch> {
    for (;;) {
      const batch = this.#waiting.shift();
      if (batch !== undefined) {
        yield batch;
      } else if (this.#end !== undefined) {
        if (this.#end.error !== undefined) {
          throw this.#end.error;
        }
        return;
      } else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        this.#wake = undefined;
      }
    }
  }
}
