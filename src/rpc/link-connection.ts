/** One accepted connection of the lean link: waits for the greeting, then answers requests until either end closes. */
import type { Socket } from "node:net";
import { Canceller } from "../base/cancel.js";
import type { Timer } from "../base/clock.js";
import { NO_CREDENTIALS } from "../base/credentials.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { fromConnectError } from "./connect-errors.js";
import {
  encodeError,
  encodeFrame,
  FRAME_PAYLOAD_BYTES_MAX,
  type Frame,
  FrameReader,
  FrameType,
  GREETING_PAYLOAD_BYTES_MAX,
} from "./link-frame.js";
import { ServerGreeting } from "./link-greeting.js";
import type { LinkServerOptions } from "./link-server.js";
import { openFrameWriter } from "./link-writer.js";

interface Events {
  /** The peer has greeted, and proved what it had to. */
  onReady: () => void;
  /** It broke the rules, or does not belong to this cluster. For the log. */
  onRefused: (peer: string | undefined, cause: string) => void;
  /** Once. */
  onEnd: () => void;
}

interface RunningRequest {
  canceller: Canceller;
  bytes: number;
}

const LAST_WORDS_MS = 500;

export class LinkConnection {
  readonly #socket: Socket;
  readonly #options: LinkServerOptions;
  readonly #events: Events;
  readonly #greeting: ServerGreeting;
  readonly #writeFrame: (frame: Buffer) => void;
  readonly #running = new Map<number, RunningRequest>();
  readonly #reader = new FrameReader((frame) => this.#receive(frame), GREETING_PAYLOAD_BYTES_MAX);
  /** Until the greeting, then for the rest of a frame, or for room for answers. */
  #deadline: Timer | undefined;
  #runningBytes = 0;
  #frames = 0;
  #isReady = false;
  #isPaused = false;
  #hasEnded = false;

  constructor(socket: Socket, options: LinkServerOptions, events: Events) {
    this.#socket = socket;
    this.#options = options;
    this.#events = events;
    this.#greeting = new ServerGreeting(options.credentials ?? NO_CREDENTIALS);
    this.#writeFrame = openFrameWriter(socket);
    this.#setDeadline(options.helloTimeoutMs ?? 5_000, "the peer did not greet in time");
    // Read on after the end, so that what is left doesn't turn the last words into a reset.
    socket.on("data", (chunk: Buffer) => this.#read(chunk));
    socket.on("drain", () => this.#resume());
    socket.on("error", () => {});
    socket.on("close", () => this.end(new HbmeshError(StatusCode.RPC_CANCELLED, "the asking control process is gone")));
  }

  /** Aborts what runs and closes. May be called more than once. */
  end(reason: HbmeshError): void {
    if (this.#settle(reason)) {
      this.#socket.destroy();
    }
  }

  /**
   * As end(), for what the peer did; told to onRefused. What was written so far, such as a welcome, still goes out, so
   * that the peer can name what is wrong.
   */
  #refuse(error: HbmeshError): void {
    if (!this.#settle(error)) {
      return;
    }
    this.#events.onRefused(this.#socket.remoteAddress, error.message);
    const timer = this.#options.clock.setTimer(LAST_WORDS_MS, () => this.#socket.destroy());
    this.#socket.once("close", () => timer.cancel());
    this.#socket.destroySoon();
  }

  /** False: it has ended already. */
  #settle(reason: HbmeshError): boolean {
    if (this.#hasEnded) {
      return false;
    }
    this.#hasEnded = true;
    this.#deadline?.cancel();
    for (const { canceller } of this.#running.values()) {
      canceller.abort(reason);
    }
    this.#running.clear();
    this.#events.onEnd();
    return true;
  }

