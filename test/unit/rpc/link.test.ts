/**
 * Goal: the lean link carries calls as Connect's Transport promises, keeps its limits, and survives peers that break
 * its rules or die. Method: real TCP on free ports, with a server whose handlers the test controls; broken peers speak
 * raw bytes.
 */
import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";
import { type Client, createClient } from "@connectrpc/connect";
import { afterEach, describe, expect, it } from "vitest";
import { parseAddress } from "../../../src/base/address.js";
import { createSystemClock } from "../../../src/base/clock.js";
import { createDeferred } from "../../../src/base/deadline.js";
import { HbmeshError, StatusCode } from "../../../src/base/errors.js";
import { createSilentLogger } from "../../../src/base/log.js";
import { StoreService } from "../../../src/gen/hbmesh/v1/cluster_pb.js";
import { DirectoryService, HolderService } from "../../../src/gen/hbmesh/v1/directory_pb.js";
import {
  createLinkRoutes,
  createLinkServer,
  createLinkTransport,
  fromConnectError,
  type LinkServer,
  type LinkTransport,
  type LinkTransportOptions,
} from "../../../src/rpc/index.js";
import {
  encodeFrame,
  encodeHello,
  FRAME_HEADER_BYTES,
  FRAME_PAYLOAD_BYTES_MAX,
  type Frame,
  FrameReader,
  FrameType,
} from "../../../src/rpc/link-frame.js";
import type { LinkServiceImpl } from "../../../src/rpc/link-routes.js";

const clock = createSystemClock();
const log = createSilentLogger();
/** A greeting without a token. */
const stranger = { hasToken: false, nonce: new Uint8Array(32) };
const opened: { close(): unknown }[] = [];

afterEach(async () => {
  for (const each of opened.splice(0).reverse()) {
    await each.close();
  }
});

async function serve(
  holder: Partial<LinkServiceImpl<typeof HolderService>>,
  options: { address?: string; runningMax?: number } = {},
): Promise<LinkServer> {
  const routes = createLinkRoutes().service(HolderService, holder).service(StoreService, {});
  const server = await createLinkServer({ address: options.address ?? "127.0.0.1:0", routes, clock, log, ...options });
  opened.push(server);
  return server;
}

function open(
  address: string,
  options: Partial<LinkTransportOptions> = {},
): { transport: LinkTransport; holder: Client<typeof HolderService> } {
  const transport = createLinkTransport(address, { clock, ...options });
  opened.push(transport);
  return { transport, holder: createClient(HolderService, transport) };
}

/** The call's error as ours. */
async function errorOf(call: Promise<unknown>): Promise<HbmeshError> {
  try {
    await call;
  } catch (reason) {
    return fromConnectError(reason);
  }
  throw new Error("the call did not fail");
}

const echo: Partial<LinkServiceImpl<typeof HolderService>> = { drop: ({ objects }) => ({ codes: objects }) };

describe("frames", () => {
  it("are the bytes that the format's example shows", () => {
    const frame = encodeFrame(FrameType.request, 7, 3, 250, Uint8Array.of(8, 1));
    expect(frame.toString("hex")).toBe("0200000007000000030003" + "00fa0000000801");
  });

  it("are read the same however the stream is cut", () => {
    const sent = [0, 1, 15, 16, 17, 300].map((bytes, index) =>
      encodeFrame(FrameType.reply, index + 1, 0, 0, new Uint8Array(bytes).fill(index)),
    );
    const stream = Buffer.concat(sent);
    for (const size of [1, 2, 7, 15, 16, 17, 33, stream.byteLength]) {
      const frames: Frame[] = [];
      const reader = new FrameReader((frame) => frames.push({ ...frame, payload: frame.payload.slice() }));
      for (let at = 0; at < stream.byteLength; at += size) {
        reader.push(stream.subarray(at, at + size));
      }
      expect(frames.map(({ stream: id, payload }) => [id, payload.byteLength, payload[0] ?? -1])).toEqual(
        sent.map((frame, index) => [
          index + 1,
          frame.byteLength - FRAME_HEADER_BYTES,
          frame.byteLength === FRAME_HEADER_BYTES ? -1 : index,
        ]),
      );
    }
  });

  it("are refused above the limit, by sender and by receiver", () => {
    expect(() => encodeFrame(1, 0, 0, 0, new Uint8Array(FRAME_PAYLOAD_BYTES_MAX))).not.toThrow();
    expect(() => encodeFrame(1, 0, 0, 0, new Uint8Array(FRAME_PAYLOAD_BYTES_MAX + 1))).toThrow(/split the batch/);
    const header = encodeFrame(FrameType.reply, 1, 0, 0);
    header.writeUInt32LE(FRAME_PAYLOAD_BYTES_MAX + 1, 0);
    expect(() => new FrameReader(() => {}).push(header)).toThrow(/not a frame of the control link/);
  });
});

