/**
 * Goal: every bad input is refused with its code, its key and a message that says what to do, and leaves nothing
 * half-done. Method: each case makes one call with one fault beside a good key, then looks that the good key was not
 * set.
 */
import { expect } from "vitest";
import { StatusCode } from "../../src/base/errors.js";
import { Blob, DeviceBlobList, SimDevice } from "../../src/client/index.js";
import { clientOf, codesOf, failureOf } from "../cluster/fixture.js";
import { apiSuite } from "./suite.js";

const wrongKeys = [
  ["an empty key: INVALID, and the good key beside it is not set", "", /empty/],
  ["a key of 256 bytes: INVALID, and the good key beside it is not set", "k".repeat(256), /255/],
  [
    "a key with a space in it: INVALID, and the good key beside it is not set",
    "a b",
    /byte "\\x20" at 1: allowed are A-Z a-z/,
  ],
  ["a key with a slash in it: INVALID, and the good key beside it is not set", "a/b", /byte "\/" at 1: allowed are/],
  [
    "a key with a dot in it (rule strict): INVALID, and the good key beside it is not set",
    "a.b",
    /byte "\." at 1: allowed are/,
  ],
  [
    "a key with a letter beyond ASCII: INVALID, and the good key beside it is not set",
    "schlüssel",
    /byte "\\xC3" at 4: allowed are/,
  ],
] as const;

const wrongShapes = [
  ["a get of another count of blobs than the set's: INVALID naming both, locally and remotely", [4096, 50, 50]],
  ["a get of another size than the set's: INVALID naming both, locally and remotely", [4096, 101]],
  ["a get of the same bytes, split otherwise: INVALID naming both, locally and remotely", [100, 4096]],
] as const;

