/**
 * Goal: host objects keep the promises of docs/API.md over the whole path: existence modes, waiting, delete, questions,
 * and how they live and die. Method: the group's cases at each place of cases.ts; device memory is filled with patterns
 * of known seeds. What waits, waits for conditions.
 */
import { expect } from "vitest";
import { StatusCode } from "../../src/base/errors.js";
import type { HeteroClient, SetOptions } from "../../src/client/index.js";
import { until } from "../cluster/commands.js";
import { codesOf, type DeviceObject, failureOf } from "../cluster/fixture.js";
import { type ApiPlace, apiSuite, endOf, sizes, totalBytes } from "./suite.js";

const both = (at: ApiPlace): readonly HeteroClient[] => [at.first, at.second];

async function set(client: HeteroClient, key: string, from: DeviceObject, options: SetOptions = {}): Promise<string> {
  const result = await client.mSetD2H([key], [from.list], options);
  return `${codesOf(result)}${result.existed[0] ? "(existed)" : ""}`;
}

async function get(client: HeteroClient, key: string, to: DeviceObject): Promise<string> {
  return codesOf(await client.mGetH2D([key], [to.list])).join();
}

async function remove(client: HeteroClient, key: string): Promise<string> {
  const result = await client.delete([key]);
  return `${codesOf(result)}${result.existed[0] ? "(existed)" : ""}`;
}

