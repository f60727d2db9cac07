/**
 * Goal: only members of a cluster talk over its control link: those that have its token, or certificates of its
 * authority; who doesn't is told why, and learns nothing. Method: servers and transports with the same, other and no
 * credentials on loopback, and raw peers that lie. Certificates are made by openssl in a folder of the test.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { ClusterToken, type Credentials, loadCredentials, NO_CREDENTIALS } from "../../../src/base/credentials.js";
import { StatusCode } from "../../../src/base/errors.js";
import { decodeWelcome, encodeFrame, encodeHello, FrameType } from "../../../src/rpc/link-frame.js";
import { until } from "../../cluster/commands.js";
import { createAuthority, type TlsFiles } from "../../support/certificates.js";
import { createKeepingLogger, echo, errorOf, hello, LinkBench, request } from "./link-peers.js";

const bench = new LinkBench();
afterEach(() => bench.close());

const SECRET = "a-token-of-24-characters";
const withToken = (text = SECRET): Credentials => ({ token: new ClusterToken(text, "test"), tls: undefined });

describe("a cluster token", () => {
  it("lets those talk that have it", async () => {
    const server = await bench.serve(echo, { credentials: withToken() });
    const holder = bench.open(server.address, { credentials: withToken() });
    expect((await holder.drop({ objects: Uint8Array.of(1) })).codes).toEqual(Uint8Array.of(1));
  });

  it.each([
    [
      "another token",
      withToken(),
      withToken("another-token-of-this-test"),
      "it has another cluster token than this process",
    ],
    [
      "no token at the asking end",
      withToken(),
      NO_CREDENTIALS,
      "it asks for a cluster token, and this process has none",
    ],
    ["no token at the serving end", NO_CREDENTIALS, withToken(), "it has no cluster token, and this process has one"],
  ])("%s: named, with the remedy, and nothing is called", async (_, serving, asking, message) => {
    let called = false;
    const drop = (): Record<string, never> => {
      called = true;
      return {};
    };
    const server = await bench.serve({ drop }, { credentials: serving });
    const error = await errorOf(bench.open(server.address, { credentials: asking }).drop({}));
    expect(error).toMatchObject({
      code: StatusCode.NOT_AUTHORIZED,
      node: server.address,
      message: `${server.address}: ${message}; start all workers of a cluster with the same --cluster_token_file`,
    });
    expect(called).toBe(false);
    await until("its connection is closed", () => server.connections === 0);
  });

  it("never travels, and stands in no log", async () => {
    const { log, text } = createKeepingLogger();
    const server = await bench.serve(echo, { credentials: withToken(), log });
    const peer = await bench.dial(server.address);
    const heard: Buffer[] = [];
    peer.socket.on("data", (chunk: Buffer) => heard.push(chunk));
    const greeting = encodeHello({ hasToken: true, nonce: new Uint8Array(32) });
    await peer.send(
      encodeFrame(FrameType.hello, 0, 0, 0, greeting),
      encodeFrame(FrameType.proof, 0, 0, 0, Buffer.alloc(32)),
    );
    await peer.closed;
    expect(Buffer.concat(heard).includes(SECRET)).toBe(false);
    expect(text()).toContain("the peer has another cluster token");
    expect(text()).not.toContain(SECRET);
    const token = new ClusterToken(SECRET, "test");
    expect(JSON.stringify({ token })).not.toContain(SECRET);
    expect(String(token)).not.toContain(SECRET);
  });

  it("requests before the proof, a proof of the other end and a proof of an earlier connection close the connection", async () => {
    const token = new ClusterToken(SECRET, "test");
    const server = await bench.serve(echo, { credentials: withToken() });
    const nonce = Buffer.alloc(32, 7);
    const greeting = encodeFrame(FrameType.hello, 0, 0, 0, encodeHello({ hasToken: true, nonce }));
    const eager = await bench.dial(server.address);
    eager.socket.resume();
    await eager.send(greeting, request(1));
    await eager.closed;
    // What the server proved to a stranger is of no use to it.
    const mirror = await bench.dial(server.address);
    await mirror.send(greeting);
    const [welcome] = await mirror.read(1);
    const first = decodeWelcome(welcome?.payload ?? new Uint8Array(0));
    expect(token.accepts(first.proof, "hbmesh link server", nonce, first.nonce)).toBe(true);
    await mirror.send(encodeFrame(FrameType.proof, 0, 0, 0, first.proof));
    await mirror.closed;
    // A good proof is good for its own connection only.
    const again = await bench.dial(server.address);
    await again.send(greeting);
    await again.read(1);
    await again.send(
      encodeFrame(FrameType.proof, 0, 0, 0, token.proof("hbmesh link client", nonce, first.nonce)),
      request(1),
    );
    await again.closed;
    expect(again.frames).toHaveLength(1);
    const honest = await bench.dial(server.address);
    await honest.send(greeting);
    const second = decodeWelcome((await honest.read(1))[0]?.payload ?? new Uint8Array(0));
    expect(Buffer.from(second.nonce).equals(first.nonce)).toBe(false);
    await honest.send(
      encodeFrame(FrameType.proof, 0, 0, 0, token.proof("hbmesh link client", nonce, second.nonce)),
      request(1),
    );
    await until("it is answered", () => honest.frames.length === 2);
  });

  it("proofs are these bytes", () => {
    const proof = new ClusterToken(SECRET, "test").proof(
      "hbmesh link client",
      Buffer.alloc(32, 1),
      Buffer.alloc(32, 2),
    );
    // printf 'hbmesh link client\0<32 x 01><32 x 02>' | openssl dgst -sha256 -hmac a-token-of-24-characters
    expect(proof.toString("hex")).toBe("b2d3ea6f5346a4db74a7bc5518443806561e1eb0e7629253a5501709beff417f");
  });

  it.each([
    ["short-15-charac", false],
    ["16-characters-ok", true],
    ["x".repeat(512), true],
    ["x".repeat(513), false],
    ["two words-of-a-token", false],
    ["", false],
    ["tökentökentökentöken", false],
  ])("%s as a token: %s", (text, isGood) => {
    const make = (): ClusterToken => new ClusterToken(`${text}\n`, "--cluster_token_file f");
    if (isGood) {
      expect(make().matches(text)).toBe(true);
      expect(make().matches(`${text}x`)).toBe(false);
    } else {
      expect(make).toThrow(
        "--cluster_token_file f must have one token of 16 to 512 characters without blanks, and nothing else; make one: openssl rand -hex 32",
      );
    }
  });
});

describe("mutual TLS", () => {
  let folder: string;
  let worker: TlsFiles;
  let other: TlsFiles;
  let elsewhere: TlsFiles;

  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "hbmesh-tls-"));
    const authority = createAuthority(folder, "cluster");
    worker = authority.issue("worker");
    elsewhere = authority.issue("elsewhere", "IP:10.9.8.7");
    other = createAuthority(folder, "stranger").issue("worker");
  });

  afterAll(() => {
    rmSync(folder, { recursive: true });
  });

  it("lets those talk that the authority has signed, with the token too if there is one", async () => {
    const tokenFile = join(folder, "token");
    writeFileSync(tokenFile, `${SECRET}\n`);
    for (const credentials of [loadCredentials(worker), loadCredentials({ ...worker, clusterTokenFile: tokenFile })]) {
      const server = await bench.serve(echo, { credentials });
      const holder = bench.open(server.address, { credentials });
      expect((await holder.drop({ objects: Uint8Array.of(2) })).codes).toEqual(Uint8Array.of(2));
      const large = new Uint8Array(8 * 2 ** 20).fill(3);
      expect(Buffer.from(large).equals((await holder.drop({ objects: large })).codes)).toBe(true);
    }
  });

  it("a certificate of somebody else, of another address, none, and no TLS are refused; the server goes on", async () => {
    const { log, text } = createKeepingLogger();
    const credentials = loadCredentials(worker);
    const server = await bench.serve(echo, { credentials, log });
    const strange = loadCredentials({ ...other, tlsCa: worker.tlsCa });
    const refused = await errorOf(bench.open(server.address, { credentials: strange }).drop({}));
    expect(refused).toMatchObject({ code: StatusCode.RPC_UNAVAILABLE, node: server.address });
    expect(await errorOf(bench.open(server.address, { connectTimeoutMs: 2_000 }).drop({}))).toMatchObject({
      node: server.address,
    });
    const raw = await bench.dial(server.address);
    raw.socket.resume();
    await raw.send(hello());
    await raw.closed;
    const holder = bench.open(server.address, { credentials });
    expect((await holder.drop({ objects: Uint8Array.of(2) })).codes).toEqual(Uint8Array.of(2));
    expect(text()).toContain("refused a control link: its TLS handshake failed");
  });

  it("a server that the authority hasn't signed, or that has another address, is named", async () => {
    const strange = await bench.serve(echo, { credentials: loadCredentials({ ...other, tlsCa: worker.tlsCa }) });
    expect(await errorOf(bench.open(strange.address, { credentials: loadCredentials(worker) }).drop({}))).toMatchObject(
      {
        code: StatusCode.RPC_UNAVAILABLE,
        message: expect.stringContaining("unable to verify the first certificate"),
      },
    );
    const wrong = await bench.serve(echo, { credentials: loadCredentials(elsewhere) });
    expect(await errorOf(bench.open(wrong.address, { credentials: loadCredentials(worker) }).drop({}))).toMatchObject({
      code: StatusCode.RPC_UNAVAILABLE,
      message: expect.stringContaining("IP: 127.0.0.1 is not in the cert's list"),
    });
  });

  it("files that are missing, or don't fit together, are named", async () => {
    expect(() => loadCredentials({ tlsCert: worker.tlsCert })).toThrow(
      "mutual TLS takes --tls_cert, --tls_key and --tls_ca, all three",
    );
    expect(() => loadCredentials({ ...worker, tlsKey: "/none" })).toThrow("--tls_key /none can't be read: ENOENT");
    expect(() => loadCredentials({ clusterTokenFile: "/none" })).toThrow("--cluster_token_file /none can't be read");
    const mixed = loadCredentials({ ...worker, tlsKey: other.tlsKey });
    await expect(bench.serve(echo, { credentials: mixed })).rejects.toMatchObject({
      code: StatusCode.INVALID,
      message: expect.stringContaining("--tls_cert, --tls_key and --tls_ca don't fit together"),
    });
  });
});
