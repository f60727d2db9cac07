/**
 * Goal: every bad input is refused with its code, its key and a message that says what to do, and leaves nothing half-done.
 * Method: two workers; each case makes one call with one fault beside a good key, then looks that the good key was not set.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { StatusCode } from "../../src/base/errors.js";
import { Blob, DeviceBlobList, type HeteroClient } from "../../src/client/index.js";
import { clientOf, codesOf, DeviceObject, type Fixture, failureOf, startFixture } from "./fixture.js";

let fixture: Fixture;
let client: HeteroClient;
let other: HeteroClient;
let good: DeviceObject;
let second: DeviceObject;

beforeAll(async () => {
  fixture = await startFixture();
  client = await fixture.client(0);
  other = await fixture.client(1);
  good = new DeviceObject(0, [4096, 100], 1);
  second = new DeviceObject(0, [4096, 100], 2);
});

afterAll(async () => {
  good.free();
  second.free();
  await fixture.close();
});

const setBoth = (keys: string[]): Promise<unknown> => client.mSetD2H(keys, [good.list, second.list]);

describe("keys", () => {
  it.each([
    { name: "empty", key: "", says: /empty/ },
    { name: "256 bytes", key: "k".repeat(256), says: /255/ },
    { name: "a space in it", key: "a b", says: /byte "\\x20" at 1: allowed are A-Z a-z/ },
    { name: "a slash in it", key: "a/b", says: /byte "\/" at 1: allowed are/ },
    { name: "a dot in it (rule strict)", key: "a.b", says: /byte "\." at 1: allowed are/ },
    { name: "a letter beyond ASCII", key: "schlüssel", says: /byte "\\xC3" at 4: allowed are/ },
  ])("$name: INVALID, and the good key beside it is not set", async ({ key, says }) => {
    const failure = await failureOf(setBoth(["good", key]));
    expect(failure).toMatchObject({ name: "HbmeshError", code: StatusCode.INVALID, key });
    expect(failure.message).toMatch(says);
    expect((await client.exist(["good"])).presences).toEqual(["MISS"]);
  });

  it("255 bytes are allowed", async () => {
    const key = "k".repeat(255);
    expect(codesOf(await client.mSetD2H([key], [good.list]))).toEqual(["OK"]);
    expect(codesOf(await client.delete([key]))).toEqual(["OK"]);
  });

  it("twice in one call: INVALID naming it", async () => {
    const failure = await failureOf(setBoth(["twin", "twin"]));
    expect(failure).toMatchObject({ code: StatusCode.INVALID, key: "twin" });
    expect(failure.message).toMatch(/twice|duplicate|more than once/);
    expect((await client.exist(["twin"])).presences).toEqual(["MISS"]);
  });

  it("10,001 in one call: INVALID naming the limit; 10,000 are allowed", async () => {
    const keys = Array.from({ length: 10_001 }, (_, index) => `many-${index}`);
    const failure = await failureOf(client.delete(keys));
    expect(failure.code).toBe(StatusCode.INVALID);
    expect(failure.message).toMatch(/10,?000/);
    const result = await client.delete(keys.slice(1));
    expect(result.failedKeys).toEqual([]);
  });

  it("none at all, or not as many as blob lists: INVALID", async () => {
    expect(await failureOf(client.mSetD2H([], []))).toMatchObject({ code: StatusCode.INVALID });
    const failure = await failureOf(client.mSetD2H(["one"], [good.list, second.list]));
    expect(failure.code).toBe(StatusCode.INVALID);
    expect(failure.message).toMatch(/1.*2|2.*1/);
  });
});

describe("blobs", () => {
  const refused = async (list: DeviceBlobList): Promise<{ code: StatusCode; message: string; key?: string }> => {
    const failure = await failureOf(client.mSetD2H(["good", "bad"], [good.list, list]));
    expect((await client.exist(["good", "bad"])).presences).toEqual(["MISS", "MISS"]);
    return failure;
  };

  it("size 0: INVALID naming the key", async () => {
    const pointer = good.list.blobs[0]?.pointer ?? 0n;
    const failure = await refused(new DeviceBlobList(0, [new Blob(pointer, 0n)]));
    expect(failure).toMatchObject({ code: StatusCode.INVALID, key: "bad" });
    expect(failure.message).toMatch(/size|0 bytes/);
  });

  it("no blobs: INVALID naming the key", async () => {
    expect(await refused(new DeviceBlobList(0, []))).toMatchObject({ code: StatusCode.INVALID, key: "bad" });
  });

  it("a pointer that is no device memory: INVALID naming the key and the pointer", async () => {
    const failure = await refused(new DeviceBlobList(0, [new Blob(0x1234_5000n, 64n)]));
    expect(failure).toMatchObject({ code: StatusCode.INVALID, key: "bad" });
    expect(failure.message).toMatch(/0x12345000/);
  });

  it("longer than its memory: INVALID naming the key", async () => {
    const pointer = good.list.blobs[0]?.pointer ?? 0n;
    const failure = await refused(new DeviceBlobList(0, [new Blob(pointer, 1n << 40n)]));
    expect(failure).toMatchObject({ code: StatusCode.INVALID, key: "bad" });
  });

  it("a device that doesn't exist: INVALID naming it and how many there are", async () => {
    const blobs = good.list.blobs;
    const failure = await failureOf(client.mSetD2H(["good"], [new DeviceBlobList(4, blobs)]));
    expect(failure.code).toBe(StatusCode.INVALID);
    expect(failure.message).toMatch(/device 4/);
    expect(failure.message).toMatch(/\b(4 devices|0 to 3)\b/);
  });

  it("two devices in one batch: INVALID naming both", async () => {
    const elsewhere = new DeviceObject(1, [64], 3);
    const failure = await refused(elsewhere.list);
    expect(failure).toMatchObject({ code: StatusCode.INVALID, key: "bad" });
    expect(failure.message).toMatch(/device.*\b[01]\b.*\b[01]\b/);
    elsewhere.free();
  });
});

describe("a get of another shape than the set's", () => {
  beforeAll(async () => {
    expect(codesOf(await client.mSetD2H(["shaped"], [good.list]))).toEqual(["OK"]);
  });

  afterAll(async () => {
    await client.delete(["shaped"]);
  });

  it.each([
    { name: "another count", sizes: [4096, 50, 50], says: /2.*3|3.*2/ },
    { name: "another size", sizes: [4096, 101], says: /100.*101|101.*100/ },
    { name: "the same bytes, split otherwise", sizes: [100, 4096], says: /4096.*100|100.*4096/ },
  ])("$name: INVALID naming both, locally and remotely", async ({ sizes, says }) => {
    for (const reader of [client, other]) {
      const target = new DeviceObject(2, sizes);
      const result = await reader.mGetH2D(["shaped"], [target.list], { timeoutMs: 0 });
      expect(codesOf(result)).toEqual(["INVALID"]);
      expect(result.failedKeys).toEqual(["shaped"]);
      expect(result.statuses[0]?.message).toMatch(says);
      expect(target.holds(undefined)).toBe(true);
      target.free();
    }
  });
});

describe("keys and workers that aren't there", () => {
  it("an unknown key without waiting: NOT_FOUND at once, the others are read", async () => {
    expect(codesOf(await client.mSetD2H(["known"], [good.list]))).toEqual(["OK"]);
    for (const reader of [client, other]) {
      const targets = [new DeviceObject(1, [4096, 100]), new DeviceObject(1, [4096, 100])];
      const lists = targets.map((target) => target.list);
      const result = await reader.mGetH2D(["unknown", "known"], lists, { timeoutMs: 0 });
      expect(codesOf(result)).toEqual(["NOT_FOUND", "OK"]);
      expect(result.failedKeys).toEqual(["unknown"]);
      expect(result.statuses[0]?.message).not.toBe("");
      expect(targets.map((target) => target.holds(1))).toEqual([false, true]);
      for (const target of targets) {
        target.free();
      }
    }
    await client.delete(["known"]);
  });

  it("an unknown key with waiting: NOT_FOUND after the wait, which the message names", async () => {
    const target = new DeviceObject(1, [64]);
    const result = await other.mGetH2D(["never"], [target.list], { timeoutMs: 100 });
    expect(codesOf(result)).toEqual(["NOT_FOUND"]);
    expect(result.statuses[0]?.message).toMatch(/100 ms/);
    target.free();
  });

  it("no worker at the address: NO_AVAILABLE_WORKER naming it", async () => {
    const absent = clientOf("127.0.0.1:9", { connectTimeoutMs: 200 });
    const failure = await failureOf(absent.init());
    expect(failure.code).toBe(StatusCode.NO_AVAILABLE_WORKER);
    expect(failure.message).toContain("127.0.0.1:9");
    await absent.close();
  });

  it("a call before init and after close: named as such", async () => {
    const fresh = clientOf(fixture.addresses[0] ?? "");
    expect(await failureOf(fresh.exist(["a"]))).toMatchObject({ code: StatusCode.NOT_READY });
    await fresh.init();
    await fresh.close();
    expect((await failureOf(fresh.exist(["a"]))).code).not.toBe(StatusCode.OK);
  });
});
