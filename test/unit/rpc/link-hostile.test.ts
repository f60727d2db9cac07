/**
 * Goal: whatever a peer of the control link does, only its own connection ends, what it can occupy is bounded, and the
 * others are served meanwhile. Method: raw sockets against a real server on loopback. Its deadlines are in virtual
 * time, so that "too late" is exact; a well-behaved client on a second connection shows that the server goes on.
 */

import { createServer, type Socket } from "node:net";
import { afterEach, describe, expect, it } from "vitest";
import { createVirtualClock } from "../../../src/base/clock.js";
import { createDeferred } from "../../../src/base/deadline.js";
import { StatusCode } from "../../../src/base/errors.js";
import {
  encodeFrame,
  encodeHello,
  encodeWelcome,
  FRAME_PAYLOAD_BYTES_MAX,
  FrameReader,
  FrameType,
} from "../../../src/rpc/link-frame.js";
import { until } from "../../cluster/commands.js";
import { createKeepingLogger, echo, errorOf, type Holder, hello, LinkBench, request } from "./link-peers.js";

const bench = new LinkBench();
afterEach(() => bench.close());

const roundTrip = async (holder: Holder): Promise<void> => {
  expect((await holder.drop({ objects: Uint8Array.of(5) })).codes).toEqual(Uint8Array.of(5));
};

const ofVersion = (version: number): Buffer => {
  const greeting = encodeHello({ hasToken: false, nonce: new Uint8Array(32) });
  greeting.writeUInt16LE(version, 4);
  return encodeFrame(FrameType.hello, 0, 0, 0, greeting);
};
const typed = (type: number, reserved = 0): Buffer => {
  const frame = request(1);
  frame.writeUInt8(type, 8);
  frame.writeUInt8(reserved, 9);
  return frame;
};
const longer = (bytes: number): Buffer => {
  const frame = request(1);
  frame.writeUInt32LE(bytes, 0);
  return frame;
};

describe("frames that break the rules", () => {
  it.each([
    ["HTTP", Buffer.from("GET / HTTP/1.1\r\nHost: x\r\n\r\n")],
    ["zeros", Buffer.alloc(4_096)],
    [
      "a hello that is cut short",
      encodeFrame(
        FrameType.hello,
        0,
        0,
        0,
        encodeHello({ hasToken: false, nonce: new Uint8Array(32) }).subarray(0, 20),
      ),
    ],
    ["a hello without a body", encodeFrame(FrameType.hello, 0, 0, 0)],
    ["a long frame before the greeting", encodeFrame(FrameType.hello, 0, 0, 0, new Uint8Array(257))],
    ["a request before the greeting", request(1)],
    ["a ping before the greeting", encodeFrame(FrameType.ping, 0, 0, 0)],
    [
      "a proof that nobody asked for",
      Buffer.concat([hello(), encodeFrame(FrameType.proof, 0, 0, 0, new Uint8Array(32))]),
    ],
    ["two hellos", Buffer.concat([hello(), hello()])],
    ["an unknown type", Buffer.concat([hello(), typed(10)])],
    ["type 0", Buffer.concat([hello(), typed(0)])],
    ["a welcome to a server", Buffer.concat([hello(), encodeFrame(FrameType.welcome, 0, 0, 0)])],
    ["a pong to a server", Buffer.concat([hello(), encodeFrame(FrameType.pong, 0, 0, 0)])],
    ["a length above the limit", Buffer.concat([hello(), longer(FRAME_PAYLOAD_BYTES_MAX + 1)])],
    ["the largest length", Buffer.concat([hello(), longer(2 ** 32 - 1)])],
    ["one stream twice", Buffer.concat([hello(), request(7), request(7)])],
    ["the reserved byte", Buffer.concat([hello(), typed(3, 1)])],
  ])("%s: its connection is closed, said in the log, and no other is touched", async (_, bytes) => {
    const { log, text } = createKeepingLogger();
    const server = await bench.serve(
      { ...echo, drop: (message) => Promise.resolve({ codes: message.objects }) },
      { log },
    );
    const good = bench.open(server.address);
    await roundTrip(good);
    const bad = await bench.dial(server.address);
    bad.socket.resume();
    await bad.send(bytes);
    await bad.closed;
    await roundTrip(good);
    expect(text()).toContain("closing a control link that broke the rules");
    expect(server.connections).toBe(1);
  });

  it.each([1, 3, 65_535])("version %i is answered with ours, then closed", async (version) => {
    const server = await bench.serve(echo);
    const peer = await bench.dial(server.address);
    await peer.send(ofVersion(version));
    const [welcome] = await peer.read(1);
    await peer.closed;
    expect(welcome).toMatchObject({ type: FrameType.welcome });
    expect(Buffer.from(welcome?.payload ?? []).readUInt16LE(4)).toBe(2);
  });

  it("random bytes after the greeting never disturb another connection (seeded)", async () => {
    const seed = Number(process.env.HBMESH_TEST_SEED ?? Date.now() % 2 ** 31);
    let state = seed >>> 0;
    const next = (): number => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
      return state >>> 8;
    };
    const server = await bench.serve(echo);
    const good = bench.open(server.address);
    for (let round = 0; round < 100; round += 1) {
      const peer = await bench.dial(server.address);
      peer.socket.resume();
      const noise = Buffer.from(Array.from({ length: 1 + (next() % 200) }, () => next() & 0xff));
      const frame = request(1 + (next() % 3), noise);
      // A frame whose head has one byte changed.
      frame.writeUInt8(next() & 0xff, next() % 16);
      await peer.send(...(next() % 2 === 0 ? [hello(), noise] : [hello(), frame]));
      peer.socket.end();
      await peer.closed;
    }
    await roundTrip(good);
    await until(`all are gone (seed ${seed})`, () => server.connections === 1);
  });
});

