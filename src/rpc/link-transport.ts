/**
 * The asking end of the lean link: Connect's Transport over one TCP connection to one peer.
 *
 * Connects at first use, and again at the next use after a loss. A loss ends every pending call with RPC_UNAVAILABLE
 * naming the peer: calls are never repeated here, since only the caller knows whether that is harmless. Unary calls
 * only; a stream rejects with NOT_SUPPORTED.
 */
import type { Socket } from "node:net";
import type {
  DescMessage,
  DescMethodStreaming,
  DescMethodUnary,
  MessageInitShape,
  MessageShape,
} from "@bufbuild/protobuf";
import type { StreamResponse, Transport, UnaryResponse } from "@connectrpc/connect";
import { parseAddress } from "../base/address.js";
import type { CancelSignal } from "../base/cancel.js";
import type { Clock, Timer } from "../base/clock.js";
import { causeOf } from "../base/connection-cause.js";
import { type Credentials, NO_CREDENTIALS } from "../base/credentials.js";
import { abortError, createDeferred, withDeadline } from "../base/deadline.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { toConnectError } from "./connect-errors.js";
import { codecOf } from "./link-codec.js";
import { decodeError, encodeFrame, type Frame, FrameReader, FrameType } from "./link-frame.js";
import { ClientGreeting } from "./link-greeting.js";
import { LinkReach, type ReachChange } from "./link-reach.js";
import { methodName } from "./link-routes.js";
import { connectSocket } from "./link-socket.js";
import { openFrameWriter } from "./link-writer.js";

export interface LinkTransportOptions {
  clock: Clock;
  /** Longest time for connecting and the greeting. Default 3,000. */
  connectTimeoutMs?: number;
  /** Calls that may wait for an answer; more reject with TRY_AGAIN. Default 4,096. */
  outstandingMax?: number;
  /** Bytes that may wait to be sent; above it calls reject with TRY_AGAIN. Default 64 MiB. */
  writeBufferBytesMax?: number;
  /** What is shown to peers, and what they have to show. Default: nothing. */
  credentials?: Credentials | undefined;
  /** A connection that was open has ended, though it was not closed here. */
  onLost?: (() => void) | undefined;
  /** The peer can't be reached any more, or can be again (link-reach.ts). */
  onReach?: ((change: ReachChange) => void) | undefined;
}

export interface LinkTransport extends Transport {
  /** Ends the connection and every pending call; later calls reject with SHUTTING_DOWN. */
  close(): void;
}

/** `address` is the peer's IP:PORT. */
export function createLinkTransport(address: string, options: LinkTransportOptions): LinkTransport {
  parseAddress(address, "the link address");
  return new LinkTransportImpl(address, options);
}

interface CallLimits {
  /** Of the method. */
  name: string;
  signal: CancelSignal | undefined;
  timeoutMs: number | undefined;
}

interface PendingCall extends CallLimits {
  resolve: (reply: Uint8Array) => void;
  reject: (reason: HbmeshError) => void;
  onAbort: () => void;
  dueMs: number;
}

/** A connection after the greeting. */
interface OpenConnection {
  socket: Socket;
  write: (frame: Buffer) => void;
  methods: ReadonlyMap<string, number>;
  pending: Map<number, PendingCall>;
  /** Calls are looked at when one of them may be late. */
  due: DueTimer;
}

/** A host that has not answered an attempt to connect after this time is asked anew: the packet may be lost. */
const ATTEMPT_MS = 400;
/** Methods whose answers may be tens of megabytes: the sizes of all blobs of many objects. */
const LONG_ANSWERS = /\bDescribe$/;
const UNANSWERED = new Error("its host does not answer");

class LinkTransportImpl implements LinkTransport {
  readonly #address: string;
  readonly #options: LinkTransportOptions;
  #connection: OpenConnection | undefined;
  #connecting: Promise<OpenConnection> | undefined;
  readonly #reach: LinkReach;
  #socket: Socket | undefined;
  #closed = false;
  #lastStream = 0;