apiSuite("bad input", (at, it) => {
  /** Sets the good key and, second, one with a fault. */
  const setBeside = async (
    key: string,
    list: DeviceBlobList,
  ): Promise<{ code: StatusCode; message: string; key?: string }> => {
    const failure = await failureOf(at.first.mSetD2H([at.key, key], [at.memory(0, 1).list, list]));
    expect((await at.first.exist([at.key])).presences).toEqual(["MISS"]);
    return failure;
  };
  const setBlob = async (blobs: readonly Blob[]): Promise<{ code: StatusCode; message: string; key?: string }> => {
    const bad = `${at.key}-bad`;
    const failure = await setBeside(bad, new DeviceBlobList(0, blobs));
    expect(failure).toMatchObject({ code: StatusCode.INVALID, key: bad });
    return failure;
  };
  const good = (): bigint => at.memory(0, 1).list.blobs[0]?.pointer ?? 0n;

  for (const [name, key, says] of wrongKeys) {
    it(name, async () => {
      const failure = await setBeside(key, at.memory(0, 2).list);
      expect(failure).toMatchObject({ name: "HbmeshError", code: StatusCode.INVALID, key });
      expect(failure.message).toMatch(says);
    });
  }

  it("a key of 255 bytes is allowed", async () => {
    const key = "k".repeat(255);
    expect(codesOf(await at.first.mSetD2H([key], [at.memory(0, 1).list]))).toEqual(["OK"]);
    expect((await at.first.delete([key])).existed).toEqual([true]);
  });

  it("a key twice in one call: INVALID naming it", async () => {
    const failure = await setBeside(at.key, at.memory(0, 2).list);
    expect(failure).toMatchObject({ code: StatusCode.INVALID, key: at.key });
    expect(failure.message).toContain("twice (numbers 1 and 2)");
  });

  it("no keys at all, or not as many as blob lists: INVALID", async () => {
    const lists = [at.memory(0, 1).list, at.memory(0, 2).list];
    const none = await failureOf(at.first.mSetD2H([], lists));
    expect(none).toMatchObject({ code: StatusCode.INVALID, message: expect.stringContaining("at least one") });
    const more = await failureOf(at.first.mSetD2H([at.key], lists));
    expect(more).toMatchObject({ code: StatusCode.INVALID, message: expect.stringContaining("blob lists") });
    expect((await at.first.exist([at.key])).presences).toEqual(["MISS"]);
  });

  it("a blob of size 0: INVALID naming the key", async () => {
    expect((await setBlob([new Blob(good(), 0n)])).message).toMatch(/size 0/);
  });

  it("no blobs: INVALID naming the key", async () => {
    expect((await setBlob([])).message).toMatch(/no blobs/);
  });

  it("a pointer that is no device memory: INVALID naming the key and the pointer", async () => {
    expect((await setBlob([new Blob(0x1234_5000n, 64n)])).message).toMatch(/0x12345000/);
  });

  it("a blob longer than its memory: INVALID naming the key and the memory's size", async () => {
    expect((await setBlob([new Blob(good(), 1n << 40n)])).message).toMatch(/73728 bytes/);
  });

  it("a blob in memory that was freed: INVALID naming the key", async () => {
    const device = new SimDevice(0);
    const pointer = device.allocate(8 << 20);
    device.free(pointer);
    // The good key's memory may lie at the start of it by now.
    expect((await setBlob([new Blob(pointer + BigInt(4 << 20), 64n)])).message).toMatch(/not in device memory/);
  });

  it("a device that doesn't exist: INVALID naming it and how many there are", async () => {
    const { blobs } = at.memory(0, 1).list;
    const failure = await failureOf(at.first.mSetD2H([at.key], [new DeviceBlobList(8, blobs)]));
    expect(failure.code).toBe(StatusCode.INVALID);
    expect(failure.message).toMatch(/device 8.*0 to 7/);
  });

  it("two devices in one batch: INVALID naming the key and the device", async () => {
    const failure = await setBeside(`${at.key}-bad`, at.memory(1, 3).list);
    expect(failure).toMatchObject({ code: StatusCode.INVALID, key: `${at.key}-bad` });
    expect(failure.message).toMatch(/device 1/);
  });

  for (const [name, shape] of wrongShapes) {
    it(name, async () => {
      expect(codesOf(await at.first.mSetD2H([at.key], [at.memory(0, 1, [4096, 100]).list]))).toEqual(["OK"]);
      for (const reader of [at.first, at.second]) {
        const target = at.memory(2, undefined, shape);
        const result = await reader.mGetH2D([at.key], [target.list]);
        expect([codesOf(result), result.failedKeys]).toEqual([["INVALID"], [at.key]]);
        expect(result.statuses[0]?.message).toContain("4096, 100");
        expect(result.statuses[0]?.message).toContain(shape.join(", "));
        expect(target.holds(undefined)).toBe(true);
      }
    });
  }

  it("an unknown key without waiting: NOT_FOUND at once, the others are read", async () => {
    const unknown = `${at.key}-unknown`;
    expect(codesOf(await at.first.mSetD2H([at.key], [at.memory(0, 1).list]))).toEqual(["OK"]);
    for (const reader of [at.first, at.second]) {
      const targets = [at.memory(1), at.memory(1)];
      const result = await reader.mGetH2D(
        [unknown, at.key],
        targets.map((target) => target.list),
      );
      expect([codesOf(result), result.failedKeys]).toEqual([["NOT_FOUND", "OK"], [unknown]]);
      expect(result.statuses[0]?.message).not.toBe("");
      expect(targets.map((target, index) => target.holds([undefined, 1][index]))).toEqual([true, true]);
    }
  });

  it("an unknown key with waiting: NOT_FOUND after the wait, which the message names", async () => {
    const result = await at.second.mGetH2D([at.key], [at.memory(1).list], { timeoutMs: 100 });
    expect(codesOf(result)).toEqual(["NOT_FOUND"]);
    expect(result.statuses[0]?.message).toMatch(/100 ms/);
  });

  it("no worker at the address: NO_AVAILABLE_WORKER naming it", async () => {
    const absent = clientOf("127.0.0.1:9", { connectTimeoutMs: 200 });
    const failure = await failureOf(absent.init());
    expect(failure.code).toBe(StatusCode.NO_AVAILABLE_WORKER);
    expect(failure.message).toContain("127.0.0.1:9");
    await absent.close();
  });

  it("a call before init: NOT_READY; after close: SHUTTING_DOWN", async () => {
    const fresh = at.newClient(0);
    const early = await failureOf(fresh.exist([at.key]));
    expect(early).toMatchObject({ code: StatusCode.NOT_READY, message: expect.stringContaining("init") });
    await fresh.init();
    expect((await fresh.exist([at.key])).presences).toEqual(["MISS"]);
    await fresh.close();
    expect((await failureOf(fresh.exist([at.key]))).code).toBe(StatusCode.SHUTTING_DOWN);
  });

  it("options and times that don't exist: INVALID", async () => {
    const lists = [at.memory(0, 1).list];
    const { first, key } = at;
    for (const [call, says] of [
      [first.mSetD2H([key], lists, { existence: "other" as "skip" }), /existence "other"/],
      [first.mSetD2H([key], lists, { pin: "other" as "soft" }), /pin "other"/],
      [first.mSetD2H([key], lists, { ttlSeconds: 1e12 }), /ttlSeconds/],
      [first.mGetH2D([key], lists, { timeoutMs: 1_800_001 }), /1800001/],
      [first.devMGet([key], lists, { timeoutMs: 1_800_001 }), /1800001/],
    ] as const) {
      const failure = await failureOf(call);
      expect(failure.code).toBe(StatusCode.INVALID);
      expect(failure.message).toMatch(says);
    }
    expect((await first.exist([key])).presences).toEqual(["MISS"]);
  });

  it("registering what is no device memory: INVALID naming the range", async () => {
    const failure = await failureOf(at.first.preRegisterDeviceMemory([0x1000n], [1n]));
    expect(failure.code).toBe(StatusCode.INVALID);
    expect(failure.message).toMatch(/range 0/);
  });
});