describe("peers that stop", () => {
  it("one that connects and says nothing is closed after the greeting's time", async () => {
    const clock = createVirtualClock();
    const server = await bench.serve(echo, { clock, helloTimeoutMs: 5_000 });
    const peer = await bench.dial(server.address);
    peer.socket.resume();
    await until("it was accepted", () => server.connections === 1);
    await clock.advance(4_999);
    expect(server.connections).toBe(1);
    await clock.advance(1);
    expect(server.connections).toBe(0);
    await peer.closed;
  });

  it("so is one that sends a greeting byte by byte", async () => {
    const clock = createVirtualClock();
    const server = await bench.serve(echo, { clock, helloTimeoutMs: 5_000 });
    const peer = await bench.dial(server.address);
    peer.socket.resume();
    await until("it was accepted", () => server.connections === 1);
    const greeting = hello();
    for (let at = 0; at < 50; at += 1) {
      await peer.send(greeting.subarray(at, at + 1));
      await clock.advance(100);
    }
    await peer.closed;
    expect(server.connections).toBe(0);
  });

  it("one that stops in the middle of a frame is closed; one that is just idle stays", async () => {
    const clock = createVirtualClock();
    const server = await bench.serve(echo, { clock, stallTimeoutMs: 30_000 });
    const idle = await bench.dial(server.address);
    await idle.send(hello());
    await idle.read(1);
    const half = await bench.dial(server.address);
    await half.send(hello(), request(1), request(2, new Uint8Array(100)).subarray(0, 50));
    await half.read(2);
    await clock.advance(29_999);
    expect(server.connections).toBe(2);
    await clock.advance(1);
    await half.closed;
    expect(server.connections).toBe(1);
    await clock.advance(3_600_000);
    await idle.send(request(1));
    await until("the idle one is answered", () => idle.frames.length === 2);
  });

  it("frames that arrive in pieces, one after the other, are in time each", async () => {
    const clock = createVirtualClock();
    const server = await bench.serve(echo, { clock, stallTimeoutMs: 30_000 });
    const peer = await bench.dial(server.address);
    const bytes = Buffer.concat([hello(), ...Array.from({ length: 10 }, (_, index) => request(index + 1))]);
    let sent = 56 + 8;
    await peer.send(bytes.subarray(0, sent));
    const reading = peer.read(11);
    while (sent < bytes.byteLength) {
      // Always ends in the middle of a frame: none may be measured by the time of another.
      await clock.advance(20_000);
      await peer.send(bytes.subarray(sent, sent + 16));
      sent += 16;
      await until("it was taken", () => peer.frames.length >= Math.floor((sent - 56) / 16));
    }
    await reading;
    expect(server.connections).toBe(1);
  });
});