describe("the lean link", () => {
  it("carries calls, many at once, each with its own answer", async () => {
    const { holder } = open((await serve(echo)).address);
    const answers = await Promise.all(
      Array.from({ length: 200 }, (_, index) => holder.drop({ objects: new Uint8Array(index).fill(index) })),
    );
    expect(answers.map(({ codes }) => [codes.byteLength, codes[0] ?? 0])).toEqual(
      answers.map((_, index) => [index, index]),
    );
  });

  it("carries messages of many megabytes", async () => {
    const { holder } = open((await serve(echo)).address);
    const objects = new Uint8Array(12 * 2 ** 20).fill(7);
    expect((await holder.drop({ objects })).codes.byteLength).toBe(objects.byteLength);
    const tooLarge = holder.drop({ objects: new Uint8Array(FRAME_PAYLOAD_BYTES_MAX) });
    expect(await errorOf(tooLarge)).toMatchObject({ code: StatusCode.OUT_OF_RANGE });
  });

  it("an error keeps its number, text, key and node", async () => {
    const thrown = new HbmeshError(StatusCode.KEY_ALREADY_EXISTS, "it is there", { key: "ä b", node: "10.0.0.1:1" });
    const { holder } = open((await serve({ drop: () => Promise.reject(thrown) })).address);
    expect(await errorOf(holder.drop({}))).toMatchObject({
      code: StatusCode.KEY_ALREADY_EXISTS,
      message: "it is there",
      key: "ä b",
      node: "10.0.0.1:1",
    });
  });

  it("a deadline ends the call and aborts the handler", async () => {
    const aborted = createDeferred<unknown>();
    const server = await serve({
      drop: (_, { signal }) =>
        new Promise((_resolve, reject) => {
          signal.addEventListener("abort", () => {
            aborted.resolve(signal.reason);
            reject(signal.reason as Error);
          });
        }),
    });
    const { holder } = open(server.address);
    expect(await errorOf(holder.drop({}, { timeoutMs: 50 }))).toMatchObject({
      code: StatusCode.RPC_DEADLINE_EXCEEDED,
      node: server.address,
    });
    expect(await aborted.promise).toBeInstanceOf(HbmeshError);
  });

  it("a signal ends the call and aborts the handler, and the connection goes on", async () => {
    const started = createDeferred<void>();
    const aborted = createDeferred<void>();
    const server = await serve({
      drop: (_, { signal }) => {
        signal.addEventListener("abort", () => aborted.resolve());
        started.resolve();
        return new Promise(() => {});
      },
      describe: () => ({ objects: [] }),
    });
    const { holder } = open(server.address);
    const ending = new AbortController();
    const call = errorOf(holder.drop({}, { signal: ending.signal }));
    await started.promise;
    ending.abort();
    expect((await call).code).toBe(StatusCode.RPC_CANCELLED);
    await aborted.promise;
    expect((await holder.describe({})).objects).toEqual([]);
  });

  it("a peer that dies ends every pending call, naming it; the next call connects again", async () => {
    const server = await serve({ drop: () => new Promise(() => {}) });
    const { holder } = open(server.address, { connectTimeoutMs: 1_000 });
    const calls = Array.from({ length: 5 }, () => errorOf(holder.drop({})));
    const probe = errorOf(holder.describe({}));
    expect((await probe).code).toBe(StatusCode.NOT_SUPPORTED);
    await server.close();
    for (const error of await Promise.all(calls)) {
      expect(error).toMatchObject({ code: StatusCode.RPC_UNAVAILABLE, node: server.address });
    }
    expect(await errorOf(holder.drop({}))).toMatchObject({
      code: StatusCode.RPC_UNAVAILABLE,
      node: server.address,
      message: expect.stringContaining("check that the worker runs"),
    });
    await serve(echo, { address: server.address });
    expect((await holder.drop({ objects: Uint8Array.of(1) })).codes).toEqual(Uint8Array.of(1));
  });

  it("limits what is outstanding, at the asking and at the serving end", async () => {
    const release = createDeferred<void>();
    const server = await serve({ drop: () => release.promise.then(() => ({})) }, { runningMax: 3 });
    const few = open(server.address, { outstandingMax: 2 }).holder;
    const many = open(server.address).holder;
    await errorOf(few.describe({}));
    const fewCalls = [few.drop({}), few.drop({})];
    expect(await errorOf(few.drop({}))).toMatchObject({
      code: StatusCode.TRY_AGAIN,
      message: expect.stringContaining("2 calls to"),
    });
    await errorOf(many.describe({}));
    const manyCalls = [many.drop({}), many.drop({}), many.drop({})];
    expect(await errorOf(many.drop({}))).toMatchObject({
      code: StatusCode.TRY_AGAIN,
      message: expect.stringContaining("3 requests"),
    });
    release.resolve();
    await Promise.all([...fewCalls, ...manyCalls]);
  });

  it("streams, unknown services and closed transports say so", async () => {
    const server = await serve(echo);
    const { transport } = open(server.address);
    const store = createClient(StoreService, transport);
    const watch = store.watch({ prefix: "" })[Symbol.asyncIterator]().next();
    expect(await errorOf(watch)).toMatchObject({
      code: StatusCode.NOT_SUPPORTED,
      message: expect.stringContaining("is a stream"),
    });
    expect(await errorOf(store.get({}))).toMatchObject({ code: StatusCode.NOT_SUPPORTED });
    const directory = createClient(DirectoryService, transport);
    expect(await errorOf(directory.lookup({}))).toMatchObject({
      code: StatusCode.NOT_SUPPORTED,
      message: expect.stringContaining("does not offer"),
    });
    transport.close();
    expect(await errorOf(store.get({}))).toMatchObject({ code: StatusCode.SHUTTING_DOWN });
  });

  it("a taken port is named, with the remedy", async () => {
    const server = await serve(echo);
    await expect(serve(echo, { address: server.address })).rejects.toMatchObject({
      code: StatusCode.NOT_READY,
      message: `can't listen for control processes at ${server.address}: another process has this port; stop it, or choose another one`,
    });
  });
});

