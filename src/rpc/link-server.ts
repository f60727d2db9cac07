/**
 * The serving end of the lean link. A connection that breaks the rules is closed, and only that one; a request that fails answers an error
 * and leaves the connection as it is.
 */
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { formatAddress, parseAddress } from "../base/address.js";
import type { Clock, Timer } from "../base/clock.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import { fromConnectError } from "./connect-errors.js";
import {
  decodeHello,
  encodeError,
  encodeFrame,
  encodeHello,
  type Frame,
  FrameReader,
  FrameType,
} from "./link-frame.js";
import type { LinkRoutes } from "./link-routes.js";
import { openFrameWriter } from "./link-writer.js";

export interface LinkServerOptions {
  /** IP:PORT to listen at; port 0 takes a free one. */
  address: string;
  routes: LinkRoutes;
  clock: Clock;
  log: Logger;
  /** Requests of one connection that may run at once; more answer TRY_AGAIN. Default 4,096. */
  runningMax?: number;
  /** A connection that hasn't said hello by then is closed. Default 5,000. */
  helloTimeoutMs?: number;
}

export interface LinkServer {
  /** With the real port. */
  readonly address: string;
  /** Ends every connection; running requests are aborted. */
  close(): Promise<void>;
}

/** Rejects with NOT_READY naming the address when it can't be listened at. */
export async function createLinkServer(options: LinkServerOptions): Promise<LinkServer> {
  const { host, port } = parseAddress(options.address, "the link address");
  const connections = new Set<Connection>();
  const server = createServer({ noDelay: true, keepAlive: true }, (socket) => {
    const connection = new Connection(socket, options, () => connections.delete(connection));
    connections.add(connection);
  });
  await listen(server, host, port, options.address);
  const bound = server.address() as AddressInfo;
  return {
    address: formatAddress({ host, port: bound.port }),
    async close() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const connection of connections) {
        connection.end(new HbmeshError(StatusCode.SHUTTING_DOWN, "this control process is shutting down"));
      }
      await closed;
    },
  };
}

function listen(server: Server, host: string, port: number, address: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const onError = (cause: NodeJS.ErrnoException): void => {
      const remedy = cause.code === "EADDRINUSE" ? "another process has this port; choose another one" : cause.message;
      reject(
        new HbmeshError(StatusCode.NOT_READY, `can't listen for control processes at ${address}: ${remedy}`, { cause }),
      );
    };
    server.once("error", onError);
    server.listen({ host, port }, () => {
      server.off("error", onError);
      resolve();
    });
  });
}

/** One accepted connection: waits for hello, then answers requests until either end closes. */
class Connection {
  readonly #socket: Socket;
  readonly #options: LinkServerOptions;
  readonly #write: (frame: Buffer) => void;
  readonly #running = new Map<number, AbortController>();
  readonly #onEnd: () => void;
  #helloTimer: Timer;
  #greeted = false;

  constructor(socket: Socket, options: LinkServerOptions, onEnd: () => void) {
    this.#socket = socket;
    this.#options = options;
    this.#onEnd = onEnd;
    this.#write = openFrameWriter(socket);
    this.#helloTimer = options.clock.setTimer(options.helloTimeoutMs ?? 5_000, () => {
      this.end(new HbmeshError(StatusCode.RPC_DEADLINE_EXCEEDED, "the peer said no hello"));
    });
    const reader = new FrameReader((frame) => this.#receive(frame));
    socket.on("data", (chunk: Buffer) => {
      try {
        reader.push(chunk);
      } catch (reason) {
        const error = HbmeshError.from(reason);
        options.log.warn(
          { peer: socket.remoteAddress, cause: error.message },
          "closing a control link that broke the rules",
        );
        this.end(error);
      }
    });
    socket.on("error", () => {});
    socket.on("close", () => this.end(new HbmeshError(StatusCode.RPC_CANCELLED, "the asking control process is gone")));
  }

  /** Aborts what runs and closes. May be called more than once. */
  end(reason: HbmeshError): void {
    this.#helloTimer.cancel();
    for (const running of this.#running.values()) {
      running.abort(reason);
    }
    this.#running.clear();
    this.#socket.destroy();
    this.#onEnd();
  }

  #receive(frame: Frame): void {
    switch (frame.type) {
      case FrameType.hello:
        return this.#greet(frame);
      case FrameType.request:
        return this.#start(frame);
      case FrameType.cancel:
        this.#running.get(frame.stream)?.abort(new HbmeshError(StatusCode.RPC_CANCELLED, "the caller gave up"));
        return;
      default:
        throw new HbmeshError(StatusCode.DATA_INCONSISTENCY, `a server receives no frames of type ${frame.type}`);
    }
  }

  #greet(frame: Frame): void {
    if (this.#greeted) {
      throw new HbmeshError(StatusCode.DATA_INCONSISTENCY, "the peer said hello twice");
    }
    // Welcome goes out even to another version, so that the peer can name the difference.
    this.#write(encodeFrame(FrameType.welcome, 0, 0, 0, encodeHello(this.#options.routes.methods.join("\n"))));
    decodeHello(frame.payload);
    this.#greeted = true;
    this.#helloTimer.cancel();
  }

  #start(frame: Frame): void {
    if (!this.#greeted || frame.stream === 0 || this.#running.has(frame.stream)) {
      throw new HbmeshError(StatusCode.DATA_INCONSISTENCY, `a request on stream ${frame.stream} is not allowed now`);
    }
    const runningMax = this.#options.runningMax ?? 4_096;
    if (this.#running.size >= runningMax) {
      this.#fail(
        frame.stream,
        new HbmeshError(StatusCode.TRY_AGAIN, `${runningMax} requests of this peer are running already`),
      );
      return;
    }
    void this.#run(frame);
  }

  async #run(frame: Frame): Promise<void> {
    const { stream } = frame;
    const controller = new AbortController();
    const timeoutMs = frame.argument === 0 ? undefined : frame.argument;
    this.#running.set(stream, controller);
    const timer =
      timeoutMs === undefined
        ? undefined
        : this.#options.clock.setTimer(timeoutMs, () => {
            controller.abort(new HbmeshError(StatusCode.RPC_DEADLINE_EXCEEDED, `not done within ${timeoutMs} ms`));
          });
    try {
      const reply = await this.#options.routes.call(frame.method, frame.payload, {
        signal: controller.signal,
        timeoutMs,
      });
      this.#send(encodeFrame(FrameType.reply, stream, 0, 0, reply), stream, controller);
    } catch (reason) {
      if (this.#running.get(stream) === controller) {
        this.#fail(stream, fromConnectError(reason));
      }
    } finally {
      timer?.cancel();
      if (this.#running.get(stream) === controller) {
        this.#running.delete(stream);
      }
    }
  }

  #send(frame: Buffer, stream: number, controller: AbortController): void {
    if (this.#running.get(stream) === controller) {
      this.#write(frame);
    }
  }

  #fail(stream: number, error: HbmeshError): void {
    this.#write(encodeFrame(FrameType.error, stream, 0, error.code, encodeError(error)));
  }
}
