/**
 * A request whose keys end one by one: its futures, and the replies that settle them. Each future ends exactly once: by
 * its event, or with the request, whatever ends that.
 */
import type { Clock, Timer } from "../base/clock.js";
import { createDeferred, type Deferred } from "../base/deadline.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { fromNativeError } from "../sidecar/native-errors.js";
import type { TransferPath } from "./batch-result.js";
import { type KeyStep, type ReplyContext, type ReplyDecoder, refusal } from "./reply.js";
import {
  type AnsweredRequest,
  type OngoingRequest,
  type OutgoingRequest,
  type Requests,
  STOP_GRACE_MS,
  unconfirmed,
} from "./requests.js";
import { type FutureOwner, TransferFuture } from "./transfer-future.js";

export class KeyedRequest implements FutureOwner {
  readonly futures: readonly TransferFuture[];
  /**
   * Resolves once every key was accepted or has ended. Rejects when the request failed before anything was said of a
   * key: then nothing was done.
   */
  readonly accepted: Promise<void>;
  readonly clock: Clock;
  readonly what: string;
  readonly #context: ReplyContext;
  readonly #decoder: ReplyDecoder;
  readonly #allAccepted: Deferred<void> = createDeferred();
  readonly #told: Set<number> = new Set();
  readonly #graces = new Map<number, Timer>();
  readonly #request: OngoingRequest;
  readonly #stopMs: number;
  #note = "";

  /** Sends it. Throws RPC_CANCELLED if its signal is aborted already. */
  constructor(
    requests: Requests,
    outgoing: Omit<OutgoingRequest, "onEvents">,
    decoding: { decoder: ReplyDecoder; context: ReplyContext; clock: Clock },
  ) {
    this.clock = decoding.clock;
    this.what = outgoing.what;
    this.#stopMs = outgoing.stopMs ?? STOP_GRACE_MS;
    this.#context = decoding.context;
    this.#decoder = decoding.decoder;
    this.futures = outgoing.keys.map((key, index) => new TransferFuture(this, key, index));
    this.accepted = this.#allAccepted.promise;
    this.accepted.catch(() => {}); // whoever doesn't wait for it has the futures
    this.#request = requests.start({ ...outgoing, onEvents: (payload) => this.#take(payload) });
    this.#request.answer.then(
      (answered) => this.#end(answered),
      (error: unknown) => this.#fail(fromNativeError(error, { node: this.node })),
    );
  }

  get node(): string {
    return this.#context.node;
  }

  /** The first text that came with an acceptance: a reservation's ticket. */
  get note(): string {
    return this.#note;
  }

  /** Ends what is still open, with `reason` once the sidecar has confirmed it. */
  stop(reason: HbmeshError): void {
    this.#request.stop(reason);
  }

  cancelKey(keyIndex: number): void {
    if (this.#graces.has(keyIndex)) {
      return;
    }
    const key = this.futures[keyIndex]?.key ?? "";
    const reason = new HbmeshError(
      StatusCode.RPC_CANCELLED,
      `key ${JSON.stringify(key)} of ${this.what} was cancelled by its caller`,
      { key, node: this.node },
    );
    const expired = (): void => this.#settle(keyIndex, unconfirmed(reason, this.node, this.#stopMs));
    const timer = this.clock.setTimer(this.#stopMs, expired);
    this.#graces.set(keyIndex, timer);
    this.#request.stopKey(keyIndex);
  }

  #take(payload: Uint8Array): void {
    try {
      const { steps, paths, messages } = this.#decoder.decodeEvents(payload, this.#context);
      if (steps.length === 0 && this.#note === "") {
        this.#note = messages;
      }
      for (const step of steps) {
        this.#step(step, paths);
      }
    } catch (error) {
      this.stop(fromNativeError(error));
    }
  }

  #step(step: KeyStep, paths: readonly TransferPath[]): void {
    this.#told.add(step.keyIndex);
    if (step.ended) {
      const { key } = this.futures[step.keyIndex] as TransferFuture;
      const path = paths.map((each) => each.text).join("; ");
      this.#settle(
        step.keyIndex,
        step.code === StatusCode.OK
          ? { key, bytes: step.bytes, paths, path: path === "" ? "none" : path }
          : new HbmeshError(step.code, step.message, { key, node: this.node }),
      );
    } else if (this.#note === "") {
      this.#note = step.message;
    }
    if (this.#told.size === this.futures.length) {
      this.#allAccepted.resolve();
    }
  }

  #settle(keyIndex: number, outcome: Parameters<TransferFuture["settle"]>[0]): void {
    this.#graces.get(keyIndex)?.cancel();
    this.futures[keyIndex]?.settle(outcome);
  }

  #end({ reply, stopped }: AnsweredRequest): void {
    this.#take(reply.payload);
    if (reply.code === StatusCode.OK) {
      this.#fail(malformedEnd(this.what, this.node)); // settles nothing when every key has ended
      return;
    }
    const { messages, steps } = this.#decodeLast(reply.payload);
    this.#fail(stopped ?? refusal(reply.code, steps === 0 ? messages : "", this.#context));
  }

  #decodeLast(payload: Uint8Array): { messages: string; steps: number } {
    try {
      const { messages, steps } = this.#decoder.decodeEvents(payload, this.#context);
      return { messages, steps: steps.length };
    } catch {
      return { messages: "", steps: 0 };
    }
  }

  /** Ends every key that is open with `reason`. */
  #fail(reason: HbmeshError): void {
    for (const [index, future] of this.futures.entries()) {
      const { code, message } = reason;
      const key = reason.key ?? future.key;
      this.#settle(index, new HbmeshError(code, message, { key, node: reason.node ?? this.node, cause: reason.cause }));
    }
    if (this.#told.size === 0) {
      this.#allAccepted.reject(reason);
    } else {
      this.#allAccepted.resolve();
    }
  }
}

function malformedEnd(what: string, node: string): HbmeshError {
  return new HbmeshError(
    StatusCode.DATA_INCONSISTENCY,
    `worker ${node} ended ${what} without a word on this key: worker and client must be of the same release`,
    { node },
  );
}
