/**
 * Goal: orchestrators learn by GET and HEAD whether a worker lives and would serve, without a token and without
 * secrets; Health answers a plain GET. Method: a real HTTP server over a control process of the fake cluster, and one
 * over the few facts that probes look at; fetch stands for kubelet and curl.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { Credentials } from "../../../src/base/credentials.js";
import { HbmeshError, StatusCode } from "../../../src/base/errors.js";
import { createSilentLogger, type LogFields } from "../../../src/base/log.js";
import { type ApiServer, type ProbeServer, startApiServer, startProbeServer } from "../../../src/server/index.js";
import { FakeCluster, type FakeWorker } from "../control/fake-cluster.js";

const TOKEN = "the-token-of-this-cluster";

describe("probes", () => {
  let folder: string;
  let cluster: FakeCluster;
  let worker: FakeWorker;
  let server: ApiServer;
  let warned: [LogFields, string][];

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "hbmesh-probes-"));
    writeFileSync(join(folder, "token"), `${TOKEN}\n`);
    cluster = new FakeCluster();
    warned = [];
  });

  afterEach(async () => {
    await server.close();
    await cluster.close();
    rmSync(folder, { recursive: true });
  });

  const serve = async (config: Parameters<FakeCluster["start"]>[1] = {}): Promise<void> => {
    worker = await cluster.start(1, config);
    const log = { ...createSilentLogger(), warn: (...line: [LogFields, string]) => void warned.push(line) };
    server = await startApiServer({ address: "127.0.0.1:0", log, control: worker.control });
  };

  const ask = async (
    path: string,
    options: RequestInit = {},
    address = server.address,
  ): Promise<{ status: number; text: string; type: string | null }> => {
    const response = await fetch(`http://${address}${path}`, options);
    return { status: response.status, text: await response.text(), type: response.headers.get("content-type") };
  };

  it("one that serves is 200 for both; one that would not lives, and is not ready, with the reason as text or JSON", async () => {
    await serve();
    const good = { status: 200, text: "ok\n", type: "text/plain; charset=utf-8" };
    for (const path of ["/healthz", "/readyz", "/readyz?verbose=1"]) {
      expect(await ask(path), path).toEqual(good);
    }
    const { credentials, failed } = worker.control;
    const control = { notReadyReason: "the sidecar is being restarted", failed, tenants: undefined, credentials };
    const probes = await startProbeServer("127.0.0.1:0", control);
    try {
      expect(await ask("/healthz", {}, probes.address)).toEqual(good);
      expect(await ask("/readyz", {}, probes.address)).toEqual({
        ...good,
        status: 503,
        text: `${control.notReadyReason}\n`,
      });
      expect(await ask("/readyz", { headers: { accept: "application/json" } }, probes.address)).toEqual({
        status: 503,
        text: '{"ok":false,"reason":"the sidecar is being restarted"}\n',
        type: "application/json",
      });
      control.notReadyReason = "";
      expect(await ask("/readyz", {}, probes.address)).toEqual(good);
    } finally {
      await probes.close();
    }
  });

  it("HEAD has the status alone; other methods are 405, and keep the connection usable", async () => {
    await serve();
    for (const path of ["/healthz", "/readyz"]) {
      expect(await ask(path, { method: "HEAD" })).toMatchObject({ status: 200, text: "" });
      const posted = await fetch(`http://${server.address}${path}`, { method: "POST", body: "x".repeat(1_000) });
      expect([posted.status, posted.headers.get("allow")]).toEqual([405, "GET, HEAD"]);
      expect(await posted.text()).toBe("probes are asked with GET or HEAD\n");
    }
  });

  it("a worker that has given up does not live", async () => {
    await serve();
    const gone = Promise.resolve(
      new HbmeshError(StatusCode.RUNTIME_ERROR, "the sidecar ended 6 times within a minute"),
    );
    const control = { notReadyReason: "", failed: gone, tenants: undefined, credentials: worker.control.credentials };
    const probes = await startProbeServer("127.0.0.1:0", control);
    try {
      for (const path of ["/healthz", "/readyz"]) {
        expect(await ask(path, {}, probes.address)).toMatchObject({
          status: 503,
          text: "the sidecar ended 6 times within a minute\n",
        });
      }
    } finally {
      await probes.close();
    }
  });

  it("with tokens, or TLS, probes need none, and name no other worker; everything else still asks", async () => {
    await serve({ clusterTokenFile: join(folder, "token") });
    expect((await ask("/readyz")).status).toBe(200);
    const { credentials, failed, tenants } = worker.control;
    const notReadyReason = "not announced yet after the last change of the ring: 10.0.0.7:31501, 10.0.0.8:31501";
    for (const [each, told] of [
      [credentials, "not announced yet after the last change of the ring"],
      [{ token: undefined, tls: undefined }, notReadyReason],
      [{ token: undefined, tls: {} as Credentials["tls"] }, "not announced yet after the last change of the ring"],
    ] as const) {
      const probes = await startProbeServer("127.0.0.1:0", { notReadyReason, failed, tenants, credentials: each });
      expect(await ask("/readyz", {}, probes.address)).toMatchObject({ status: 503, text: `${told}\n` });
      await probes.close();
    }
    const refused = await ask("/hbmesh.v1.ClusterService/Health");
    expect(refused.status).toBe(401);
    expect(refused.text).not.toContain(TOKEN);
    const wrong = { headers: { authorization: "Bearer wrong-secret" } };
    expect((await ask("/hbmesh.v1.ClusterService/Health", wrong)).status).toBe(401);
    expect(warned).toEqual([
      [
        { peer: "127.0.0.1", path: expect.stringContaining("/Health"), cause: "it has no token" },
        "refused an API request",
      ],
      [
        { peer: "127.0.0.1", path: expect.stringContaining("/Health"), cause: "its token is not good for this" },
        "refused an API request",
      ],
    ]);
  });

  it("an address of its own serves probes and nothing else", async () => {
    await serve();
    const probes: ProbeServer = await startProbeServer("127.0.0.1:0", worker.control);
    try {
      expect(await ask("/readyz", {}, probes.address)).toMatchObject({ status: 200, text: "ok\n" });
      for (const path of ["/hbmesh.v1.ClusterService/Health", "/"]) {
        expect(await ask(path, {}, probes.address)).toMatchObject({
          status: 404,
          text: "there is nothing here but /healthz and /readyz\n",
        });
      }
      await expect(startProbeServer(probes.address, worker.control)).rejects.toMatchObject({
        code: StatusCode.NOT_READY,
        message: `can't listen at ${probes.address}: another process has this port; stop it, or choose another one`,
      });
    } finally {
      await probes.close();
    }
  });

  it("Health and ListMembers answer a GET without a message, Connect's own GET, and HEAD", async () => {
    await serve();
    for (const query of ["", "?", "?connect=v1&encoding=json&message=%7B%7D", "?encoding=json&message={}"]) {
      const { status, text } = await ask(`/hbmesh.v1.ClusterService/Health${query}`);
      expect([status, JSON.parse(text)], query).toEqual([
        200,
        expect.objectContaining({ ready: true, workerAddress: worker.address }),
      ]);
    }
    const members = await ask("/hbmesh.v1.ClusterService/ListMembers");
    expect(JSON.parse(members.text)).toMatchObject({ members: [{ workerAddress: worker.address }] });
    expect(await ask("/hbmesh.v1.ClusterService/Health", { method: "HEAD" })).toMatchObject({ status: 200, text: "" });
    // What changes something takes a POST.
    for (const path of ["ClusterService/Drain", "ClusterService/StopDrain", "ObjectService/Delete"]) {
      expect((await ask(`/hbmesh.v1.${path}`)).status, path).toBe(405);
      expect((await ask(`/hbmesh.v1.${path}`, { method: "HEAD" })).status, path).toBe(405);
    }
    expect((await ask("/hbmesh.v1.ClusterService/Health", { method: "PUT", body: "{}" })).status).toBe(405);
  });
});
