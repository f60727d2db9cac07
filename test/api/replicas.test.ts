/**
 * Goal: copies that remote gets leave make the next get a local one and outlive their source, and nobody ever reads by
 * them what was deleted or replaced: not even when that comes while the owner is being told of the copy.
 * Method: real workers that keep copies. Many rounds of set, remote get, and at once a replace or a delete, at
 * alternating workers; what every worker then answers is compared with what was done. A worker is killed, and its keys
 * are read elsewhere.
 */
import { afterEach, describe, expect, it } from "vitest";
import { StatusCode } from "../../src/base/errors.js";
import type { HeteroClient } from "../../src/client/index.js";
import { until } from "../cluster/commands.js";
import { codesOf, DeviceObject, type Fixture, startFixture } from "../cluster/fixture.js";

const sizes = [72 * 1024, 1, 4096, 100_000];

describe.each(["tcp", "shm"] as const)("copies of remote reads: %s", (transport) => {
  let fixture: Fixture;
  let made: DeviceObject[] = [];

  const memory = (device: number, seed?: number): DeviceObject => {
    const object = new DeviceObject(device, sizes, seed);
    made.push(object);
    return object;
  };
  const start = async (workers: number, ...workerArgs: string[]): Promise<HeteroClient[]> => {
    fixture = await startFixture({ transport, workers, replicaPercent: 50, workerArgs });
    return await Promise.all(fixture.addresses.map((_, index) => fixture.client(index)));
  };
  const set = async (client: HeteroClient, key: string, from: DeviceObject, existence?: "replace"): Promise<void> => {
    const options = existence === undefined ? {} : { existence };
    expect(codesOf(await client.mSetD2H([key], [from.list], options))).toEqual(["OK"]);
  };
  /** What the get's bytes came over. */
  const get = async (client: HeteroClient, key: string, seed: number): Promise<string | undefined> => {
    const target = memory(1);
    const result = await client.mGetH2D([key], [target.list], { timeoutMs: 0 });
    expect(codesOf(result)).toEqual(["OK"]);
    expect(target.holds(seed)).toBe(true);
    return result.paths[0]?.transport;
  };
  const isCopied = async (client: HeteroClient, key: string): Promise<boolean> =>
    JSON.stringify(await client.explain(key)).includes('"replica":true');

  afterEach(async () => {
    for (const object of made) {
      object.free();
    }
    made = [];
    await fixture.close();
  });

  it("the next get is local; existence modes, delete and metadata treat a copy as the object", async () => {
    const [first, second] = (await start(2)) as [HeteroClient, HeteroClient];
    await set(first, "k", memory(0, 1));
    expect(await get(second, "k", 1)).toBe(transport);
    await until("the copy is known", () => isCopied(second, "k"));
    expect(await get(second, "k", 1)).toBe("local");
    const skipped = await second.mSetD2H(["k"], [memory(0, 2).list]);
    expect([codesOf(skipped), skipped.existed]).toEqual([["OK"], [true]]);
    const refused = await second.mSetD2H(["k"], [memory(0, 2).list], { existence: "fail" });
    expect(codesOf(refused)).toEqual(["KEY_ALREADY_EXISTS"]);
    expect((await second.getMetaInfo(["k"])).metas[0]?.blobSizes).toEqual(sizes.map(BigInt));
    await set(second, "k", memory(0, 3), "replace");
    expect(await get(second, "k", 3)).toBe("local");
    expect(await get(first, "k", 3)).toBe(transport);
    const removed = await first.delete(["k"]);
    expect([codesOf(removed), removed.existed]).toEqual([["OK"], [true]]);
    for (const client of [first, second]) {
      expect((await client.exist(["k"])).presences).toEqual(["MISS"]);
      expect(codesOf(await client.mGetH2D(["k"], [memory(1).list], { timeoutMs: 0 }))).toEqual(["NOT_FOUND"]);
    }
  });

  it("a replace or a delete that comes at once reaches the copy, wherever the owner is", async () => {
    const clients = await start(3);
    for (let round = 0; round < 60; round += 1) {
      const key = `k${round}`;
      const [setter, reader, other] = [0, 1, 2].map((step) => clients[(round + step) % 3]) as [
        HeteroClient,
        HeteroClient,
        HeteroClient,
      ];
      await set(setter, key, memory(0, 10 + round));
      await get(reader, key, 10 + round);
      if (round % 2 === 0) {
        await set([setter, reader, other][(round / 2) % 3] as HeteroClient, key, memory(0, 1_000 + round), "replace");
        for (const client of [reader, other, setter]) {
          await get(client, key, 1_000 + round);
        }
      }
      expect((await [other, reader, setter][round % 3]?.delete([key]))?.existed).toEqual([true]);
      for (const client of clients) {
        const result = await client.mGetH2D([key], [memory(1).list], { timeoutMs: 0 });
        expect([round, codesOf(result)]).toEqual([round, ["NOT_FOUND"]]);
      }
      for (const object of made.splice(0)) {
        object.free();
      }
    }
  });

  it("its worker's death leaves the copy, which others find", async () => {
    const [first, second, third] = (await start(3, "--lease_ms", "1000")) as [HeteroClient, HeteroClient, HeteroClient];
    const keys = Array.from({ length: 12 }, (_, index) => `k${index}`);
    for (const [index, key] of keys.entries()) {
      await set(first, key, memory(0, 100 + index));
      await get(second, key, 100 + index);
    }
    await until("the copies are known", async () => (await isCopied(second, "k11")) && (await isCopied(second, "k0")));
    const worker = fixture.cluster.workers[0];
    process.kill(worker?.ready.sidecarPid ?? 0, "SIGKILL");
    worker?.process.kill("SIGKILL");
    await worker?.ended;
    for (const [index, key] of keys.entries()) {
      expect(await get(second, key, 100 + index)).toBe("local");
      const target = memory(1);
      await until(`${key} is read from the copy`, async () => {
        const result = await third.mGetH2D([key], [target.list], { timeoutMs: 0 });
        // Never a miss: until the owner is gone for good it can't be asked, or doesn't know who is there.
        expect(result.statuses[0]?.code).not.toBe(StatusCode.NOT_FOUND);
        return result.statuses[0]?.ok;
      });
      expect(target.holds(100 + index)).toBe(true);
    }
  });
});