  constructor(address: string, options: LinkTransportOptions) {
    this.#address = address;
    this.#options = options;
    this.#reach = new LinkReach({
      address,
      clock: options.clock,
      ping: () => this.#connection?.write(encodeFrame(FrameType.ping, 0, 0, 0)),
      lose: (why) => this.#socket?.destroy(why),
      connect: () => this.#open(undefined, undefined, "connecting"),
      isWaiting: () => this.#connecting !== undefined || (this.#connection?.pending.size ?? 0) > 0,
      onChange: options.onReach,
    });
  }

  async unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    signal: CancelSignal | undefined,
    timeoutMs: number | undefined,
    _header: unknown,
    input: MessageInitShape<I>,
  ): Promise<UnaryResponse<I, O>> {
    try {
      const request = codecOf(method.input).encode(input);
      const reply = await this.#call({ name: methodName(method), signal, timeoutMs }, request);
      return new LinkResponse(method, codecOf(method.output).decode(reply) as MessageShape<O>);
    } catch (reason) {
      throw toConnectError(reason);
    }
  }

  stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodStreaming<I, O>,
  ): Promise<StreamResponse<I, O>> {
    const message = `${methodName(method)} is a stream, which the control link doesn't carry; call it over Connect`;
    return Promise.reject(toConnectError(new HbmeshError(StatusCode.NOT_SUPPORTED, message)));
  }

  close(): void {
    this.#closed = true;
    this.#reach.close();
    this.#socket?.destroy();
  }

  #call(limits: CallLimits, request: Uint8Array): Promise<Uint8Array> {
    const { name, signal, timeoutMs } = limits;
    if (signal?.aborted) {
      throw abortError(signal, name);
    }
    this.#reach.called({ isLong: LONG_ANSWERS.test(name) });
    return this.#connection === undefined
      ? this.#open(signal, timeoutMs, name).then((connection) => this.#submit(connection, request, limits))
      : this.#submit(this.#connection, request, limits);
  }

  /** Connecting is shared by the calls that wait for it; each waits no longer than it may. */
  #open(signal: CancelSignal | undefined, timeoutMs: number | undefined, what: string): Promise<OpenConnection> {
    if (this.#closed) {
      return Promise.reject(this.#error(StatusCode.SHUTTING_DOWN, `the control link to ${this.#address} was closed`));
    }
    this.#connecting ??= this.#connect().finally(() => {
      this.#connecting = undefined;
    });
    return withDeadline(this.#connecting, {
      clock: this.#options.clock,
      timeoutMs,
      signal,
      what: `${what} at ${this.#address}`,
    });
  }

  async #connect(): Promise<OpenConnection> {
    const { clock, connectTimeoutMs = 3_000 } = this.#options;
    const untilMs = clock.monotonicMs() + connectTimeoutMs;
    for (;;) {
      const leftMs = untilMs - clock.monotonicMs();
      try {
        return await this.#tryToConnect(leftMs);
      } catch (reason) {
        const isUnanswered = reason instanceof HbmeshError && reason.cause === UNANSWERED;
        if (this.#closed || !isUnanswered || leftMs <= ATTEMPT_MS) {
          throw reason;
        }
      }
    }
  }

  async #tryToConnect(timeoutMs: number): Promise<OpenConnection> {
    const { clock, credentials = NO_CREDENTIALS } = this.#options;
    const greeting = new ClientGreeting(credentials);
    const opened = createDeferred<OpenConnection>();
    const pending = new Map<number, PendingCall>();
    const socket = connectSocket(this.#address, credentials.tls, () => write(greeting.hello()));
    this.#socket = socket;
    const write = openFrameWriter(socket);
    let cause: Error | undefined;
    const unanswered = clock.setTimer(ATTEMPT_MS, () => socket.destroy(UNANSWERED));
    socket.once("connect", () => unanswered.cancel());
    const due = new DueTimer(clock, (nowMs) => this.#endLate(nowMs));
    const reader = new FrameReader((frame) => {
      if (this.#connection?.socket === socket) {
        receive(frame, pending, this.#address);
      } else {
        const methods = greeting.welcome(payloadOfWelcome(frame), write);
        this.#connection = { socket, write, methods, pending, due };
        opened.resolve(this.#connection);
      }
    });
    socket.on("data", (chunk: Buffer) => {
      this.#reach.heard();
      try {
        reader.push(chunk);
      } catch (reason) {
        cause = HbmeshError.from(reason);
        socket.destroy();
      }
    });
    socket.on("error", (error) => {
      cause ??= error;
    });
    socket.on("close", () => {
      unanswered.cancel();
      due.stop();
      const lost = this.#lost(cause);
      const wasOpen = this.#connection?.socket === socket;
      if (wasOpen) {
        this.#connection = undefined;
        this.#reach.ended();
      }
      opened.reject(lost);
      for (const stream of pending.keys()) {
        settle(pending, stream)?.reject(lost);
      }
      if (wasOpen && !this.#closed) {
        this.#options.onLost?.();
      }
    });
    const what = `connecting to the control process at ${this.#address}`;
    const limits = { clock, timeoutMs, what, code: StatusCode.RPC_UNAVAILABLE };
    try {
      return await withDeadline(opened.promise, limits);
    } catch (reason) {
      socket.destroy();
      const error = HbmeshError.from(reason, StatusCode.RPC_UNAVAILABLE);
      throw error.node === undefined ? this.#error(error.code, error.message, error) : error;
    }
  }

  #submit(connection: OpenConnection, request: Uint8Array, limits: CallLimits): Promise<Uint8Array> {
    const { name, signal, timeoutMs } = limits;
    const method = connection.methods.get(name);
    if (method === undefined) {
      const message = `${this.#address} does not offer ${name}; install the same release on both`;
      throw this.#error(StatusCode.NOT_SUPPORTED, message);
    }
    this.#checkRoom(connection);
    const stream = this.#nextStream(connection);
    const limitMs = Math.ceil(Math.min(timeoutMs ?? 0, 2 ** 32 - 1));
    connection.write(encodeFrame(FrameType.request, stream, method, limitMs, request));
    return new Promise((resolve, reject) => {
      const dueMs = timeoutMs === undefined ? Number.POSITIVE_INFINITY : this.#options.clock.monotonicMs() + timeoutMs;
      const onAbort = (): void => {
        this.#giveUp(connection, stream, abortError(signal as CancelSignal, `${name} at ${this.#address}`));
      };
      connection.pending.set(stream, { name, signal, timeoutMs, resolve, reject, onAbort, dueMs });
      signal?.addEventListener("abort", onAbort, { once: true });
      connection.due.expect(dueMs);
    });
  }

  #giveUp({ pending, write }: OpenConnection, stream: number, error: HbmeshError): void {
    const call = settle(pending, stream);
    if (call !== undefined) {
      write(encodeFrame(FrameType.cancel, stream, 0, 0));
      call.reject(error);
    }
  }

  /** Ends the calls whose time is over. Returns when the next one's is. */
  #endLate(nowMs: number): number {
    let nextMs = Number.POSITIVE_INFINITY;
    for (const [stream, { name, timeoutMs, dueMs }] of this.#connection?.pending ?? []) {
      if (dueMs <= nowMs) {
        const message = `${this.#address} did not answer ${name} within ${timeoutMs} ms`;
        const error = this.#error(StatusCode.RPC_DEADLINE_EXCEEDED, message);
        this.#giveUp(this.#connection as OpenConnection, stream, error);
      } else {
        nextMs = Math.min(nextMs, dueMs);
      }
    }
    return nextMs;
  }

  #checkRoom(connection: OpenConnection): void {
    const outstandingMax = this.#options.outstandingMax ?? 4_096;
    if (connection.pending.size >= outstandingMax) {
      throw this.#error(
        StatusCode.TRY_AGAIN,
        `${outstandingMax} calls to ${this.#address} wait for answers already; try again later`,
      );
    }
    const bytesMax = this.#options.writeBufferBytesMax ?? 64 * 2 ** 20;
    if (connection.socket.writableLength > bytesMax) {
      throw this.#error(
        StatusCode.TRY_AGAIN,
        `${this.#address} takes messages slower than they are sent; try again later`,
      );
    }
  }

  /** Numbers come round after 2^32 calls; one that is still in use is left out. */
  #nextStream(connection: OpenConnection): number {
    do {
      this.#lastStream = this.#lastStream >= 2 ** 32 - 1 ? 1 : this.#lastStream + 1;
    } while (connection.pending.has(this.#lastStream));
    return this.#lastStream;
  }

  #lost(cause: Error | undefined): HbmeshError {
    if (this.#closed) {
      return this.#error(StatusCode.SHUTTING_DOWN, `the control link to ${this.#address} was closed`, cause);
    }
    if (cause instanceof HbmeshError) {
      return this.#error(cause.code, `${this.#address}: ${cause.message}`, cause);
    }
    const known = cause ?? Object.assign(new Error("it closed the connection"), { code: "ECONNRESET" });
    const message = `the control process at ${this.#address} can't be reached (${causeOf(known)}); check that the worker runs`;
    return this.#error(StatusCode.RPC_UNAVAILABLE, message, known);
  }

  #error(code: StatusCode, message: string, cause?: unknown): HbmeshError {
    return new HbmeshError(code, message, { node: this.#address, ...(cause === undefined ? {} : { cause }) });
  }
}