apiSuite("host objects", (at, it) => {
  it("a set at one worker is found from any, locally and remotely, with its path", async () => {
    expect(await set(at.first, at.key, at.memory(0, 1))).toBe("OK");
    const near = at.memory(1);
    const local = await at.first.mGetH2D([at.key], [near.list]);
    expect([codesOf(local), near.holds(1)]).toEqual([["OK"], true]);
    expect(local.paths.map((path) => path.transport)).toEqual(["local"]);
    const far = at.memory(2);
    const remote = await at.second.mGetH2D([at.key], [far.list]);
    expect([codesOf(remote), far.holds(1)]).toEqual([["OK"], true]);
    expect(remote.paths).toMatchObject([
      { transport: at.transport, source: at.address(0), bytes: totalBytes, fallback: false },
    ]);
  });

  it("skip: the first write wins and the second says existed", async () => {
    expect(await set(at.first, at.key, at.memory(0, 10))).toBe("OK");
    expect(await set(at.second, at.key, at.memory(0, 11), { existence: "skip" })).toBe("OK(existed)");
    const target = at.memory(3);
    expect(await get(at.second, at.key, target)).toBe("OK");
    expect(target.holds(10)).toBe(true);
  });

  it("fail: the second write gets KEY_ALREADY_EXISTS and changes nothing", async () => {
    expect(await set(at.first, at.key, at.memory(0, 20))).toBe("OK");
    for (const client of both(at)) {
      const again = await client.mSetD2H([at.key], [at.memory(0, 21).list], { existence: "fail" });
      expect([codesOf(again), again.failedKeys]).toEqual([["KEY_ALREADY_EXISTS"], [at.key]]);
    }
    const target = at.memory(3);
    expect(await get(at.second, at.key, target)).toBe("OK");
    expect(target.holds(20)).toBe(true);
  });

  it("replace: both workers read the new bytes, whichever wrote them", async () => {
    expect(await set(at.first, at.key, at.memory(0, 30))).toBe("OK");
    for (const [index, writer] of both(at).entries()) {
      const seed = 31 + index;
      expect(await set(writer, at.key, at.memory(0, seed), { existence: "replace" })).toBe("OK(existed)");
      for (const reader of both(at)) {
        const target = at.memory(1);
        expect(await get(reader, at.key, target)).toBe("OK");
        expect(target.holds(seed)).toBe(true);
      }
    }
  });

  it("replace with another shape: readers of the old shape are told both", async () => {
    expect(await set(at.first, at.key, at.memory(0, 40, [64, 64]))).toBe("OK");
    expect(await set(at.first, at.key, at.memory(0, 41, [128]), { existence: "replace" })).toBe("OK(existed)");
    const old = await at.second.mGetH2D([at.key], [at.memory(1, undefined, [64, 64]).list]);
    expect(codesOf(old)).toEqual(["INVALID"]);
    expect(old.statuses[0]?.message).toMatch(/64, 64.*128/);
    const target = at.memory(1, undefined, [128]);
    expect(await get(at.second, at.key, target)).toBe("OK");
    expect(target.holds(41)).toBe(true);
  });

  it("replace: who reads meanwhile sees the old bytes or the new ones", async () => {
    const sources = [at.memory(0, 42), at.memory(0, 43)] as const;
    const targets = [at.memory(1), at.memory(2)];
    expect(await set(at.first, at.key, sources[0])).toBe("OK");
    for (let round = 0; round < 30; round += 1) {
      const writer = round % 3 === 2 ? at.second : at.first;
      const [written, ...read] = await Promise.all([
        set(writer, at.key, sources[round % 2 === 0 ? 1 : 0], { existence: "replace" }),
        ...both(at).map((reader, index) => get(reader, at.key, targets[index] as DeviceObject)),
      ]);
      expect(written).toBe("OK(existed)");
      for (const [index, code] of read.entries()) {
        expect(["OK", "TRY_AGAIN"]).toContain(code);
        if (code === "OK") {
          expect(targets[index]?.holds(42) || targets[index]?.holds(43)).toBe(true);
        }
      }
    }
  });

  it("a get waits for a key that is set meanwhile, and one missing key holds up no other", async () => {
    const keys = [`${at.key}-later`, `${at.key}-there`, `${at.key}-never`] as const;
    expect(await set(at.first, keys[1], at.memory(0, 50))).toBe("OK");
    const targets = keys.map(() => at.memory(2));
    const ended = new AbortController();
    const waiting = at.second.mGetH2D(
      keys,
      targets.map((target) => target.list),
      { timeoutMs: 60_000, signal: ended.signal },
    );
    const outcome = failureOf(waiting);
    await until("what was there is read, though the others are waited for", () => targets[1]?.holds(50));
    expect(await set(at.first, keys[0], at.memory(0, 51))).toBe("OK");
    await until("what is set meanwhile is read too", () => targets[0]?.holds(51));
    ended.abort();
    expect((await outcome).code).toBe(StatusCode.RPC_CANCELLED);
    expect(targets.map((target, index) => target.holds([51, 50, undefined][index]))).toEqual([true, true, true]);
  });

  it("a get that waits ends when it is cancelled", async () => {
    const abort = new AbortController();
    const options = { timeoutMs: 60_000, signal: abort.signal };
    const waiting = failureOf(at.second.mGetH2D([at.key], [at.memory(2).list], options));
    abort.abort();
    expect(await waiting).toMatchObject({ name: "HbmeshError", code: StatusCode.RPC_CANCELLED });
  });

  it("a get that waits ends when its client is closed", async () => {
    const leaving = await at.client(1);
    const waiting = failureOf(leaving.mGetH2D([at.key], [at.memory(2).list], { timeoutMs: 60_000 }));
    await leaving.close();
    expect((await waiting).code).toBe(StatusCode.SHUTTING_DOWN);
  });

  it("delete removes for everybody; deleting what isn't there is OK", async () => {
    const absent = `${at.key}-not-there`;
    expect(await set(at.first, at.key, at.memory(0, 60))).toBe("OK");
    expect((await at.second.exist([at.key, absent])).presences).toEqual(["HIT", "MISS"]);
    const removed = await at.second.delete([at.key, absent]);
    expect([codesOf(removed), removed.existed]).toEqual([
      ["OK", "OK"],
      [true, false],
    ]);
    for (const client of both(at)) {
      expect((await client.exist([at.key])).presences).toEqual(["MISS"]);
      expect(await get(client, at.key, at.memory(1))).toBe("NOT_FOUND");
    }
  });

  it("getMetaInfo tells blob sizes from either worker", async () => {
    expect(await set(at.first, at.key, at.memory(0, 70))).toBe("OK");
    for (const client of both(at)) {
      const info = await client.getMetaInfo([at.key, `${at.key}-not-there`]);
      expect(codesOf(info)).toEqual(["OK", "NOT_FOUND"]);
      expect(info.metas[0]).toMatchObject({ blobSizes: sizes.map(BigInt), sizeBytes: totalBytes });
      expect(info.metas[0]?.generation).toBeGreaterThan(0n);
      expect(info.metas[1]).toBeUndefined();
    }
  });

  it("explain tells where an object is, and of a key that isn't there that it is nowhere", async () => {
    expect(await set(at.first, at.key, at.memory(0, 71))).toBe("OK");
    expect(JSON.stringify(await at.first.explain(at.key))).toContain('"where":"memory"');
    expect(JSON.stringify(await at.second.explain(at.key))).toContain(at.address(0));
    expect(JSON.stringify(await at.second.explain(`${at.key}-not-there`))).toContain("nowhere");
  });

  it("many keys in one call arrive each in its place", async () => {
    const keys = Array.from({ length: 300 }, (_, index) => `${at.key}-${index}`);
    const sources = keys.map((_, index) => at.memory(0, 1000 + index, [512, 100 + index]));
    const written = await at.first.mSetD2H(
      keys,
      sources.map((source) => source.list),
    );
    expect(written.failedKeys).toEqual([]);
    const targets = keys.map((_, index) => at.memory(3, undefined, [512, 100 + index]));
    const read = await at.second.mGetH2D(
      keys,
      targets.map((target) => target.list),
    );
    expect(read.failedKeys).toEqual([]);
    expect(targets.every((target, index) => target.holds(1000 + index))).toBe(true);
    const removed = await at.second.delete(keys);
    expect([removed.failedKeys, removed.existed.every(Boolean)]).toEqual([[], true]);
  });

  it("two clients set the same key at once: one wins whole, the other says existed", async () => {
    const results = await Promise.all([
      set(at.first, at.key, at.memory(0, 80)),
      set(at.second, at.key, at.memory(1, 81)),
    ]);
    expect([...results].sort()).toEqual(["OK", "OK(existed)"]);
    for (const client of both(at)) {
      const target = at.memory(2);
      expect(await get(client, at.key, target)).toBe("OK");
      expect(target.holds(80 + results.indexOf("OK"))).toBe(true);
    }
  });

  it("a client asks for the worker's health, registers memory ahead, and makes keys", async () => {
    expect(await at.first.healthCheck()).toMatchObject({ ready: true, workerAddress: at.address(0) });
    expect(at.first.deviceCount).toBe(8);
    const { list } = at.memory(0, 82);
    await at.first.preRegisterDeviceMemory(
      list.blobs.map((blob) => blob.pointer),
      list.blobs.map((blob) => blob.size),
    );
    expect(codesOf(await at.first.mSetD2H([at.key], [list]))).toEqual(["OK"]);
    expect(at.first.generateKey("api")).toMatch(/^api-[0-9a-f-]{36}$/);
    expect(at.first.generateKey()).not.toBe(at.first.generateKey());
  });
});

