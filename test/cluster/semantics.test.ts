/**
 * Goal: the host-object calls keep the promises of docs/API.md over the whole path: existence modes, waiting, delete, exist,
 * getMetaInfo, paths, the API for people.
 * Method: two workers over tcp, and two over shm; clients at both; device memory is filled with patterns of known seeds.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { StatusCode } from "../../src/base/errors.js";
import type { HeteroClient } from "../../src/client/index.js";
import { hbmesh, run, until } from "./commands.js";
import { codesOf, DeviceObject, type Fixture, failureOf, startFixture } from "./fixture.js";

const sizes = [72 * 1024, 1, 4096, 100_000];

describe.each(["tcp", "shm"] as const)("two workers over %s", (transport) => {
  let fixture: Fixture;
  let writer: HeteroClient;
  let reader: HeteroClient;
  const made: DeviceObject[] = [];

  const memory = (device: number, seed?: number, of: readonly number[] = sizes): DeviceObject => {
    const object = new DeviceObject(device, of, seed);
    made.push(object);
    return object;
  };

  beforeAll(async () => {
    fixture = await startFixture({ transport });
    writer = await fixture.client(0);
    reader = await fixture.client(1);
  });

  afterAll(async () => {
    for (const object of made) {
      object.free();
    }
    await fixture.close();
  });

  it("a set at one worker is found from any, locally and remotely, with its path", async () => {
    expect(codesOf(await writer.mSetD2H(["found"], [memory(0, 1).list]))).toEqual(["OK"]);
    const near = memory(1);
    const local = await writer.mGetH2D(["found"], [near.list], { timeoutMs: 0 });
    expect(codesOf(local)).toEqual(["OK"]);
    expect(near.holds(1)).toBe(true);
    expect(local.paths.map((path) => path.transport)).toEqual(["local"]);
    const far = memory(2);
    const remote = await reader.mGetH2D(["found"], [far.list], { timeoutMs: 0 });
    expect(codesOf(remote)).toEqual(["OK"]);
    expect(far.holds(1)).toBe(true);
    const total = sizes.reduce((sum, size) => sum + size, 0);
    expect(remote.paths).toMatchObject([
      { transport, source: fixture.addresses[0], bytes: BigInt(total), fallback: false },
    ]);
  });

  it("skip: the first write wins and the second says existed", async () => {
    const first = await writer.mSetD2H(["skip"], [memory(0, 10).list]);
    const second = await reader.mSetD2H(["skip"], [memory(0, 11).list], { existence: "skip" });
    expect(codesOf(first)).toEqual(["OK"]);
    expect(codesOf(second)).toEqual(["OK"]);
    expect([...first.existed, ...second.existed]).toEqual([false, true]);
    const target = memory(3);
    await reader.mGetH2D(["skip"], [target.list]);
    expect(target.holds(10)).toBe(true);
  });

  it("fail: the second write gets KEY_ALREADY_EXISTS and changes nothing", async () => {
    await writer.mSetD2H(["fail"], [memory(0, 20).list]);
    for (const client of [writer, reader]) {
      const again = await client.mSetD2H(["fail"], [memory(0, 21).list], { existence: "fail" });
      expect(codesOf(again)).toEqual(["KEY_ALREADY_EXISTS"]);
      expect(again.failedKeys).toEqual(["fail"]);
    }
    const target = memory(3);
    await reader.mGetH2D(["fail"], [target.list]);
    expect(target.holds(20)).toBe(true);
  });

  it("replace: both workers read the new bytes, whichever wrote them", async () => {
    await writer.mSetD2H(["replace"], [memory(0, 30).list]);
    for (const [seed, client] of [
      [31, writer],
      [32, reader],
    ] as const) {
      const replaced = await client.mSetD2H(["replace"], [memory(0, seed).list], { existence: "replace" });
      expect(codesOf(replaced)).toEqual(["OK"]);
      for (const asker of [writer, reader]) {
        const target = memory(1);
        expect(codesOf(await asker.mGetH2D(["replace"], [target.list]))).toEqual(["OK"]);
        expect(target.holds(seed)).toBe(true);
      }
    }
  });

  it("replace with another shape: readers of the old shape are told both", async () => {
    await writer.mSetD2H(["reshape"], [memory(0, 40, [64, 64]).list]);
    await writer.mSetD2H(["reshape"], [memory(0, 41, [128]).list], { existence: "replace" });
    const old = await reader.mGetH2D(["reshape"], [memory(1, undefined, [64, 64]).list]);
    expect(codesOf(old)).toEqual(["INVALID"]);
    const target = memory(1, undefined, [128]);
    expect(codesOf(await reader.mGetH2D(["reshape"], [target.list]))).toEqual(["OK"]);
    expect(target.holds(41)).toBe(true);
  });

  it("a get waits for a key that is set meanwhile, and one missing key holds up no other", async () => {
    await writer.mSetD2H(["there"], [memory(0, 50).list]);
    const targets = [memory(2), memory(2), memory(2)];
    const lists = targets.map((target) => target.list);
    const ended = new AbortController();
    const waiting = reader.mGetH2D(["later", "there", "never-comes"], lists, {
      timeoutMs: 60_000,
      signal: ended.signal,
    });
    const outcome = failureOf(waiting);
    await until("what was there is read, though the others are waited for", () => targets[1]?.holds(50));
    expect(codesOf(await writer.mSetD2H(["later"], [memory(0, 51).list]))).toEqual(["OK"]);
    await until("what is set meanwhile is read too", () => targets[0]?.holds(51));
    ended.abort();
    expect((await outcome).code).toBe(StatusCode.RPC_CANCELLED);
    expect(targets.map((target, index) => target.holds([51, 50, undefined][index]))).toEqual([true, true, true]);
  });

  it("a get that waits ends when its signal is aborted", async () => {
    const abort = new AbortController();
    const waiting = reader.mGetH2D(["aborted"], [memory(2).list], { timeoutMs: 60_000, signal: abort.signal });
    abort.abort();
    await expect(waiting).rejects.toMatchObject({ name: "HbmeshError", code: StatusCode.RPC_CANCELLED });
  });

  it("delete removes for everybody; deleting what isn't there is OK", async () => {
    await writer.mSetD2H(["gone"], [memory(0, 60).list]);
    expect((await reader.exist(["gone", "not-there"])).presences).toEqual(["HIT", "MISS"]);
    const removed = await reader.delete(["gone", "not-there"]);
    expect(codesOf(removed)).toEqual(["OK", "OK"]);
    expect(removed.existed).toEqual([true, false]);
    for (const client of [writer, reader]) {
      expect((await client.exist(["gone"])).presences).toEqual(["MISS"]);
      expect(codesOf(await client.mGetH2D(["gone"], [memory(1).list], { timeoutMs: 0 }))).toEqual(["NOT_FOUND"]);
    }
  });

  it("getMetaInfo tells blob sizes from either worker", async () => {
    await writer.mSetD2H(["meta"], [memory(0, 70).list]);
    for (const client of [writer, reader]) {
      const info = await client.getMetaInfo(["meta", "no-such-key"]);
      expect(codesOf(info)).toEqual(["OK", "NOT_FOUND"]);
      expect(info.metas[0]?.blobSizes).toEqual(sizes.map(BigInt));
    }
  });

  it("many keys in one call arrive each in its place", async () => {
    const count = 300;
    const keys = Array.from({ length: count }, (_, index) => `many-${index}`);
    const sources = keys.map((_, index) => memory(0, 1000 + index, [512, 100 + index]));
    const set = await writer.mSetD2H(
      keys,
      sources.map((source) => source.list),
    );
    expect(set.failedKeys).toEqual([]);
    const targets = keys.map((_, index) => memory(3, undefined, [512, 100 + index]));
    const get = await reader.mGetH2D(
      keys,
      targets.map((target) => target.list),
    );
    expect(get.failedKeys).toEqual([]);
    expect(targets.every((target, index) => target.holds(1000 + index))).toBe(true);
    expect((await reader.delete(keys)).failedKeys).toEqual([]);
  });

  it("two clients set the same key at once: one wins whole, the other says existed", async () => {
    const sources = [memory(0, 80), memory(1, 81)];
    const results = await Promise.all([
      writer.mSetD2H(["race"], [sources[0]?.list ?? memory(0).list]),
      reader.mSetD2H(["race"], [sources[1]?.list ?? memory(1).list]),
    ]);
    expect(results.map(codesOf)).toEqual([["OK"], ["OK"]]);
    const existed = results.map((result) => result.existed[0]);
    expect([...existed].sort()).toEqual([false, true]);
    const winner = 80 + existed.indexOf(false);
    for (const client of [writer, reader]) {
      const target = memory(2);
      await client.mGetH2D(["race"], [target.list]);
      expect(target.holds(winner)).toBe(true);
    }
  });
});

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