describe("floods", () => {
  it("of connections without a greeting push out the oldest of their kind, never one that has greeted", async () => {
    const server = await bench.serve(echo, { greetingMax: 4 });
    const good = bench.open(server.address);
    await roundTrip(good);
    const silent = [];
    for (let index = 0; index < 10; index += 1) {
      const peer = await bench.dial(server.address);
      peer.socket.resume();
      silent.push(peer);
      await until("it was accepted", () => server.connections === 1 + Math.min(index + 1, 4) || undefined);
    }
    await Promise.all(silent.slice(0, 6).map(({ closed }) => closed));
    expect(server.connections).toBe(5);
    await roundTrip(good);
    await roundTrip(bench.open(server.address));
  });

  it("of connections end at the limit", async () => {
    const server = await bench.serve(echo, { connectionsMax: 3 });
    const good = [bench.open(server.address), bench.open(server.address), bench.open(server.address)];
    for (const each of good) {
      await roundTrip(each);
    }
    expect(await errorOf(bench.open(server.address).drop({}))).toMatchObject({ code: StatusCode.RPC_UNAVAILABLE });
    for (const each of good) {
      await roundTrip(each);
    }
  });

  it("of requests get TRY_AGAIN above the limits of number and of bytes, and the connection stays", async () => {
    const release = createDeferred<void>();
    const limits = { runningMax: 3, runningBytesMax: 1_000 };
    const server = await bench.serve({ drop: () => release.promise.then(() => ({})) }, limits);
    const peer = await bench.dial(server.address);
    await peer.send(hello(), request(1), request(2), request(3), request(4));
    await peer.read(2);
    expect(peer.frames[1]).toMatchObject({ type: FrameType.error, stream: 4, argument: StatusCode.TRY_AGAIN });
    const heavy = await bench.dial(server.address);
    await heavy.send(hello(), request(1, new Uint8Array(1_001)));
    await heavy.read(2);
    expect(heavy.frames[1]).toMatchObject({ type: FrameType.error, stream: 1, argument: StatusCode.TRY_AGAIN });
    release.resolve();
    await until("the three are answered", () => peer.frames.length === 5);
    expect(server.connections).toBe(2);
  });

  it("a peer that doesn't take its answers is not read from, until it does", async () => {
    const large = new Uint8Array(12 * 2 ** 20);
    let calls = 0;
    const drop = (): { codes: Uint8Array } => {
      calls += 1;
      return { codes: large };
    };
    const server = await bench.serve({ ...echo, drop }, { unsentPauseBytes: 2 ** 20 });
    const slow = await bench.dial(server.address);
    await slow.send(hello(), request(1));
    await until("the answer waits", () => calls === 1);
    const other = bench.open(server.address);
    await slow.send(request(2), request(3));
    expect((await other.drop({})).codes.byteLength).toBe(large.byteLength);
    expect((await other.drop({})).codes.byteLength).toBe(large.byteLength);
    expect(calls).toBe(3);
    const frames = await slow.read(4);
    expect(frames.slice(1).map(({ stream, payload }) => [stream, payload.byteLength > large.byteLength])).toEqual([
      [1, true],
      [2, true],
      [3, true],
    ]);
    expect(calls).toBe(5);
  });

  it("what it may leave untaken is bounded in bytes: above, its connection is closed", async () => {
    const large = new Uint8Array(4 * 2 ** 20);
    const server = await bench.serve({ drop: () => ({ codes: large }) }, { unsentBytesMax: 16 * 2 ** 20 });
    const greedy = await bench.dial(server.address);
    await greedy.send(hello(), ...Array.from({ length: 200 }, (_, index) => request(index + 1)));
    await until("it is closed", () => server.connections === 0);
    await bench.open(server.address).drop({});
  });

  it("and in time: one that takes nothing is closed", async () => {
    const clock = createVirtualClock();
    const large = new Uint8Array(12 * 2 ** 20);
    let calls = 0;
    const drop = (): { codes: Uint8Array } => {
      calls += 1;
      return { codes: large };
    };
    const server = await bench.serve({ drop }, { clock, unsentPauseBytes: 2 ** 20, stallTimeoutMs: 30_000 });
    const slow = await bench.dial(server.address);
    await slow.send(hello(), request(1));
    await until("the answer waits", () => calls === 1);
    await clock.settle();
    await until("nothing more is read", async () => {
      await clock.advance(30_000);
      return server.connections === 0;
    });
    await slow.socket.destroy();
  });
});

