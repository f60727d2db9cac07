/**
 * Goal: where a cluster token or TLS protects the API, nothing of it answers without; whatever else a connection does,
 * only that one ends. Method: a real server over a control process of the fake cluster; fetch and the command line ask
 * it, raw sockets disturb it.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { parseAddress } from "../../../src/base/address.js";
import { ClusterToken, loadCredentials } from "../../../src/base/credentials.js";
import { StatusCode } from "../../../src/base/errors.js";
import { createSilentLogger, type LogFields } from "../../../src/base/log.js";
import { main } from "../../../src/cli/main.js";
import { type ApiServer, type ApiServerOptions, startApiServer } from "../../../src/server/index.js";
import { createAuthority, type TlsFiles } from "../../support/certificates.js";
import { FakeCluster, type FakeWorker } from "../control/fake-cluster.js";

const TOKEN = "the-token-of-this-cluster";
const TENANT_TOKEN = "t0ken-red";

describe("access to the API", () => {
  let folder: string;
  let cluster: FakeCluster;
  let worker: FakeWorker;
  let server: ApiServer;
  let said: string;
  let warned: LogFields[];

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "hbmesh-access-"));
    writeFileSync(join(folder, "token"), `${TOKEN}\n`);
    writeFileSync(join(folder, "tenants"), `${TENANT_TOKEN} red\n`);
    writeFileSync(join(folder, "tenants-token"), `${TENANT_TOKEN}\n`);
    cluster = new FakeCluster();
  });

  afterEach(async () => {
    vi.restoreAllMocks();
    await server.close();
    await cluster.close();
    rmSync(folder, { recursive: true });
  });

  const serve = async (
    config: Parameters<FakeCluster["start"]>[1] = {},
    options: Partial<ApiServerOptions> = {},
  ): Promise<void> => {
    worker = await cluster.start(1, config);
    warned = [];
    const log = { ...createSilentLogger(), warn: (fields: LogFields) => void warned.push(fields) };
    server = await startApiServer({ address: "127.0.0.1:0", log, control: worker.control, ...options });
  };

  const post = (path: string, token?: string): Promise<Response> =>
    fetch(`http://${server.address}/hbmesh.v1.${path}`, {
      method: "POST",
      body: path.startsWith("Object") ? '{"keys":["k"]}' : "{}",
      headers: {
        "content-type": "application/json",
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      },
    });
  const codes = async (path: string, ...tokens: (string | undefined)[]): Promise<number[]> => {
    const responses = [];
    for (const token of tokens) {
      responses.push(await post(path, token));
    }
    return responses.map(({ status }) => status);
  };

  const run = async (...args: string[]): Promise<number> => {
    said = "";
    const keep = (text: unknown): boolean => {
      said += String(text);
      return true;
    };
    const spies = [process.stdout, process.stderr].map((stream) => vi.spyOn(stream, "write").mockImplementation(keep));
    try {
      return await main(args);
    } finally {
      spies.forEach((spy) => spy.mockRestore());
    }
  };

  it("with a cluster token every service asks for it, and names what to send, never what was sent", async () => {
    await serve({ clusterTokenFile: join(folder, "token") });
    for (const path of ["ClusterService/Health", "ClusterService/ListMembers", "ObjectService/Exist"]) {
      expect(await codes(path, undefined, "wrong-secret", `${TOKEN}x`, TOKEN.slice(1), TOKEN)).toEqual([
        401, 401, 401, 401, 200,
      ]);
    }
    const refused = await post("ClusterService/Health", "wrong-secret");
    expect(refused.headers.get("hbmesh-code")).toBe(String(StatusCode.NOT_AUTHORIZED));
    const text = await refused.text();
    expect(text).toContain("with the cluster's token (--cluster_token_file)");
    expect(text).not.toContain("wrong-secret");
    expect(text).not.toContain(TOKEN);
  });

  it("with tenants too a tenant's token is good for its objects and for health", async () => {
    await serve({ clusterTokenFile: join(folder, "token"), tenantsFile: join(folder, "tenants") });
    for (const path of ["ClusterService/Health", "ObjectService/Exist"]) {
      expect(await codes(path, undefined, "nobody", TENANT_TOKEN, TOKEN)).toEqual([401, 401, 200, 200]);
    }
  });

  it("who may have the worker leave: the cluster's token and the worker's own user, no tenant", async () => {
    const own = "what-the-worker-s-own-user-shows";
    const operator = new ClusterToken(own, "this test");
    await serve({ tenantsFile: join(folder, "tenants") }, { operator });
    expect(await codes("ClusterService/Drain", undefined, "nobody", TENANT_TOKEN)).toEqual([401, 401, 401]);
    expect(await codes("ClusterService/StopDrain", undefined, "nobody", TENANT_TOKEN, own)).toEqual([
      401, 401, 401, 200,
    ]);
    const refused = await (await post("ClusterService/StopDrain", TENANT_TOKEN)).text();
    expect(refused).toContain("run hbmesh stop on the worker's host as its user or root");
    // It is no tenant.
    expect(await codes("ObjectService/Exist", own)).toEqual([401]);
    await server.close();
    await cluster.close();
    cluster = new FakeCluster();
    await serve({ clusterTokenFile: join(folder, "token") }, { operator });
    for (const path of ["ClusterService/StopDrain", "ClusterService/GetDrain", "ClusterService/Health"]) {
      expect(await codes(path, undefined, `${own}x`, own, TOKEN), path).toEqual([401, 401, 200, 200]);
    }
  });

  it("commands show the token of a file, and status finds out by itself what a worker of this host asks for", async () => {
    await serve({ clusterTokenFile: join(folder, "token") });
    expect(await run("members", "--worker", server.address)).toBe(1);
    expect(said).toContain("NOT_AUTHORIZED: the request has no token");
    expect(await run("members", "--worker", server.address, "--token_file", join(folder, "token"))).toBe(0);
    expect(said).toContain(worker.address);
    expect(await run("status", "--worker_address", server.address)).toBe(1);
    expect(said).toContain("the request has no token");
    expect(said).not.toContain(TOKEN);
  });

  it("over TLS it answers those that the authority has signed, and nobody else", async () => {
    const files: TlsFiles = createAuthority(folder, "cluster").issue("worker");
    const stranger: TlsFiles = createAuthority(folder, "stranger").issue("worker");
    await serve({}, { credentials: loadCredentials(files) });
    const own = ["--tls_ca", files.tlsCa, "--tls_cert", files.tlsCert, "--tls_key", files.tlsKey];
    expect(await run("health", "--worker", server.address, ...own)).toBe(0);
    expect(await run("health", "--worker", server.address, "--tls_ca", files.tlsCa)).toBe(1);
    expect(said).toContain("NOT_AUTHORIZED: the worker at ");
    expect(said).toContain("asks for a certificate: give --tls_cert and --tls_key");
    const other = ["--tls_ca", files.tlsCa, "--tls_cert", stranger.tlsCert, "--tls_key", stranger.tlsKey];
    expect(await run("health", "--worker", server.address, ...other)).toBe(1);
    expect(said).toContain(`does not take the certificate ${stranger.tlsCert}, which must be signed by the cluster's`);
    expect(await run("health", "--worker", server.address)).toBe(1);
    expect(said).toContain("NOT_AUTHORIZED: this worker speaks TLS: ask https://");
    expect(said).toContain("--tls_ca, --tls_cert and --tls_key");
    const untrusting = ["--tls_ca", stranger.tlsCa, "--tls_cert", files.tlsCert, "--tls_key", files.tlsKey];
    expect(await run("health", "--worker", server.address, ...untrusting)).toBe(1);
    expect(said).toContain(`--tls_ca ${stranger.tlsCa} must be of who signed it`);
    expect(await run("health", "--worker", server.address, "--tls_cert", files.tlsCert)).toBe(2);
    expect(said).toContain("--tls_cert and --tls_key go together, with --tls_ca");
    expect(await run("health", "--worker", server.address, ...own)).toBe(0);
    // The log knows who was turned away, and why.
    expect(warned.map(({ cause }) => cause)).toEqual(
      expect.arrayContaining(["it shows no certificate", "it speaks plain HTTP"]),
    );
    const plain = warned.find(({ cause }) => cause === "it speaks plain HTTP");
    expect(plain?.["peer"]).toMatch(/^127\.0\.0\.1 \d+$/);
  });

  it("over TLS what speaks plain HTTP is answered in plain HTTP, from curl too", async () => {
    const files: TlsFiles = createAuthority(folder, "cluster").issue("worker");
    await serve({}, { credentials: loadCredentials(files) });
    const response = await fetch(`http://${server.address}/hbmesh.v1.ClusterService/Health`);
    expect(response.status).toBe(400);
    expect(response.headers.get("hbmesh-code")).toBe(String(StatusCode.NOT_AUTHORIZED));
    expect(await response.json()).toEqual({
      code: "unauthenticated",
      message: expect.stringContaining("this worker speaks TLS: ask https://"),
    });
  });

  it("a command with TLS that asks a worker without is told to leave it out; one without a token, which option", async () => {
    const files: TlsFiles = createAuthority(folder, "cluster").issue("worker");
    await serve({ clusterTokenFile: join(folder, "token") });
    const tls = ["--tls_ca", files.tlsCa, "--tls_cert", files.tlsCert, "--tls_key", files.tlsKey];
    for (const command of [["health"], ["members"], ["exist", "k"]]) {
      const [name = "", ...keys] = command;
      expect(await run(name, "--worker", server.address, ...tls, ...keys)).toBe(1);
      const remedy = "does not speak TLS: leave out --tls_ca, --tls_cert and --tls_key";
      expect(said).toContain(`INVALID: the worker at ${server.address} ${remedy}`);
      expect(await run(name, "--worker", server.address, ...keys)).toBe(1);
      expect(said).toContain("give --token_file FILE, or its token in HBMESH_TOKEN");
    }
    expect(await run("status", "--worker_address", server.address, ...tls)).toBe(1);
    expect(said).toContain("does not speak TLS");
    expect(await run("status", "--worker_address", server.address)).toBe(1);
    expect(said).toContain("give --token_file FILE");
    // Who gave one that is wrong knows the option.
    expect(await run("health", "--worker", server.address, "--token_file", join(folder, "tenants-token"))).toBe(1);
    expect(said).toContain("NOT_AUTHORIZED: nobody has the token of the request");
    expect(said).not.toContain("give --token_file");
  });

  const dial = async (): Promise<{ socket: Socket; closed: Promise<string> }> => {
    const socket = connect(parseAddress(server.address, "address"));
    let heard = "";
    socket.on("error", () => {});
    socket.on("data", (chunk: Buffer) => {
      heard += chunk.toString("latin1");
    });
    await new Promise((resolve) => socket.once("connect", resolve));
    return { socket, closed: new Promise((resolve) => socket.once("close", () => resolve(heard))) };
  };

  it.each([
    ["bytes that are no HTTP", Buffer.alloc(1_000, 0xff), /^HTTP\/1.1 400/],
    ["a head that is too long", `GET / HTTP/1.1\r\nx: ${"y".repeat(20_000)}\r\n\r\n`, /^HTTP\/1.1 431/],
    ["HTTP/2 without warning", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", /^HTTP\/1.1 4\d\d|^$/],
    [
      "two lengths",
      "POST /hbmesh.v1.ClusterService/Health HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
      /^HTTP\/1.1 400/,
    ],
  ])("%s: its connection ends, and no other", async (_, bytes, answer) => {
    await serve();
    const bad = await dial();
    bad.socket.write(bytes);
    expect(await bad.closed).toMatch(answer);
    expect((await post("ClusterService/Health")).status).toBe(200);
  });

  it.each([
    ["that says nothing", ""],
    ["that stops in the middle of its head", "POST /hbmesh.v1.ClusterService/Health HTTP/1.1\r\nHost:"],
    [
      "that stops in the middle of its body",
      "POST /hbmesh.v1.ClusterService/Health HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{",
    ],
  ])("a connection %s is closed after its time", async (_, bytes) => {
    await serve({}, { requestTimeoutMs: 300 });
    const half = await dial();
    half.socket.write(bytes);
    await half.closed;
    expect((await post("ClusterService/Health")).status).toBe(200);
  });

  it("connections above the limit are closed; those below are served", async () => {
    await serve({}, { connectionsMax: 2 });
    const first = await dial();
    const second = await dial();
    const third = await dial();
    expect(await third.closed).toBe("");
    const head = "POST /hbmesh.v1.ClusterService/Health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    second.socket.write(`${head}Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}`);
    expect(await second.closed).toMatch(/^HTTP\/1.1 200/);
    first.socket.destroy();
  });
});
