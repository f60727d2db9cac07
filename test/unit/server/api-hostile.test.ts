/**
 * Goal: whatever a caller of the API does, only its own connection ends, what it can occupy is bounded, and others are
 * answered meanwhile. Method: raw sockets against a real server on loopback: half-open, dribbling, garbage, more than
 * there is room for, bodies that are sent and never end. After each a good request.
 */
import { connect, type Socket } from "node:net";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createSilentLogger } from "../../../src/base/log.js";
import { type ApiServer, startApiServer } from "../../../src/server/index.js";
import { until } from "../../cluster/commands.js";
import { FakeCluster, type FakeWorker } from "../control/fake-cluster.js";

const CONNECTIONS_MAX = 8;
const BODIES_BYTES_MAX = 4 * 2 ** 20;

interface Caller {
  socket: Socket;
  /** What it was told so far. */
  text: () => string;
  closed: Promise<void>;
  isClosed: () => boolean;
}

describe("hostile callers of the API", () => {
  let cluster: FakeCluster;
  let worker: FakeWorker;
  let server: ApiServer;
  let callers: Caller[] = [];

  const start = async (requestTimeoutMs?: number): Promise<void> => {
    server = await startApiServer({
      address: "127.0.0.1:0",
      log: createSilentLogger(),
      control: worker.control,
      connectionsMax: CONNECTIONS_MAX,
      requestTimeoutMs,
      bodiesBytesMax: BODIES_BYTES_MAX,
    });
  };

  beforeEach(async () => {
    cluster = new FakeCluster();
    worker = await cluster.start(1);
    await start();
  });

  afterEach(async () => {
    for (const { socket } of callers) {
      socket.destroy();
    }
    callers = [];
    await server.close();
    await cluster.close();
  });

  const dial = async (): Promise<Caller> => {
    const [host, port] = server.address.split(":") as [string, string];
    const socket = connect({ host, port: Number(port) });
    let text = "";
    let isClosed = false;
    socket.on("error", () => {});
    socket.on("data", (chunk: Buffer) => {
      text += chunk.toString("latin1");
    });
    const closed = new Promise<void>((resolve) =>
      socket.once("close", () => {
        isClosed = true;
        resolve();
      }),
    );
    await new Promise<void>((resolve) => socket.once("connect", resolve));
    const caller = { socket, text: () => text, closed, isClosed: () => isClosed };
    callers.push(caller);
    return caller;
  };

  const ask = (): Promise<Response> =>
    fetch(`http://${server.address}/hbmesh.v1.ObjectService/Exist`, {
      method: "POST",
      body: JSON.stringify({ keys: ["k"] }),
      headers: { "content-type": "application/json", connection: "close" },
    });
  const expectServes = async (): Promise<void> => {
    const response = await ask();
    expect(response.status).toBe(200);
    await response.arrayBuffer();
  };

  const head = (lines: string): string =>
    `POST /hbmesh.v1.ObjectService/Exist HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n${lines}\r\n`;

  it.each([
    ["garbage", "\0\u0001\u0002 what?\r\n\r\n"],
    ["the control link's greeting", "HBL1\u0002\0\0\0"],
    ["a head without an end", `GET / HTTP/1.1\r\n${"x".repeat(20_000)}`],
    ["two lengths", head("content-length: 5\r\ncontent-length: 7\r\n")],
    ["a negative length", head("content-length: -1\r\n")],
    ["a broken chunk", `${head("transfer-encoding: chunked\r\n")}zz\r\n`],
  ])("%s ends that connection", async (_, bytes) => {
    const bad = await dial();
    bad.socket.write(bytes, "latin1");
    await bad.closed;
    expect(bad.text()).toMatch(/^(HTTP\/1\.1 4\d\d |$)/);
    await expectServes();
  });

  it("those that say nothing, or half a head, or half a body, are closed when their time is over", async () => {
    await server.close();
    await start(400);
    const half = await dial();
    half.socket.write("POST / HTTP/1.1\r\nhost:");
    const body = await dial();
    body.socket.write(`${head("content-length: 100\r\n")}{`);
    const dribbling = await dial();
    dribbling.socket.write(head("content-length: 1000000\r\n"));
    const drip = setInterval(() => dribbling.socket.write(" "), 20);
    await expectServes();
    await Promise.all([half.closed, body.closed, dribbling.closed]);
    clearInterval(drip);
    await expectServes();
  });

  it("more connections than there is room for are closed, and those that are there go on", async () => {
    const first = await dial();
    const others = await Promise.all(Array.from({ length: 3 * CONNECTIONS_MAX }, dial));
    await until("the rest was closed", () => others.filter((each) => !each.isClosed()).length < CONNECTIONS_MAX);
    first.socket.write(`${head("content-length: 14\r\n")}{"keys":["k"]}`);
    await until("the first is answered", () => first.text().startsWith("HTTP/1.1 200"));
    for (const { socket } of others) {
      socket.destroy();
    }
    await until("the server knows that they are gone", () =>
      ask().then(
        (response) => response.ok,
        () => false,
      ),
    );
  });

  it("bodies that never end are bounded in bytes: the largest is closed, a small one stays", async () => {
    const small = await dial();
    small.socket.write(`${head("content-length: 14\r\n")}{"keys":`);
    const large = await Promise.all(Array.from({ length: 5 }, dial));
    for (const { socket } of large) {
      socket.write(head("transfer-encoding: chunked\r\n"));
      // A mebibyte each: five are over the limit.
      socket.write(`100000\r\n${" ".repeat(2 ** 20)}\r\n`);
    }
    await until("one of them was closed", () => large.some((each) => each.isClosed()));
    expect(small.isClosed()).toBe(false);
    small.socket.write('["k"]}');
    await until("the small one is answered", () => small.text().startsWith("HTTP/1.1 200"));
    await expectServes();
  });
});