describe("servers that go silent", () => {
  const silentServer = async (answersPings: boolean): Promise<{ address: string; close: () => Promise<void> }> => {
    const sockets: Socket[] = [];
    const server = createServer((socket) => {
      sockets.push(socket);
      socket.on("error", () => {});
      const welcome = { hasToken: false, nonce: new Uint8Array(32), proof: new Uint8Array(32) };
      const methods = ["hbmesh.v1.HolderService/Drop"];
      const reader = new FrameReader(({ type }) => {
        if (type === FrameType.hello) {
          socket.write(encodeFrame(FrameType.welcome, 0, 0, 0, encodeWelcome({ ...welcome, methods })));
        } else if (type === FrameType.ping && answersPings) {
          socket.write(encodeFrame(FrameType.pong, 0, 0, 0));
        }
      });
      socket.on("data", (chunk: Buffer) => reader.push(chunk));
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return {
      address: `127.0.0.1:${(server.address() as { port: number }).port}`,
      close: () => {
        sockets.forEach((socket) => socket.destroy());
        return new Promise((resolve) => server.close(() => resolve()));
      },
    };
  };

  it("a call ends after three pings without a sign of life, and not before; later ones fail at once until a probe connects", async () => {
    const server = await silentServer(false);
    const clock = createVirtualClock();
    const changes: boolean[] = [];
    let lost = 0;
    const onLost = (): void => {
      lost += 1;
    };
    const holder = bench.open(server.address, {
      clock,
      onLost,
      onReach: ({ isReachable }) => {
        changes.push(isReachable);
        if (!isReachable) {
          // While it is so: the probe has not connected yet.
          atOnce = errorOf(holder.drop({}));
        }
      },
    });
    let atOnce: ReturnType<typeof errorOf> | undefined;
    let ended = false;
    const call = errorOf(holder.drop({})).finally(() => {
      ended = true;
    });
    await until("the call is under way", () => clock.pendingTimers === 1);
    await clock.advance(699);
    expect(ended).toBe(false);
    await clock.advance(1);
    const message = `the control process at ${server.address} can't be reached`;
    expect(await call).toMatchObject({
      code: StatusCode.RPC_UNAVAILABLE,
      node: server.address,
      message: expect.stringContaining(`${message} (no sign of life for 700 ms)`),
    });
    expect(await atOnce).toMatchObject({
      code: StatusCode.RPC_UNAVAILABLE,
      node: server.address,
      message: expect.stringContaining(`${message}, for 0 ms now (no sign of life for 700 ms)`),
    });
    await until("the probe has connected", () => changes.length === 2);
    expect([changes, lost]).toEqual([[false, true], 1]);
    await server.close();
  });

  it("a call whose answer takes long goes on as long as pings are answered", async () => {
    const release = createDeferred<void>();
    let pings = 0;
    const server = await bench.serve({ drop: () => release.promise.then(() => ({ codes: Uint8Array.of(1) })) });
    const clock = createVirtualClock();
    const holder = bench.open(server.address, { clock });
    const other = bench.open(server.address);
    const call = holder.drop({});
    await until("the call is under way", () => clock.pendingTimers === 1);
    for (; pings < 10; pings += 1) {
      await clock.advance(175);
      // The pong is here when a later round trip over loopback is done.
      await errorOf(other.describe({}));
      await errorOf(other.describe({}));
    }
    release.resolve();
    expect((await call).codes).toEqual(Uint8Array.of(1));
  });
});
