/**
 * Goal: a server ends soon after it was told to, whatever its clients do with their connections; with TLS and without.
 * Method: real servers of each kind and raw clients that keep a connection in every stage it can be in. One client asks
 * again as soon as it is answered, as `hbmesh stop` does. The limit is what the test is about: far above what a close
 * takes, and below all other limits that would end such a connection.
 */
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { connect as connectTls } from "node:tls";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { parseAddress } from "../../../src/base/address.js";
import { createSystemClock } from "../../../src/base/clock.js";
import { type Credentials, loadCredentials, NO_CREDENTIALS } from "../../../src/base/credentials.js";
import { createSilentLogger } from "../../../src/base/log.js";
import { createMemoryStore } from "../../../src/metadata/index.js";
import { createLinkRoutes, createLinkServer } from "../../../src/rpc/index.js";
import { startApiServer } from "../../../src/server/index.js";
import { createAuthority, type TlsFiles } from "../../support/certificates.js";

const LIMIT_MS = 8_000;
const GET = "GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n";
const WATCH_BODY = JSON.stringify({ prefix: "a" });
const WATCH =
  "POST /hbmesh.v1.StoreService/Watch HTTP/1.1\r\nhost: x\r\ncontent-type: application/connect+json\r\n" +
  `content-length: ${WATCH_BODY.length + 5}\r\n\r\n\0\0\0\0${String.fromCharCode(WATCH_BODY.length)}${WATCH_BODY}`;

let folder: string;
let files: TlsFiles;
const sockets: Socket[] = [];

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "hbmesh-close-"));
  files = createAuthority(folder, "cluster").issue("worker");
});

afterAll(() => {
  rmSync(folder, { recursive: true });
});

afterEach(() => {
  for (const socket of sockets.splice(0)) {
    socket.destroy();
  }
});

interface Served {
  address: string;
  close(): Promise<void>;
}

const kinds: [string, boolean, (credentials: Credentials) => Promise<Served>][] = [
  ["the API", false, (credentials) => serveApi(credentials)],
  ["the API", true, (credentials) => serveApi(credentials)],
  ["the control link", false, (credentials) => serveLink(credentials)],
  ["the control link", true, (credentials) => serveLink(credentials)],
];

async function serveApi(credentials: Credentials): Promise<Served> {
  const log = createSilentLogger();
  return startApiServer({ address: "127.0.0.1:0", log, store: createMemoryStore(createSystemClock()), credentials });
}

async function serveLink(credentials: Credentials): Promise<Served> {
  const log = createSilentLogger();
  const routes = createLinkRoutes();
  // Longer than the limit, so that nothing but the close ends a connection that says nothing.
  const helloTimeoutMs = 60_000;
  return createLinkServer({
    address: "127.0.0.1:0",
    clock: createSystemClock(),
    log,
    routes,
    credentials,
    helloTimeoutMs,
  });
}

/** Connected, and not greeted by anything. */
async function raw(address: string): Promise<Socket> {
  const { host, port } = parseAddress(address, "the test's server");
  const socket = connect({ host, port });
  await keep(socket, "connect");
  return socket;
}

/** Ready for the first byte, over TLS where the server has it. */
async function opened(address: string, { tls }: Credentials): Promise<Socket> {
  if (tls === undefined) {
    return raw(address);
  }
  const { host, port } = parseAddress(address, "the test's server");
  const socket = connectTls({ host, port, ...tls });
  await keep(socket, "secureConnect");
  return socket;
}

async function keep(socket: Socket, event: string): Promise<void> {
  sockets.push(socket);
  socket.on("error", () => {});
  await once(socket, event);
}

describe.each(kinds)("%s, TLS %s: ends although a client", (what, hasTls, serve) => {
  const credentialsOf = (): Credentials => (hasTls ? loadCredentials(files) : NO_CREDENTIALS);
  const isHttp = what === "the API";

  const stages: [string, (address: string) => Promise<unknown>][] = [
    ["has connected and says nothing", (address) => raw(address)],
    ["has shaken hands and says nothing", (address) => opened(address, credentialsOf())],
    ["sends half of a request", async (address) => (await opened(address, credentialsOf())).write("GET /not")],
  ];
  if (isHttp) {
    stages.push(
      [
        "keeps a connection whose request was answered",
        async (address) => {
          const socket = await opened(address, credentialsOf());
          socket.write(GET);
          await once(socket, "data");
        },
      ],
      [
        "watches",
        async (address) => {
          const socket = await opened(address, credentialsOf());
          socket.write(WATCH, "latin1");
          await once(socket, "data");
        },
      ],
      [
        "asks again as soon as it is answered",
        async (address) => {
          const socket = await opened(address, credentialsOf());
          socket.on("data", () => socket.write(GET));
          socket.write(GET);
          await once(socket, "data");
        },
      ],
    );
  }

  it.each(stages)("%s", async (_stage, occupy) => {
    const server = await serve(credentialsOf());
    await occupy(server.address);
    // One whose handshake is under way just then.
    const { host, port } = parseAddress(server.address, "the test's server");
    const { tls } = credentialsOf();
    const late = tls === undefined ? connect({ host, port }) : connectTls({ host, port, ...tls });
    sockets.push(late.on("error", () => {}));
    late.once(hasTls ? "secureConnect" : "connect", () => late.write(GET)).on("data", () => late.write(GET));
    const ending = new AbortController();
    const result = await Promise.race([
      server.close().then(() => "closed"),
      delay(LIMIT_MS, "still open", { signal: ending.signal }),
    ]);
    ending.abort();
    expect(result).toBe("closed");
  });
});