const mib = 1 << 20;

apiSuite("life of host objects", (at, it) => {
  it("an object is gone when its time is over, and no other", async () => {
    const stays = `${at.key}-stays`;
    expect(await set(at.first, at.key, at.memory(0, 1, [64]), { ttlSeconds: 0.05 })).toBe("OK");
    expect(await set(at.first, stays, at.memory(0, 2, [64]), { ttlSeconds: 600 })).toBe("OK");
    await until("it is gone", async () => (await at.second.exist([at.key])).presences[0] === "MISS");
    expect(await get(at.second, at.key, at.memory(1, undefined, [64]))).toBe("NOT_FOUND");
    expect((await at.second.exist([stays])).presences).toEqual(["HIT"]);
    expect(await at.second.explain(at.key)).toBeTypeOf("object");
    expect(await remove(at.first, stays)).toBe("OK(existed)");
  });

  it("full of pinned objects: OUT_OF_MEMORY, what is there stays, a delete makes room", async () => {
    const [a, b, c] = ["a", "b", "c"].map((name) => `${at.key}-${name}`) as [string, string, string];
    const large = (seed: number): DeviceObject => at.memory(0, seed, [6 * mib]);
    expect(await set(at.first, a, large(3), { pin: "hard" })).toBe("OK");
    expect(await set(at.first, b, large(4), { pin: "hard" })).toBe("OK");
    const full = await at.first.mSetD2H([c], [large(5).list]);
    expect(codesOf(full)).toEqual(["OUT_OF_MEMORY"]);
    expect(full.statuses[0]?.message).toMatch(/pinned/);
    expect((await at.second.exist([c])).presences).toEqual(["MISS"]);
    const kept = at.memory(1, undefined, [6 * mib]);
    expect(await get(at.second, b, kept)).toBe("OK");
    expect(kept.holds(4)).toBe(true);
    expect(await remove(at.second, a)).toBe("OK(existed)");
    expect(await set(at.first, c, large(5))).toBe("OK");
    expect(await remove(at.first, b)).toBe("OK(existed)");
    expect(await remove(at.first, c)).toBe("OK(existed)");
  });

  it("full: KEY_ALREADY_EXISTS before OUT_OF_MEMORY, and that before another family", async () => {
    const [here, other] = [`${at.key}-here`, `${at.key}-b`];
    const huge = at.memory(0, 10, [6 * mib]);
    const sent = await at.publish(at.second, at.key, at.memory(1, 11));
    expect(await set(at.first, here, huge, { pin: "hard" })).toBe("OK");
    expect(await set(at.first, other, huge, { pin: "hard" })).toBe("OK");
    expect(await set(at.first, here, huge, { existence: "fail" })).toBe("KEY_ALREADY_EXISTS");
    expect(await set(at.first, at.key, huge)).toBe("OUT_OF_MEMORY"); // and not INVALID, which it is too
    expect(await remove(at.first, here)).toBe("OK(existed)");
    const family = await at.first.mSetD2H([at.key], [huge.list]);
    expect(codesOf(family)).toEqual(["INVALID"]);
    expect(family.statuses[0]?.message).toContain("devPublish");
    expect(await remove(at.first, other)).toBe("OK(existed)");
    sent.cancel();
    expect(await endOf(sent)).toBe("RPC_CANCELLED");
  });

  it("what is not pinned makes room before what is pinned softly, and is then a miss everywhere", async () => {
    const [soft, loose, fresh] = ["soft", "loose", "new"].map((name) => `${at.key}-${name}`) as [
      string,
      string,
      string,
    ];
    const large = (seed: number): DeviceObject => at.memory(0, seed, [5 * mib]);
    const target = at.memory(1, undefined, [5 * mib]);
    expect(await set(at.first, soft, large(6), { pin: "soft" })).toBe("OK");
    expect(await set(at.first, loose, large(7))).toBe("OK");
    expect(await get(at.second, loose, target)).toBe("OK"); // read last, yet it goes first
    expect(await set(at.first, fresh, large(8))).toBe("OK");
    await until("its owner has heard", async () => (await at.second.exist([loose])).presences[0] === "MISS");
    expect(await get(at.second, soft, target)).toBe("OK");
    expect(target.holds(6)).toBe(true);
    expect(JSON.stringify(await at.second.explain(loose))).toContain("evicted");
    expect(await remove(at.first, soft)).toBe("OK(existed)");
    expect(await remove(at.first, fresh)).toBe("OK(existed)");
  });

  it("an object with a checksum is read back, locally and remotely", async () => {
    expect(await set(at.first, at.key, at.memory(0, 9, [mib]), { checksum: true })).toBe("OK");
    for (const [index, client] of both(at).entries()) {
      const target = at.memory(1 + index, undefined, [mib]);
      expect(await get(client, at.key, target)).toBe("OK");
      expect(target.holds(9)).toBe(true);
    }
    expect(await remove(at.first, at.key)).toBe("OK(existed)");
  });
});
