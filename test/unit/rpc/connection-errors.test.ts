/**
 * Goal: whoever can't connect is told host, port and cause, and no proxy of the environment is between our own parts.
 * Method: a table of the ways in which processes reach each other, and of what may be wrong there; all of it with
 * proxies in the environment that nobody serves.
 */
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { createClient } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { formatAddress } from "../../../src/base/address.js";
import { createSystemClock } from "../../../src/base/clock.js";
import { HbmeshError, StatusCode } from "../../../src/base/errors.js";
import { answerOf, clusterClient } from "../../../src/cli/api-client.js";
import { askHealth } from "../../../src/client/health.js";
import { DirectoryService } from "../../../src/gen/hbmesh/v1/directory_pb.js";
import { createEtcdStore, createRemoteStore } from "../../../src/metadata/index.js";
import { createLinkTransport, fromConnectError } from "../../../src/rpc/index.js";
import { freePort } from "../../cluster/etcd.js";

const clock = createSystemClock();
const TIMEOUT_MS = 300;
const PROXIES = ["http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];

/** Asks something of an address; rejects with what a user sees. */
type Ask = (address: string) => Promise<unknown>;

const askers: Record<string, { ask: Ask; names: boolean }> = {
  "the etcd store": {
    names: true,
    ask: async (address) => {
      const store = createEtcdStore([address], clock);
      await store.get("k", { timeoutMs: TIMEOUT_MS }).finally(() => store.close());
    },
  },
  "the embedded store of another process": {
    names: true,
    ask: async (address) => {
      const store = createRemoteStore(address);
      await store.get("k", { timeoutMs: TIMEOUT_MS }).finally(() => store.close());
    },
  },
  "the control link": {
    names: false,
    ask: async (address) => {
      const transport = createLinkTransport(address, { clock, connectTimeoutMs: TIMEOUT_MS });
      const client = createClient(DirectoryService, transport);
      try {
        await client.witness({});
      } catch (reason) {
        throw fromConnectError(reason);
      } finally {
        transport.close();
      }
    },
  },
  "a command": {
    names: true,
    ask: (address) => {
      const options = { worker: address, timeout_ms: TIMEOUT_MS };
      return answerOf(options, clusterClient(options).health({}));
    },
  },
  "a client's health check": { names: true, ask: (address) => askHealth(address, TIMEOUT_MS) },
};

/** A server that does this with each connection; its IP:PORT. */
const servers: Server[] = [];
async function serverThat(act: (socket: Socket) => void): Promise<string> {
  const open = new Set<Socket>();
  const server = createServer((socket) => {
    open.add(socket.on("error", () => {}));
    act(socket);
  });
  server.on("close", () => open.forEach((socket) => socket.destroy()));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const close = server.close.bind(server);
  server.close = (done) => {
    for (const socket of open) {
      socket.destroy();
    }
    return close(done);
  };
  servers.push(server);
  return formatAddress({ host: "127.0.0.1", port: (server.address() as AddressInfo).port });
}

const faults: { what: string; at: () => Promise<string>; isName?: boolean; cause: RegExp }[] = [
  {
    what: "nobody listens",
    at: async () => `127.0.0.1:${await freePort()}`,
    cause: /ECONNREFUSED/,
  },
  {
    what: "nobody listens at an IPv6 address",
    at: async () => `[::1]:${await freePort()}`,
    cause: /ECONNREFUSED/,
  },
  {
    what: "the name leads nowhere",
    at: async () => "nowhere.invalid:31501",
    isName: true,
    cause: /ENOTFOUND|EAI_AGAIN|leads to no address/,
  },
  {
    what: "nobody listens where a name leads to",
    at: async () => `localhost:${await freePort()}`,
    isName: true,
    cause: /ECONNREFUSED/,
  },
  {
    what: "it is silent",
    at: () => serverThat(() => {}),
    cause: new RegExp(`${TIMEOUT_MS} ms|timed out|did not answer`),
  },
  {
    what: "it closes the connection",
    at: () => serverThat((socket) => socket.destroy()),
    cause: /closed|ECONNRESET|socket hang up|aborted/,
  },
  {
    what: "it speaks another protocol",
    at: () => serverThat((socket) => socket.end("220 mail.example ESMTP\r\n")),
    cause: /protocol|Parse Error|HPE_|frame|Expected HTTP/i,
  },
];

describe("an error of a connection", () => {
  const before: Record<string, string | undefined> = {};

  beforeAll(() => {
    for (const name of [...PROXIES, "NODE_USE_ENV_PROXY", "no_proxy", "no_grpc_proxy", "NO_PROXY"]) {
      before[name] = process.env[name];
      delete process.env[name];
    }
    for (const name of PROXIES) {
      process.env[name] = "http://127.0.0.1:1";
    }
    process.env.NODE_USE_ENV_PROXY = "1";
  });

  afterAll(async () => {
    for (const [name, value] of Object.entries(before)) {
      if (value === undefined) {
        delete process.env[name];
      } else {
        process.env[name] = value;
      }
    }
    await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  });

  for (const [who, { ask, names }] of Object.entries(askers)) {
    it.each(faults.filter(({ isName }) => names || isName !== true))(`${who}: $what`, async ({ at, cause }) => {
      const address = await at();
      const error = await ask(address).then(
        () => undefined,
        (reason: unknown) => reason,
      );
      expect(error).toBeInstanceOf(HbmeshError);
      const { code, message, node } = error as HbmeshError;
      expect(message).toContain(address);
      expect(message).toMatch(cause);
      expect(message).not.toMatch(/undefined|null|\[object|127\.0\.0\.1:1\b|\(\)|: ;/);
      expect(node).toBe(address);
      expect([
        StatusCode.RPC_UNAVAILABLE,
        StatusCode.NO_AVAILABLE_WORKER,
        StatusCode.RPC_DEADLINE_EXCEEDED,
        StatusCode.DATA_INCONSISTENCY,
      ]).toContain(code);
    });
  }
});