/**
 * One timer for the deadlines of all calls of a connection. It is set for the earliest, and not cancelled with it: most
 * calls are answered long before.
 */
class DueTimer {
  readonly #clock: Clock;
  readonly #onDue: (nowMs: number) => number;
  #timer: Timer | undefined;
  #dueMs = Number.POSITIVE_INFINITY;

  /** `onDue` returns when it is to be called again. */
  constructor(clock: Clock, onDue: (nowMs: number) => number) {
    this.#clock = clock;
    this.#onDue = onDue;
  }

  expect(dueMs: number): void {
    if (dueMs < this.#dueMs) {
      this.#timer?.cancel();
      this.#dueMs = dueMs;
      this.#timer = this.#clock.setTimer(dueMs - this.#clock.monotonicMs(), () => this.#fire());
    }
  }

  stop(): void {
    this.#timer?.cancel();
  }

  #fire(): void {
    this.#timer = undefined;
    this.#dueMs = Number.POSITIVE_INFINITY;
    this.expect(this.#onDue(this.#clock.monotonicMs()));
  }
}

function payloadOfWelcome(frame: Frame): Uint8Array {
  if (frame.type !== FrameType.welcome) {
    throw new HbmeshError(
      StatusCode.DATA_INCONSISTENCY,
      `the peer's first frame has type ${frame.type} and is no welcome`,
    );
  }
  return frame.payload;
}