  #read(chunk: Buffer): void {
    if (this.#hasEnded) {
      return;
    }
    const wasInFrame = this.#reader.isInFrame;
    const framesBefore = this.#frames;
    try {
      this.#reader.push(chunk);
    } catch (reason) {
      this.#refuse(HbmeshError.from(reason));
      return;
    }
    if (!this.#isReady || this.#isPaused || this.#hasEnded) {
      return;
    }
    if (!this.#reader.isInFrame) {
      this.#deadline?.cancel();
    } else if (!wasInFrame || this.#frames !== framesBefore) {
      this.#setDeadline(this.#stallTimeoutMs, "the peer stopped in the middle of a frame");
    }
  }

  get #stallTimeoutMs(): number {
    return this.#options.stallTimeoutMs ?? 30_000;
  }

  #setDeadline(timeoutMs: number, what: string): void {
    this.#deadline?.cancel();
    this.#deadline = this.#options.clock.setTimer(timeoutMs, () => {
      this.#refuse(new HbmeshError(StatusCode.RPC_DEADLINE_EXCEEDED, what));
    });
  }

  #receive(frame: Frame): void {
    this.#frames += 1;
    switch (frame.type) {
      case FrameType.hello:
        return this.#greet(frame);
      case FrameType.proof:
        this.#greeting.checkProof(frame.payload);
        return this.#becomeReady();
      case FrameType.request:
        return this.#start(frame);
      case FrameType.cancel:
        this.#running
          .get(frame.stream)
          ?.canceller.abort(new HbmeshError(StatusCode.RPC_CANCELLED, "the caller gave up"));
        return;
      case FrameType.ping:
        this.#requireReady(frame);
        return this.#write(encodeFrame(FrameType.pong, 0, 0, 0));
      default:
        throw new HbmeshError(StatusCode.DATA_INCONSISTENCY, `a server receives no frames of type ${frame.type}`);
    }
  }

  #greet(frame: Frame): void {
    if (this.#greeting.hasGreeted) {
      throw new HbmeshError(StatusCode.DATA_INCONSISTENCY, "the peer said hello twice");
    }
    if (this.#greeting.greet(frame.payload, this.#options.routes.methods, (each) => this.#write(each))) {
      this.#becomeReady();
    }
  }

  #becomeReady(): void {
    if (this.#isReady) {
      throw new HbmeshError(StatusCode.DATA_INCONSISTENCY, "the peer proved itself twice");
    }
    this.#isReady = true;
    this.#deadline?.cancel();
    this.#reader.payloadBytesMax = FRAME_PAYLOAD_BYTES_MAX;
    this.#events.onReady();
  }

  #requireReady({ type, stream }: Frame): void {
    if (!this.#isReady) {
      const message = `a frame of type ${type} on stream ${stream} is not allowed before the greeting`;
      throw new HbmeshError(StatusCode.DATA_INCONSISTENCY, message);
    }
  }

  #start(frame: Frame): void {
    this.#requireReady(frame);
    const { stream, payload } = frame;
    if (stream === 0 || this.#running.has(stream)) {
      throw new HbmeshError(StatusCode.DATA_INCONSISTENCY, `a request on stream ${stream} is not allowed now`);
    }
    const { runningMax = 4_096, runningBytesMax = 256 * 2 ** 20 } = this.#options;
    if (this.#running.size >= runningMax || this.#runningBytes + payload.byteLength > runningBytesMax) {
      const what =
        this.#running.size >= runningMax ? `${runningMax} requests` : `${this.#runningBytes} bytes of requests`;
      this.#fail(stream, new HbmeshError(StatusCode.TRY_AGAIN, `${what} of this peer are running already`));
      return;
    }
    this.#call(frame);
  }

  /** What is answered at once never counts as running. */
  #call({ stream, argument, method, payload }: Frame): void {
    const canceller = new Canceller();
    const timeoutMs = argument === 0 ? undefined : argument;
    try {
      const reply = this.#options.routes.call(method, payload, { signal: canceller, timeoutMs });
      if (reply instanceof Promise) {
        void this.#await(stream, reply, { canceller, bytes: payload.byteLength }, timeoutMs);
      } else {
        this.#write(encodeFrame(FrameType.reply, stream, 0, 0, reply));
      }
    } catch (reason) {
      this.#fail(stream, fromConnectError(reason));
    }
  }

  async #await(
    stream: number,
    reply: Promise<Uint8Array>,
    request: RunningRequest,
    timeoutMs: number | undefined,
  ): Promise<void> {
    this.#running.set(stream, request);
    this.#runningBytes += request.bytes;
    const timer =
      timeoutMs === undefined
        ? undefined
        : this.#options.clock.setTimer(timeoutMs, () => {
            const late = `not done within ${timeoutMs} ms`;
            request.canceller.abort(new HbmeshError(StatusCode.RPC_DEADLINE_EXCEEDED, late));
          });
    try {
      const frame = encodeFrame(FrameType.reply, stream, 0, 0, await reply);
      if (this.#running.get(stream) === request) {
        this.#write(frame);
      }
    } catch (reason) {
      if (this.#running.get(stream) === request) {
        this.#fail(stream, fromConnectError(reason));
      }
    } finally {
      timer?.cancel();
      this.#runningBytes -= request.bytes;
      if (this.#running.get(stream) === request) {
        this.#running.delete(stream);
      }
    }
  }

  #fail(stream: number, error: HbmeshError): void {
    this.#write(encodeFrame(FrameType.error, stream, 0, error.code, encodeError(error)));
  }

  /**
   * A peer that takes its answers slower than it asks is not read from; one that lets too many of them pile up, or
   * takes none for long, is closed.
   */
  #write(frame: Buffer): void {
    if (this.#hasEnded) {
      return;
    }
    this.#writeFrame(frame);
    const unsentBytes = this.#socket.writableLength;
    const { unsentPauseBytes = 8 * 2 ** 20, unsentBytesMax = 64 * 2 ** 20 } = this.#options;
    if (unsentBytes > unsentBytesMax) {
      this.#refuse(new HbmeshError(StatusCode.TRY_AGAIN, `the peer left ${unsentBytes} bytes of answers untaken`));
    } else if (unsentBytes > unsentPauseBytes && !this.#isPaused) {
      this.#isPaused = true;
      this.#socket.pause();
      this.#watchUnsent();
    }
  }

  #watchUnsent(): void {
    const { bytesWritten, writableLength } = this.#socket;
    const takenBytes = bytesWritten - writableLength;
    this.#deadline?.cancel();
    this.#deadline = this.#options.clock.setTimer(this.#stallTimeoutMs, () => {
      if (this.#socket.bytesWritten - this.#socket.writableLength > takenBytes) {
        this.#watchUnsent();
        return;
      }
      this.#refuse(new HbmeshError(StatusCode.RPC_DEADLINE_EXCEEDED, "the peer takes no answers"));
    });
  }

  #resume(): void {
    if (this.#isPaused && !this.#hasEnded) {
      this.#isPaused = false;
      this.#deadline?.cancel();
      if (this.#reader.isInFrame) {
        this.#setDeadline(this.#stallTimeoutMs, "the peer stopped in the middle of a frame");
      }
      this.#socket.resume();
    }
  }
}