describe("a peer that breaks the rules", () => {
  const dial = async (address: string): Promise<Socket> => {
    const socket = connect(parseAddress(address, "address"));
    socket.on("error", () => {});
    await once(socket, "connect");
    return socket;
  };

  it.each([
    ["bytes that are no frame", Buffer.from("GET / HTTP/1.1\r\nHost: x\r\n\r\n")],
    ["another magic", encodeFrame(FrameType.hello, 0, 0, 0, new Uint8Array(8))],
    ["a request before hello", encodeFrame(FrameType.request, 1, 0, 0)],
    [
      "two hellos",
      Buffer.concat([encodeFrame(1, 0, 0, 0, encodeHello(stranger)), encodeFrame(1, 0, 0, 0, encodeHello(stranger))]),
    ],
    [
      "stream 0",
      Buffer.concat([encodeFrame(1, 0, 0, 0, encodeHello(stranger)), encodeFrame(FrameType.request, 0, 0, 0)]),
    ],
    [
      "a reply to a server",
      Buffer.concat([encodeFrame(1, 0, 0, 0, encodeHello(stranger)), encodeFrame(FrameType.reply, 1, 0, 0)]),
    ],
  ])("%s: only its connection is closed", async (_, bytes) => {
    const server = await serve(echo);
    const { holder } = open(server.address);
    await holder.drop({});
    const socket = await dial(server.address);
    const closed = once(socket, "close");
    socket.resume();
    socket.write(bytes);
    await closed;
    expect((await holder.drop({ objects: Uint8Array.of(5) })).codes).toEqual(Uint8Array.of(5));
  });

  it("a request that can't be decoded answers INVALID and keeps the connection", async () => {
    const server = await serve(echo);
    const socket = await dial(server.address);
    const frames: Frame[] = [];
    const answered = createDeferred<void>();
    const reader = new FrameReader((frame) => {
      frames.push(frame);
      if (frames.length === 3) {
        answered.resolve();
      }
    });
    socket.on("data", (chunk: Buffer) => reader.push(chunk));
    socket.write(encodeFrame(FrameType.hello, 0, 0, 0, encodeHello(stranger)));
    socket.write(encodeFrame(FrameType.request, 1, 0, 0, Uint8Array.of(0xff)));
    socket.write(encodeFrame(FrameType.request, 2, 999, 0));
    await answered.promise;
    socket.destroy();
    expect(
      frames
        .slice(1)
        .map(({ type, stream, argument }) => [type, stream, argument])
        .sort(),
    ).toEqual([
      [FrameType.error, 1, StatusCode.INVALID],
      [FrameType.error, 2, StatusCode.NOT_SUPPORTED],
    ]);
  });

  const fakeServer = async (answer: (socket: Socket) => void): Promise<string> => {
    const sockets: Socket[] = [];
    const server: Server = createServer((socket) => {
      sockets.push(socket);
      socket.on("error", () => {});
      answer(socket);
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    opened.push({
      close: () => {
        sockets.forEach((socket) => socket.destroy());
        return new Promise<void>((resolve) => server.close(() => resolve()));
      },
    });
    return `127.0.0.1:${(server.address() as { port: number }).port}`;
  };

  it("a server that speaks something else is named", async () => {
    const address = await fakeServer((socket) => socket.end("HTTP/1.1 400 Bad Request\r\n\r\n"));
    const { holder } = open(address);
    expect(await errorOf(holder.drop({}))).toMatchObject({ code: StatusCode.DATA_INCONSISTENCY, node: address });
  });

  it("a server of another version is named, with the remedy", async () => {
    const hello = encodeHello(stranger);
    hello.writeUInt16LE(9, 4);
    const address = await fakeServer((socket) => socket.write(encodeFrame(FrameType.welcome, 0, 0, 0, hello)));
    const { holder } = open(address);
    expect(await errorOf(holder.drop({}))).toMatchObject({
      code: StatusCode.NOT_SUPPORTED,
      message: expect.stringContaining("install the same release"),
    });
  });

  it("a server that says nothing is given up after the connect timeout", async () => {
    const address = await fakeServer(() => {});
    const { holder } = open(address, { connectTimeoutMs: 50 });
    expect(await errorOf(holder.drop({}))).toMatchObject({ code: StatusCode.RPC_UNAVAILABLE, node: address });
  });
});
