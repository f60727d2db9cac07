/**
 * One request's life: sent, then answered, given up after its time, or aborted by its caller.
 *
 * Giving up is two steps. First the sidecar is asked to stop and its word is awaited, since it may be writing into the
 * caller's device memory until then. Only when it doesn't give that within a grace time, the call rejects with
 * WORKER_TIMEOUT.
 */
import type { Clock, Timer } from "../base/clock.js";
import { abortError, createDeferred } from "../base/deadline.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { NativeClient, NativeReply } from "../sidecar/addon.js";
import { fromNativeError } from "../sidecar/native-errors.js";
import type { FlatBatch } from "./arguments.js";
import { keyNamedIn } from "./reply.js";

export interface OutgoingRequest {
  op: number;
  args: readonly [bigint, bigint, bigint, bigint];
  batch: FlatBatch;
  keys: readonly string[];
  /** For messages: `mGetH2D of 3 keys (first "a")`. */
  what: string;
  /** How long it may take; undefined: for ever. */
  timeoutMs: number | undefined;
  /** How long the sidecar may take to confirm that it stopped; default: STOP_GRACE_MS. */
  stopMs?: number;
  /** Replies before the last, for requests whose keys end one by one. Must not throw. */
  onEvents?: (payload: Uint8Array) => void;
  signal?: AbortSignal | undefined;
}

export interface AnsweredRequest {
  reply: NativeReply;
  /** Why the sidecar was asked to stop, before it answered; undefined if it wasn't. */
  stopped: HbmeshError | undefined;
}

/** A request that was sent. */
export interface OngoingRequest {
  /** As Requests.send resolves and rejects. */
  readonly answer: Promise<AnsweredRequest>;
  /** Asks the sidecar to stop; the answer then rejects with `reason` once it confirmed that. */
  stop(reason: HbmeshError): void;
  /** The same for one key of a request whose keys end one by one. */
  stopKey(keyIndex: number): void;
}

/**
 * How long the sidecar may take to confirm that a request was stopped, the time for its bytes apart: those that move at
 * that moment may have to come to their end.
 */
export const STOP_GRACE_MS = 2_000;

export class Requests {
  readonly #native: NativeClient;
  readonly #node: string;
  readonly #clock: Clock;
  #lastId = 0n;

  constructor(native: NativeClient, node: string, clock: Clock) {
    this.#native = native;
    this.#node = node;
    this.#clock = clock;
  }

  /**
   * The sidecar's reply, whatever it says, and why the request was stopped if it was. Rejects with what the client core
   * found wrong, with RPC_DEADLINE_EXCEEDED or RPC_CANCELLED when the request was stopped for that, and with the cause
   * when the worker is lost.
   */
  async send(request: OutgoingRequest): Promise<AnsweredRequest> {
    return await this.start(request).answer;
  }

  /** Sends a request that goes on. Throws RPC_CANCELLED if its signal is aborted already. */
  start(request: OutgoingRequest): OngoingRequest {
    if (request.signal?.aborted) {
      throw abortError(request.signal, request.what);
    }
    this.#lastId += 1n;
    const requestId = this.#lastId;
    const outcome = createDeferred<NativeReply>();
    let stopped: HbmeshError | undefined;
    let over = false;
    let grace: Timer | undefined;
    const { timeoutMs, stopMs = STOP_GRACE_MS } = request;
    const stop = (reason: HbmeshError): void => {
      if (stopped === undefined && !over) {
        stopped = reason;
        grace = this.#clock.setTimer(stopMs, () => outcome.reject(unconfirmed(reason, this.#node, stopMs)));
        this.#native.cancel(requestId);
      }
    };
    const onAbort = (): void => stop(abortError(request.signal as AbortSignal, request.what));
    const timer =
      timeoutMs === undefined
        ? undefined
        : this.#clock.setTimer(timeoutMs, () => stop(this.#expired(request.what, timeoutMs)));
    request.signal?.addEventListener("abort", onAbort, { once: true });
    this.#submit(requestId, request).then(outcome.resolve, outcome.reject);
    const answered = async (): Promise<AnsweredRequest> => {
      try {
        const reply = await outcome.promise;
        if (stopped !== undefined && reply.code === StatusCode.RPC_CANCELLED) {
          request.onEvents?.(reply.payload); // keys that ended in time did
          throw stopped;
        }
        return { reply, stopped }; // also when it came after the time was over: it is true
      } catch (error) {
        const failure = fromNativeError(error);
        throw stopped !== undefined && failure.code === StatusCode.RPC_CANCELLED ? stopped : failure;
      } finally {
        over = true;
        timer?.cancel();
        grace?.cancel();
        request.signal?.removeEventListener("abort", onAbort);
      }
    };
    return { answer: answered(), stop, stopKey: (keyIndex) => this.#native.cancelKey(requestId, keyIndex) };
  }

  async #submit(requestId: bigint, request: OutgoingRequest): Promise<NativeReply> {
    const { batch, op, args, onEvents } = request;
    try {
      return await this.#native.submit({
        requestId,
        op,
        args,
        deviceIndex: batch.deviceIndex,
        keys: batch.keys,
        keyCount: batch.keyCount,
        blobEnds: batch.blobEnds,
        pointers: batch.pointers,
        sizes: batch.sizes,
        ...(onEvents === undefined ? {} : { onEvents }),
      });
    } catch (error) {
      const key = error instanceof Error ? keyNamedIn(error.message, request.keys) : undefined;
      throw fromNativeError(error, { node: this.#node, ...(key === undefined ? {} : { key }) });
    }
  }

  #expired(what: string, timeoutMs: number): HbmeshError {
    return new HbmeshError(
      StatusCode.RPC_DEADLINE_EXCEEDED,
      `waited ${timeoutMs} ms for worker ${this.#node} to answer ${what}: ` +
        "look at the worker's log, or give a longer request timeout",
      { node: this.#node },
    );
  }
}

/** The sidecar was asked to stop for `reason`, and didn't say that it did. */
export function unconfirmed(reason: HbmeshError, node: string, stopMs: number): HbmeshError {
  return new HbmeshError(
    StatusCode.WORKER_TIMEOUT,
    `${reason.message}. The sidecar did not confirm within ${stopMs} ms that it stopped: ` +
      "don't reuse the device memory of this call, it may be in use until the sidecar has ended the call or itself",
    { node, cause: reason, ...(reason.key === undefined ? {} : { key: reason.key }) },
  );
}
