/**
 * Goal: the largest question that there is: getMetaInfo of 100,000 keys of 61 blobs each, whole and right; exist and
 * delete of the same keys. Method: two workers over tcp; each holds half of the keys (one with 1 GiB holds 65,536
 * objects), set in ten calls of 10,000; both are asked. Run by `npm run test:slow`; the gate has a shorter form of it
 * (test/api/limits.test.ts: as many blob sizes, fewer keys).
 */
import { expect, it } from "vitest";
import { Blob, DeviceBlobList, type HeteroClient } from "../../src/client/index.js";
import { countsOf } from "../api/suite.js";
import { DeviceObject, startFixture } from "../cluster/fixture.js";

const keyCount = 100_000;
const callKeys = 10_000;
const blobCount = 61;

async function seconds<Value>(what: string, call: Promise<Value>): Promise<Value> {
  const started = performance.now();
  const value = await call;
  console.log(`${what}: ${((performance.now() - started) / 1000).toFixed(2)} s`);
  return value;
}

async function asked(client: HeteroClient, where: string, keys: readonly string[]): Promise<void> {
  const info = await seconds(`getMetaInfo ${where}`, client.getMetaInfo(keys));
  expect(countsOf(info)).toEqual({ OK: keyCount });
  const wrong = info.metas.filter((meta, index) => {
    const sizes = meta?.blobSizes ?? [];
    return sizes.length !== blobCount || sizes.some((bytes, blob) => bytes !== BigInt(1 + ((index + blob) % 7)));
  });
  expect(wrong).toEqual([]);
}

it("100,000 keys of 61 blobs", { timeout: 600_000 }, async () => {
  const fixture = await startFixture({ sharedMemorySizeMb: 1_024 });
  const memory = new DeviceObject(0, [7], 1);
  try {
    const [first, second] = [await fixture.client(0), await fixture.client(1)];
    const pointer = memory.list.blobs[0]?.pointer ?? 0n;
    const sized = Array.from({ length: 7 }, (_, index) => new Blob(pointer, BigInt(1 + index)));
    const lists = Array.from({ length: 7 }, (_, index) => {
      return new DeviceBlobList(
        0,
        Array.from({ length: blobCount }, (__, blob) => sized[(index + blob) % 7] as Blob),
      );
    });
    const keys = Array.from({ length: keyCount }, (_, index) => `slow-${index}`);
    for (let at = 0; at < keyCount; at += callKeys) {
      const part = keys.slice(at, at + callKeys);
      const of = part.map((_, index) => lists[(at + index) % 7] as DeviceBlobList);
      const set = await seconds(`mSetD2H of keys ${at} on`, (at < keyCount / 2 ? first : second).mSetD2H(part, of));
      expect(countsOf(set)).toEqual({ OK: callKeys });
    }
    const { presences } = await seconds("exist", second.exist(keys));
    expect(presences.every((presence) => presence === "HIT")).toBe(true);
    await asked(first, "at the first worker", keys);
    await asked(second, "at the second worker", keys);
    const removed = await seconds("delete of 10,000", second.delete(keys.slice(0, callKeys)));
    expect(removed.existed.every(Boolean)).toBe(true);
  } finally {
    memory.free();
    await fixture.close();
  }
});
