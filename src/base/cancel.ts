/**
 * Cancellation of single requests. An AbortSignal costs more to make, combine and listen to than the rest of a request,
 * and hardly any request is cancelled: what is made for each request is a Canceller. AbortSignals are CancelSignals, so
 * that whoever takes one takes both.
 */

/** What a request needs to know of its cancellation: the part of AbortSignal that is used here. */
export interface CancelSignal {
  readonly aborted: boolean;
  readonly reason: unknown;
  throwIfAborted(): void;
  /** Called once, when it aborts; never if it has aborted before. */
  addEventListener(type: "abort", listener: () => void, options?: { once: boolean }): void;
  removeEventListener(type: "abort", listener: () => void): void;
}

/** A CancelSignal and its handle in one. */
export class Canceller implements CancelSignal {
  #aborted = false;
  #reason: unknown;
  #listeners: Set<() => void> | undefined;

  get aborted(): boolean {
    return this.#aborted;
  }

  get reason(): unknown {
    return this.#reason;
  }

  /** Does nothing the second time. */
  abort(reason: Error): void {
    if (this.#aborted) {
      return;
    }
    this.#aborted = true;
    this.#reason = reason;
    const listeners = this.#listeners ?? [];
    this.#listeners = undefined;
    for (const listener of listeners) {
      listener();
    }
  }

  throwIfAborted(): void {
    if (this.#aborted) {
      throw this.#reason;
    }
  }

  addEventListener(_type: "abort", listener: () => void): void {
    if (!this.#aborted) {
      this.#listeners ??= new Set();
      this.#listeners.add(listener);
    }
  }

  removeEventListener(_type: "abort", listener: () => void): void {
    this.#listeners?.delete(listener);
  }
}

/**
 * Aborts when one of the two does. Listens to them only while somebody listens to it, so that there is nothing to end.
 * A listener must stand to be called by both.
 */
export class EitherSignal implements CancelSignal {
  readonly #one: CancelSignal;
  readonly #other: CancelSignal;

  constructor(one: CancelSignal, other: CancelSignal) {
    this.#one = one;
    this.#other = other;
  }

  get aborted(): boolean {
    return this.#one.aborted || this.#other.aborted;
  }

  get reason(): unknown {
    return this.#one.aborted ? this.#one.reason : this.#other.reason;
  }

  throwIfAborted(): void {
    this.#one.throwIfAborted();
    this.#other.throwIfAborted();
  }

  addEventListener(type: "abort", listener: () => void, options = { once: true }): void {
    this.#one.addEventListener(type, listener, options);
    this.#other.addEventListener(type, listener, options);
  }

  removeEventListener(type: "abort", listener: () => void): void {
    this.#one.removeEventListener(type, listener);
    this.#other.removeEventListener(type, listener);
  }
}
