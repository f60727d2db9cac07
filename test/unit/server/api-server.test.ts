/**
 * Goal: the Connect API answers people (JSON over plain HTTP) and clients alike, with codes, keys and remedies, and
 * keeps its limits. Method: a real HTTP server over a control process of the fake cluster; fetch stands for curl.
 * Virtual time is driven while a call runs.
 */
import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { StatusCode } from "../../../src/base/errors.js";
import { createSilentLogger } from "../../../src/base/log.js";
import { ClusterService } from "../../../src/gen/hbmesh/v1/cluster_pb.js";
import { ObjectService, Presence } from "../../../src/gen/hbmesh/v1/objects_pb.js";
import { fromConnectError } from "../../../src/rpc/index.js";
import { type ApiServer, startApiServer } from "../../../src/server/index.js";
import { FakeCluster, type FakeWorker } from "../control/fake-cluster.js";

describe("the Connect API", () => {
  let cluster: FakeCluster;
  let worker: FakeWorker;
  let server: ApiServer;

  beforeEach(async () => {
    cluster = new FakeCluster();
    worker = await cluster.start(1);
    const requestBytesMax = 10_000;
    server = await startApiServer({
      address: "127.0.0.1:0",
      log: createSilentLogger(),
      control: worker.control,
      requestBytesMax,
    });
  });

  afterEach(async () => {
    await server.close();
    await cluster.close();
  });

  const post = (path: string, body: string): Promise<Response> =>
    fetch(`http://${server.address}/${path}`, {
      method: "POST",
      body,
      headers: { "content-type": "application/json" },
    });

  it("answers JSON: exist, meta and delete, with a status for each key", async () => {
    await cluster.drive(worker.sidecar.set(["there"], "x", 0, [5n, 7n]));
    const exist = await post("hbmesh.v1.ObjectService/Exist", '{"keys":["there","gone"]}');
    expect(await exist.json()).toEqual({
      entries: [
        { key: "there", presence: "PRESENCE_HIT", status: {} },
        { key: "gone", presence: "PRESENCE_MISS", status: {} },
      ],
    });
    const meta = (await (await post("hbmesh.v1.ObjectService/GetMetaInfo", '{"keys":["there","gone"]}')).json()) as {
      entries: unknown[];
    };
    expect(meta.entries[0]).toMatchObject({
      key: "there",
      sizeBytes: "12",
      blobSizes: ["5", "7"],
      locations: [worker.address],
    });
    expect(meta.entries[1]).toMatchObject({ key: "gone", status: { code: "NOT_FOUND" } });
    const deleted = await post("hbmesh.v1.ObjectService/Delete", '{"keys":["there","gone"]}');
    expect(await deleted.json()).toEqual({
      entries: [
        { key: "there", existed: true, status: {} },
        { key: "gone", status: {} },
      ],
    });
  });

  it("tells health and members", async () => {
    const cluster_ = createClient(
      ClusterService,
      createConnectTransport({ baseUrl: `http://${server.address}`, httpVersion: "1.1" }),
    );
    expect(await cluster_.health({})).toMatchObject({
      ready: true,
      reason: "",
      workerAddress: worker.address,
      arenaBytes: 1000n,
      arenaUsedBytes: 30n,
      spillBytes: 50n,
      spilledBytes: 20n,
      spilledObjects: 1n,
    });
    const { members, epoch } = await cluster_.listMembers({});
    expect(members).toMatchObject([
      { id: 1, workerAddress: worker.address, deviceCount: 8, weight: 1, transports: [{ name: "tcp" }] },
    ]);
    expect(epoch).toBe(worker.control.epoch);
    worker.sidecar.die("killed by the test");
    expect(await worker.control.health()).toMatchObject({
      ready: false,
      reason: "the sidecar is being restarted",
      arenaBytes: 0n,
    });
    await cluster.clock.advance(100);
    await cluster.ready();
  });

  it("a bad key is an error with our number, the key and the remedy", async () => {
    const response = await post("hbmesh.v1.ObjectService/Exist", '{"keys":["ok","a b"]}');
    expect(response.status).toBe(400);
    expect(response.headers.get("hbmesh-code")).toBe(String(StatusCode.INVALID));
    expect(response.headers.get("hbmesh-key")).toBe("a%20b");
    expect(await response.json()).toMatchObject({
      code: "invalid_argument",
      message: expect.stringContaining('Key "a b" (number 2 of the call) contains a space'),
      details: [{ type: "hbmesh.v1.KeyStatus", debug: { code: "INVALID" } }],
    });
    const objects = createClient(
      ObjectService,
      createConnectTransport({ baseUrl: `http://${server.address}`, httpVersion: "1.1" }),
    );
    const error = await objects
      .delete({ keys: ["x", "x"] })
      .catch((reason: unknown) => fromConnectError(reason, server.address));
    expect(error).toMatchObject({ code: StatusCode.INVALID, key: "x" });
    expect((await objects.exist({ keys: ["x"] })).entries[0]?.presence).toBe(Presence.MISS);
  });

  it("no keys, broken JSON, too large a body and unknown paths each have an answer that helps", async () => {
    expect(await (await post("hbmesh.v1.ObjectService/Exist", "{}")).json()).toMatchObject({
      message: "The call has no keys. Give at least one.",
    });
    expect((await post("hbmesh.v1.ObjectService/Exist", "{")).status).toBe(400);
    const large = await post("hbmesh.v1.ObjectService/Exist", JSON.stringify({ keys: ["k".repeat(10_000)] }));
    expect([large.status, ((await large.json()) as { code: string }).code]).toEqual([429, "resource_exhausted"]);
    const unknown = await post("nothing/here", "{}");
    expect([unknown.status, ((await unknown.json()) as { message: string }).message]).toEqual([
      404,
      expect.stringContaining("/hbmesh.v1.ObjectService/Exist"),
    ]);
  });

  it("a taken address is named, with the remedy", async () => {
    await expect(startApiServer({ address: server.address, log: createSilentLogger() })).rejects.toMatchObject({
      code: StatusCode.NOT_READY,
      message: `can't listen at ${server.address}: another process has this port; stop it, or choose another one`,
    });
  });
});
