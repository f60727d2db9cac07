/**
 * What the tests of the lean link share: servers and transports that end with the test, and peers that speak raw bytes.
 */
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { type Client, createClient } from "@connectrpc/connect";
import { parseAddress } from "../../../src/base/address.js";
import { createSystemClock } from "../../../src/base/clock.js";
import type { HbmeshError } from "../../../src/base/errors.js";
import { createSilentLogger, type LogFields, type Logger } from "../../../src/base/log.js";
import { HolderService } from "../../../src/gen/hbmesh/v1/directory_pb.js";
import {
  createLinkRoutes,
  createLinkServer,
  createLinkTransport,
  fromConnectError,
  type LinkServer,
  type LinkServerOptions,
  type LinkTransportOptions,
} from "../../../src/rpc/index.js";
import { encodeFrame, encodeHello, type Frame, FrameReader, FrameType } from "../../../src/rpc/link-frame.js";
import type { LinkServiceImpl } from "../../../src/rpc/link-routes.js";

export type Holder = Client<typeof HolderService>;

/** Ends everything that it opened. */
export class LinkBench {
  readonly #opened: { close(): unknown }[] = [];

  async close(): Promise<void> {
    for (const each of this.#opened.splice(0).reverse()) {
      await each.close();
    }
  }

  async serve(
    holder: Partial<LinkServiceImpl<typeof HolderService>>,
    options: Partial<LinkServerOptions> = {},
  ): Promise<LinkServer> {
    const routes = createLinkRoutes().service(HolderService, holder);
    const defaults = { address: "127.0.0.1:0", clock: createSystemClock(), log: createSilentLogger() };
    const server = await createLinkServer({ ...defaults, routes, ...options });
    this.#opened.push(server);
    return server;
  }

  open(address: string, options: Partial<LinkTransportOptions> = {}): Holder {
    const transport = createLinkTransport(address, { clock: createSystemClock(), ...options });
    this.#opened.push(transport);
    return createClient(HolderService, transport);
  }

  async dial(address: string): Promise<RawPeer> {
    const socket = connect(parseAddress(address, "address"));
    this.#opened.push({ close: () => socket.destroy() });
    const peer = new RawPeer(socket);
    await once(socket, "connect");
    return peer;
  }
}

/** A peer that does only what it is told to. It reads nothing before read() is called. */
export class RawPeer {
  readonly socket: Socket;
  readonly frames: Frame[] = [];
  /** Resolves when the connection has ended. */
  readonly closed: Promise<unknown>;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on("error", () => {});
    this.closed = new Promise((resolve) => socket.once("close", resolve));
  }

  send(...frames: Buffer[]): Promise<void> {
    return new Promise((resolve) => {
      this.socket.write(Buffer.concat(frames), () => resolve());
    });
  }

  /** Resolves when `count` frames have come in all. */
  async read(count: number): Promise<Frame[]> {
    const reader = new FrameReader((frame) => this.frames.push({ ...frame, payload: frame.payload.slice() }));
    await new Promise<void>((resolve) => {
      this.socket.on("data", (chunk: Buffer) => {
        reader.push(chunk);
        if (this.frames.length >= count) {
          resolve();
        }
      });
    });
    return this.frames;
  }
}

/** A greeting of an end without a token. */
export const hello = (): Buffer =>
  encodeFrame(FrameType.hello, 0, 0, 0, encodeHello({ hasToken: false, nonce: new Uint8Array(32) }));

/** HolderService.Drop is method 0. */
export const request = (stream: number, payload: Uint8Array = new Uint8Array(0)): Buffer =>
  encodeFrame(FrameType.request, stream, 0, 0, payload);

export const echo: Partial<LinkServiceImpl<typeof HolderService>> = { drop: ({ objects }) => ({ codes: objects }) };

export async function errorOf(call: Promise<unknown>): Promise<HbmeshError> {
  try {
    await call;
  } catch (reason) {
    return fromConnectError(reason);
  }
  throw new Error("the call did not fail");
}

/** Keeps what was logged, as one text. */
export function createKeepingLogger(): { log: Logger; text: () => string } {
  const lines: string[] = [];
  const keep = (fields: LogFields, message: string): void => {
    const asText = (_: string, value: unknown): unknown => (typeof value === "bigint" ? value.toString() : value);
    lines.push(`${message} ${JSON.stringify(fields, asText)}`);
  };
  const log: Logger = { error: keep, warn: keep, info: keep, debug: keep, child: () => log };
  return { log, text: () => lines.join("\n") };
}
