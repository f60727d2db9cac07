/**
 * Goal: the API for people: what the client does is seen and can be asked over HTTP with JSON, and by the commands.
 * Method: two workers; an object is set by a client; curl and `hbmesh` ask for it. The client's own promises are in
 * test/api.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { hbmesh, run } from "./commands.js";
import { DeviceObject, type Fixture, startFixture } from "./fixture.js";

describe("the API for people", () => {
  let fixture: Fixture;
  let source: DeviceObject;

  beforeAll(async () => {
    fixture = await startFixture();
    source = new DeviceObject(0, [100, 200], 1);
    const client = await fixture.client(0);
    await client.mSetD2H(["api"], [source.list]);
  });

  afterAll(async () => {
    source.free();
    await fixture.close();
  });

  const curl = async (worker: number, method: string, body: unknown): Promise<Record<string, unknown>> => {
    const url = `http://${fixture.addresses[worker]}/hbmesh.v1.${method}`;
    const header = ["-H", "content-type: application/json"];
    const result = await run("curl", ["-s", ...header, "-d", JSON.stringify(body), url]);
    expect(result.code).toBe(0);
    return JSON.parse(result.stdout) as Record<string, unknown>;
  };

  it("curl with JSON: exist, meta, health, members", async () => {
    expect(await curl(1, "ObjectService/Exist", { keys: ["api", "no"] })).toMatchObject({
      entries: [
        { key: "api", presence: "PRESENCE_HIT" },
        { key: "no", presence: "PRESENCE_MISS" },
      ],
    });
    expect(await curl(1, "ObjectService/GetMetaInfo", { keys: ["api"] })).toMatchObject({
      entries: [{ key: "api", sizeBytes: "300", blobSizes: ["100", "200"], locations: [fixture.addresses[0]] }],
    });
    expect(await curl(0, "ClusterService/Health", {})).toMatchObject({ ready: true, objects: "1" });
    const members = await curl(0, "ClusterService/ListMembers", {});
    expect((members["members"] as { workerAddress: string }[]).map((each) => each.workerAddress).sort()).toEqual(
      [...fixture.addresses].sort(),
    );
  });

  it("a forbidden key over curl: INVALID with the key, as JSON", async () => {
    const answer = await curl(0, "ObjectService/Exist", { keys: ["a b"] });
    expect(answer["code"]).toBe("invalid_argument");
    expect(String(answer["message"])).toContain("a b");
  });

  it("the commands print tables and JSON", async () => {
    const worker = ["--worker", fixture.addresses[1] ?? ""];
    const exist = await hbmesh("exist", ...worker, "api", "no");
    expect(exist.code).toBe(0);
    expect(exist.stdout).toMatch(/^api +HIT/m);
    expect(exist.stdout).toMatch(/^no +MISS/m);
    const meta = await hbmesh("meta", ...worker, "--json", "api");
    expect(JSON.parse(meta.stdout)).toMatchObject({ entries: [{ key: "api", status: "OK", sizeBytes: 300 }] });
    const members = await hbmesh("members", ...worker);
    expect(members.stdout).toContain(fixture.addresses[0]);
    const health = await hbmesh("health", ...worker, "--json");
    expect(JSON.parse(health.stdout)).toMatchObject({ ready: true, workerAddress: fixture.addresses[1] });
    const removed = await hbmesh("delete", ...worker, "api");
    expect(removed.stdout).toMatch(/^api +OK +yes/m);
    expect((await hbmesh("exist", ...worker, "--json", "api")).stdout).toContain('"presence": "MISS"');
  });

  it("a command without a worker at the address says which, and exits with 1", async () => {
    const result = await hbmesh("health", "--worker", "127.0.0.1:9");
    expect(result.code).toBe(1);
    expect(result.stderr).toMatch(/NO_AVAILABLE_WORKER: no worker answers at 127\.0\.0\.1:9/);
  });
});