/** An answer without a waiting call came too late; that is allowed. */
function receive(frame: Frame, pending: Map<number, PendingCall>, address: string): void {
  if (frame.type === FrameType.reply) {
    settle(pending, frame.stream)?.resolve(frame.payload);
  } else if (frame.type === FrameType.error) {
    settle(pending, frame.stream)?.reject(decodeError(frame.argument, frame.payload, address));
  } else if (frame.type !== FrameType.pong) {
    throw new HbmeshError(StatusCode.DATA_INCONSISTENCY, `a client receives no frames of type ${frame.type}`);
  }
}

/** The call no longer waits: whoever takes it out ends it. */
function settle(pending: Map<number, PendingCall>, stream: number): PendingCall | undefined {
  const call = pending.get(stream);
  if (call !== undefined) {
    pending.delete(stream);
    call.signal?.removeEventListener("abort", call.onAbort);
  }
  return call;
}

/** Headers are made only for who looks at them: making them costs more than the rest of a call. */
class LinkResponse<I extends DescMessage, O extends DescMessage> implements UnaryResponse<I, O> {
  readonly stream = false;
  readonly service: DescMethodUnary<I, O>["parent"];
  #header: Headers | undefined;
  #trailer: Headers | undefined;

  constructor(
    readonly method: DescMethodUnary<I, O>,
    readonly message: MessageShape<O>,
  ) {
    this.service = method.parent;
  }

  get header(): Headers {
    this.#header ??= new Headers();
    return this.#header;
  }

  get trailer(): Headers {
    this.#trailer ??= new Headers();
    return this.#trailer;
  }
}
