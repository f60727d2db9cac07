/** The future of one key: of a publish, a subscription, or a layer. */
import type { Clock } from "../base/clock.js";
import { createDeferred, type Deferred } from "../base/deadline.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { checkNumber } from "./arguments.js";
import type { TransferPath } from "./batch-result.js";
import { FUTURE_TIMEOUT_MS_MAX } from "./options.js";

/** What a future that ended well gives. */
export interface Transferred {
  key: string;
  bytes: bigint;
  /** What carried the bytes, as far as this end knows it; a publisher's is empty. */
  paths: readonly TransferPath[];
  /** The same for people, as BatchResult.path. */
  path: string;
}

/** What a TransferFuture needs of the request that it belongs to. */
export interface FutureOwner {
  readonly clock: Clock;
  readonly node: string;
  /** For messages: `devSubscribe of 3 keys (first "a")`. */
  readonly what: string;
  cancelKey(keyIndex: number): void;
}

/**
 * One key that ends by itself. Every future ends: with the transfer, by cancel, with its publisher or subscriber, with
 * the worker, or with the client. A future that nobody asks is no unhandled rejection.
 */
export class TransferFuture {
  readonly key: string;
  readonly #owner: FutureOwner;
  readonly #index: number;
  readonly #ended: Deferred<void> = createDeferred();
  #outcome: Transferred | HbmeshError | undefined;

  /** Made by the calls that return one. */
  constructor(owner: FutureOwner, key: string, index: number) {
    this.#owner = owner;
    this.key = key;
    this.#index = index;
  }

  /** Whether it has ended, well or not. Its device memory is the caller's again. */
  get done(): boolean {
    return this.#outcome !== undefined;
  }

  /**
   * What became of the key, waiting for it up to `timeoutMs` (0 to 1,800,000 ms; 0: doesn't wait). May be called again,
   * also after FUTURE_TIMEOUT, which ends only the waiting.
   *
   * Rejects, in this order, with INVALID (timeoutMs out of range), the key's own failure (see the call that made the
   * future), and FUTURE_TIMEOUT (not ended yet).
   */
  async get(timeoutMs = 60_000): Promise<Transferred> {
    checkNumber(timeoutMs, "timeoutMs", "ms", FUTURE_TIMEOUT_MS_MAX);
    if (this.#outcome === undefined && timeoutMs > 0) {
      const timeUp = createDeferred<void>();
      const timer = this.#owner.clock.setTimer(timeoutMs, () => timeUp.resolve());
      await Promise.race([this.#ended.promise, timeUp.promise]);
      timer.cancel();
    }
    if (this.#outcome === undefined) {
      throw new HbmeshError(
        StatusCode.FUTURE_TIMEOUT,
        `waited ${timeoutMs} ms for key ${JSON.stringify(this.key)} of ${this.#owner.what}, which goes on: ` +
          "get() again, or cancel()",
        { key: this.key, node: this.#owner.node },
      );
    }
    if (this.#outcome instanceof HbmeshError) {
      throw this.#outcome;
    }
    return this.#outcome;
  }

  /**
   * Asks for the end of this key alone. It then ends with RPC_CANCELLED, or as it would have if that came first; its
   * device memory may be in use until `done`.
   */
  cancel(): void {
    if (this.#outcome === undefined) {
      this.#owner.cancelKey(this.#index);
    }
  }

  /** Ends it; a second time does nothing. For the request that it belongs to. */
  settle(outcome: Transferred | HbmeshError): void {
    if (this.#outcome === undefined) {
      this.#outcome = outcome;
      this.#ended.resolve();
    }
  }
}
