/**
 * Goal: over the API a token sees its tenant's keys and no others, and nobody else sees anything.
 * Method: a real HTTP server over a control process of the fake cluster; the fake sidecar sets keys as the real one
 * does, with their tenant before them.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { checkTransportExposure, resolveWorkerConfig } from "../../../src/base/config.js";
import { StatusCode } from "../../../src/base/errors.js";
import { createSilentLogger, type Logger } from "../../../src/base/log.js";
import { scopeKeys } from "../../../src/base/tenants.js";
import { type ApiServer, startApiServer } from "../../../src/server/index.js";
import { FakeCluster, type FakeWorker } from "../control/fake-cluster.js";

const TOKENS = { red: "t0ken-red", blue: "t0ken-blue", default: "t0ken-default" } as const;
type Tenant = keyof typeof TOKENS;

describe("tenants of the API", () => {
  let folder: string;
  let cluster: FakeCluster;
  let worker: FakeWorker;
  let server: ApiServer;
  let logged: string[];

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), "hbmesh-tenants-"));
    const tenantsFile = join(folder, "tenants");
    writeFileSync(
      tenantsFile,
      Object.entries(TOKENS)
        .map(([tenant, token]) => `${token} ${tenant}\n`)
        .join(""),
    );
    logged = [];
    const note = (fields: object, message: string): void =>
      void logged.push(
        JSON.stringify([message, fields], (_, value) => (typeof value === "bigint" ? `${value}` : value)),
      );
    const log: Logger = { error: note, warn: note, info: note, debug: note, child: () => log };
    cluster = new FakeCluster();
    worker = await cluster.start(1, { tenantsFile }, { log });
    server = await startApiServer({ address: "127.0.0.1:0", log, control: worker.control });
    for (const tenant of ["red", "blue"] as const) {
      await cluster.drive(
        worker.sidecar.set(scopeKeys(tenant, ["both", tenant]), `of ${tenant}`, 0, [BigInt(tenant.length)]),
      );
    }
  });

  afterEach(async () => {
    await server.close();
    await cluster.close();
    rmSync(folder, { recursive: true });
  });

  const post = (method: string, body: object, token?: string): Promise<Response> =>
    fetch(`http://${server.address}/hbmesh.v1.ObjectService/${method}`, {
      method: "POST",
      body: JSON.stringify(body),
      headers: {
        "content-type": "application/json",
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      },
    });
  const as = async (tenant: Tenant, method: string, body: object): Promise<{ entries: Record<string, unknown>[] }> =>
    (await (await post(method, body, TOKENS[tenant])).json()) as { entries: Record<string, unknown>[] };

  it("each sees its own keys, by the names that it gave them", async () => {
    const keys = ["both", "red", "blue"];
    const seen = async (tenant: Tenant): Promise<unknown[]> =>
      (await as(tenant, "Exist", { keys })).entries.map(({ key, presence }) => [key, presence]);
    expect(await seen("red")).toEqual([
      ["both", "PRESENCE_HIT"],
      ["red", "PRESENCE_HIT"],
      ["blue", "PRESENCE_MISS"],
    ]);
    expect(await seen("blue")).toEqual([
      ["both", "PRESENCE_HIT"],
      ["red", "PRESENCE_MISS"],
      ["blue", "PRESENCE_HIT"],
    ]);
    expect(await seen("default")).toEqual(keys.map((key) => [key, "PRESENCE_MISS"]));
    const meta = await as("red", "GetMetaInfo", { keys: ["both"] });
    expect(meta.entries[0]).toMatchObject({ key: "both", sizeBytes: "3" });
    const explained = await as("blue", "Explain", { key: "both" });
    expect(explained).toMatchObject({ key: "both", sizeBytes: "4", owner: worker.address });
  });

  it("a delete leaves the others' keys of the same name", async () => {
    const { entries } = await as("red", "Delete", { keys: ["both", "blue"] });
    expect(entries).toEqual([
      { key: "both", existed: true, status: {} },
      { key: "blue", status: {} },
    ]);
    const left = (await as("blue", "Exist", { keys: ["both", "blue"] })).entries.map(({ presence }) => presence);
    expect(left).toEqual(["PRESENCE_HIT", "PRESENCE_HIT"]);
  });

  it("nobody writes another tenant's name into a key", async () => {
    const [foreign = ""] = scopeKeys("blue", ["both"]);
    for (const tenant of ["red", "default"] as const) {
      const response = await post("Delete", { keys: [foreign] }, TOKENS[tenant]);
      expect([response.status, response.headers.get("hbmesh-code")]).toEqual([400, String(StatusCode.INVALID)]);
    }
    expect((await as("blue", "Exist", { keys: ["both"] })).entries[0]?.["presence"]).toBe("PRESENCE_HIT");
  });

  it("a missing or unknown token is 401 and NOT_AUTHORIZED, and stands in no answer and no log line", async () => {
    for (const [token, cause] of [
      [undefined, "the request has no token"],
      ["t0ken-guessed", "nobody has the token of the request"],
    ] as const) {
      for (const [method, body] of [
        ["Exist", { keys: ["both"] }],
        ["GetMetaInfo", { keys: ["both"] }],
        ["Delete", { keys: ["both"] }],
        ["Explain", { key: "both" }],
      ] as const) {
        const response = await post(method, body, token);
        const text = await response.text();
        expect([response.status, response.headers.get("hbmesh-code")]).toEqual([
          401,
          String(StatusCode.NOT_AUTHORIZED),
        ]);
        expect(text).toContain(cause);
        expect(text).not.toContain("t0ken");
      }
    }
    expect(logged.length).toBeGreaterThan(0);
    expect(logged.join("\n")).toContain("tenants are told apart by their tokens");
    expect(logged.join("\n")).not.toContain("t0ken");
  });
});

describe("a worker without tenants", () => {
  const base = { metadataAddress: "memory" };

  it.each(["127.0.0.1:31501", "127.99.3.4:31501", "[::1]:31501"])("serves this machine at %s", (workerAddress) => {
    expect(resolveWorkerConfig({ ...base, workerAddress })).toMatchObject({ workerAddress, insecure: false });
  });

  it.each(["10.0.0.1:31501", "[fd00::1]:31501", "[2001:db8::1]:31501"])(
    "does not serve others at %s, unless it may",
    (workerAddress) => {
      expect(() => resolveWorkerConfig({ ...base, workerAddress })).toThrow(
        /workerAddress must be a loopback address .* give --cluster_token_file FILE, .* \(or --tls_cert, --tls_key and --tls_ca\), or --insecure/,
      );
      expect(resolveWorkerConfig({ ...base, workerAddress, insecure: true }).workerAddress).toBe(workerAddress);
      const token = { clusterTokenFile: "t" };
      expect(resolveWorkerConfig({ ...base, workerAddress, ...token })).toMatchObject({ workerAddress, ...token });
      const tls = { tlsCert: "c", tlsKey: "k", tlsCa: "a" };
      expect(resolveWorkerConfig({ ...base, workerAddress, ...tls })).toMatchObject({ workerAddress, ...tls });
      // Tenants say who may use objects; nobody asks for their tokens on the control link.
      expect(() => resolveWorkerConfig({ ...base, workerAddress, tenantsFile: "t" })).toThrow(
        "must be a loopback address",
      );
      expect(() => resolveWorkerConfig({ ...base, workerAddress, tlsCert: "c" })).toThrow("all three");
    },
  );

  it("TLS is not enough where there is a sidecar, whose transport it doesn't cover", () => {
    const tls = { tlsCert: "c", tlsKey: "k", tlsCa: "a" };
    const config = resolveWorkerConfig({ ...base, workerAddress: "10.0.0.1:31501", ...tls });
    expect(() => checkTransportExposure(config)).toThrow(
      "TLS does not cover what sidecars send each other: give --cluster_token_file FILE too, or --insecure",
    );
    expect(() => checkTransportExposure({ ...config, clusterTokenFile: "t" })).not.toThrow();
    expect(() => checkTransportExposure({ ...config, workerAddress: "127.0.0.1:31501" })).not.toThrow();
  });

  it("nor does its control link", () => {
    const settings = { ...base, workerAddress: "127.0.0.1:31501", linkAddress: "10.0.0.1:0" };
    expect(() => resolveWorkerConfig(settings)).toThrow("linkAddress must be a loopback address");
  });

  it("says so in its log, and asks for no token", async () => {
    const messages: string[] = [];
    const log: Logger = { ...createSilentLogger(), info: (_, message) => void messages.push(message) };
    const cluster = new FakeCluster();
    const { control } = await cluster.start(1, {}, { log });
    expect(control.tenants).toBeUndefined();
    expect(messages).toContain("no tenants file is configured: everyone who can connect sees all keys, as one tenant");
    await cluster.close();
  });
});
