/**
 * Goal: HeteroClient refuses wrong calls before anything is sent, sends what it was told, and gives back what was
 * answered, also when the answer is late, a refusal, or the loss of the worker.
 * Method: a native client of this test's own, and virtual time.
 */
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createVirtualClock, type VirtualClock } from "../../../src/base/clock.js";
import { HbmeshError, StatusCode } from "../../../src/base/errors.js";
import { Blob, DeviceBlobList, HeteroClient } from "../../../src/client/index.js";
import type { NativeReply } from "../../../src/sidecar/addon.js";
import { type FakeAddon, FakeNative, fakeAddon, nativeError, objectReply, refusal } from "./fake-native.js";

let native: FakeNative;
let addon: FakeAddon;
let clock: VirtualClock;
let client: HeteroClient;
const address = { host: "127.0.0.1", port: 31501 };
const node = "127.0.0.1:31501";
const list = (device = 0, ...sizes: bigint[]): DeviceBlobList =>
  new DeviceBlobList(
    device,
    (sizes.length === 0 ? [64n] : sizes).map((size) => new Blob(4096n, size)),
  );

beforeEach(async () => {
  native = new FakeNative();
  addon = fakeAddon(native);
  clock = createVirtualClock();
  client = new HeteroClient(address, { addon, clock });
  await client.init();
});

afterEach(() => client.close());

describe("options", () => {
  it.each([
    { name: "no host", options: { host: "", port: 1 }, says: /host/ },
    { name: "port 0", options: { host: "a", port: 0 }, says: /port 0/ },
    { name: "port 65536", options: { host: "a", port: 65_536 }, says: /65535/ },
    { name: "a negative timeout", options: { ...address, connectTimeoutMs: -1 }, says: /connectTimeoutMs/ },
    {
      name: "a timeout that is no number",
      options: { ...address, requestTimeoutMs: Number.NaN },
      says: /requestTimeoutMs/,
    },
  ])("$name: INVALID", ({ options, says }) => {
    const make = (): HeteroClient => new HeteroClient(options);
    expect(make).toThrow(HbmeshError);
    expect(make).toThrow(says);
  });

  it("go to the client core, with their defaults", () => {
    expect(addon.connects[0]).toMatchObject({
      workerAddress: node,
      token: "",
      connectTimeoutMs: 9_000,
      spinMicros: 20,
      floorBytesPerSecond: 100_000_000n,
    });
  });
});

describe("arguments that are refused before anything is sent", () => {
  const one = [list()];
  const wrong = (value: unknown): never => value as never;
  it.each([
    { name: "no keys", keys: [], lists: [], says: /no keys/ },
    { name: "more lists than keys", keys: ["a"], lists: [list(), list()], says: /1 keys but 2/ },
    {
      name: "10,001 keys",
      keys: Array.from({ length: 10_001 }, (_, i) => `k${i}`),
      lists: one,
      says: /10,001.*10,000/,
    },
    { name: "a key that is no string", keys: ["a", wrong(7)], lists: [list(), list()], says: /number 2 is a number/ },
    { name: "no blobs", keys: ["a"], lists: [new DeviceBlobList(0, [])], key: "a", says: /no blobs/ },
    {
      name: "a pointer that is a number",
      keys: ["a"],
      lists: [wrong({ deviceIndex: 0, blobs: [{ pointer: 4096, size: 1n }] })],
      key: "a",
      says: /bigint/,
    },
    {
      name: "a size that is a number",
      keys: ["a"],
      lists: [wrong({ deviceIndex: 0, blobs: [{ pointer: 1n, size: 64 }] })],
      key: "a",
      says: /BigInt\(bytes\)/,
    },
    { name: "pointer 0", keys: ["a"], lists: [new DeviceBlobList(0, [new Blob(0n, 1n)])], key: "a", says: /pointer 0/ },
    {
      name: "pointer above 64 bits",
      keys: ["a"],
      lists: [new DeviceBlobList(0, [new Blob(2n ** 64n, 1n)])],
      key: "a",
      says: /pointer 18446744073709551616/,
    },
    { name: "size 0", keys: ["a"], lists: [list(0, 0n)], key: "a", says: /size 0/ },
    { name: "two devices", keys: ["a", "b"], lists: [list(0), list(1)], key: "b", says: /device 1.*device 0/ },
    { name: "a device that isn't there", keys: ["a"], lists: [list(4)], key: "a", says: /device 4.*0 to 3/ },
    { name: "a device index that is no index", keys: ["a"], lists: [list(-1)], key: "a", says: /-1/ },
  ])("$name", async ({ keys, lists, key, says }) => {
    for (const call of [client.mSetD2H(keys, lists), client.mGetH2D(keys, lists)]) {
      await expect(call).rejects.toMatchObject({ name: "HbmeshError", code: StatusCode.INVALID, key });
      await expect(call).rejects.toThrow(says);
    }
    expect(native.requests).toEqual([]);
  });

  it("options of a call", async () => {
    await expect(client.mSetD2H(["a"], one, { existence: wrong("maybe") })).rejects.toThrow(
      /"skip", "fail" and "replace"/,
    );
    await expect(client.mSetD2H(["a"], one, { ttlSeconds: -1 })).rejects.toThrow(/ttlSeconds is -1/);
    await expect(client.mGetH2D(["a"], one, { timeoutMs: Number.POSITIVE_INFINITY })).rejects.toThrow(/timeoutMs/);
    const tooLong = { code: StatusCode.INVALID, message: expect.stringMatching(/timeoutMs .* from 0 to 1,800,000/) };
    await expect(client.mGetH2D(["a"], one, { timeoutMs: 1_800_001 })).rejects.toMatchObject(tooLong);
    await expect(client.devMGet(["a"], one, { timeoutMs: 1_800_001 })).rejects.toMatchObject(tooLong);
    await expect(client.reserveLayers(one, { ttlSeconds: 1_801 })).rejects.toThrow(/ttlSeconds .* from 0 to 1,800/);
    expect(native.requests).toEqual([]);
    expect((await client.mGetH2D(["a"], one, { timeoutMs: 1_800_000 })).failedKeys).toEqual([]);
    native.requests.length = 0;
    expect(native.requests).toEqual([]);
  });

  it("queries take 100,000 keys, and not one more", async () => {
    const keys = Array.from({ length: 100_001 }, (_, index) => `k${index}`);
    await expect(client.exist(keys)).rejects.toMatchObject({ code: StatusCode.INVALID });
    expect((await client.exist(keys.slice(1))).presences).toHaveLength(100_000);
  });

  it("pre-registration names the range", async () => {
    await expect(client.preRegisterDeviceMemory([1n], [])).rejects.toThrow(/1 pointers but 0 sizes/);
    await expect(client.preRegisterDeviceMemory([1n, 2n], [1n, 0n])).rejects.toThrow(/range 1 has size 0/);
    await client.preRegisterDeviceMemory([4096n], [1n]);
  });
});

describe("what is sent", () => {
  it("a set: keys, blobs and options, flat", async () => {
    await client.mSetD2H(["a", "bcd"], [list(1, 10n), list(1, 20n, 30n)], { existence: "replace", ttlSeconds: 1.5 });
    const [request] = native.requests;
    expect(request).toMatchObject({ op: 1, args: [2n, 1500n, 0n, 0n], deviceIndex: 1, keyCount: 2 });
    expect([...(request?.blobEnds ?? [])]).toEqual([1, 3]);
    expect([...(request?.sizes ?? [])]).toEqual([10n, 20n, 30n]);
    expect(Buffer.from(request?.keys ?? []).toString("hex")).toBe("020000000400000001000000040000006162636400000000");
  });

  it("a get: how long to wait", async () => {
    await client.mGetH2D(["a"], [list(2)], { timeoutMs: 60_000 });
    expect(native.requests[0]).toMatchObject({ op: 2, args: [60_000n, 0n, 0n, 0n], deviceIndex: 2 });
  });
});

describe("what is answered", () => {
  it("a set: statuses, existed and the path", async () => {
    const path = { transport: 0, device: 1, lanes: 2, bytes: 64n, nanoseconds: 2_000_000_000n, source: node };
    native.answer = async () => ({
      code: 0,
      payload: objectReply([{ flags: 1 }, { code: StatusCode.OUT_OF_MEMORY, message: "the arena is full" }], [path]),
    });
    const result = await client.mSetD2H(["a", "b"], [list(1), list(1)]);
    expect(result.existed).toEqual([true, false]);
    expect(result.statuses[0]).toMatchObject({ code: StatusCode.OK, message: "", key: "a", ok: true });
    expect(result.statuses[1]).toMatchObject({
      code: StatusCode.OUT_OF_MEMORY,
      message: "the arena is full",
      key: "b",
    });
    expect(result.failedKeys).toEqual(["b"]);
    expect(result.path).toBe("local sim:1 -> 127.0.0.1:31501, 2 lanes");
    expect(result.paths[0]).toMatchObject({ transport: "local", bytes: 64n, seconds: 2, fallback: false });
    expect(() => result.throwIfFailed()).toThrow("the arena is full");
  });

  it("a get: each path with its source, fallbacks told", async () => {
    const tcp = { transport: 2, device: 2, lanes: 1, flags: 3, bytes: 1n, nanoseconds: 1n, source: "10.0.0.7:31501" };
    native.answer = async () => ({ code: 0, payload: objectReply([{}], [tcp, { ...tcp, transport: 9, flags: 4 }]) });
    const result = await client.mGetH2D(["a"], [list(2)]);
    expect(result.path).toBe(
      "tcp 10.0.0.7:31501 -> sim:2, 1 lane, staged, fallback; transport 9 10.0.0.7:31501 -> sim:2, 1 lane, from SSD",
    );
    expect(result.paths.map(({ spilled }) => spilled)).toEqual([false, true]);
  });

  it("exist: a hit, a miss and an unknown", async () => {
    const codes = [0, StatusCode.NOT_FOUND, StatusCode.RPC_UNAVAILABLE];
    native.answer = async () => ({ code: 0, payload: objectReply(codes.map((code) => ({ code, message: "why" }))) });
    const result = await client.exist(["a", "b", "c"]);
    expect(result.presences).toEqual(["HIT", "MISS", "UNKNOWN"]);
    expect(result.statuses.map((status) => status.codeName)).toEqual(["OK", "OK", "RPC_UNAVAILABLE"]);
    expect(result.failedKeys).toEqual(["c"]);
    expect(result.path).toBe("none");
  });

  it("getMetaInfo: sizes of each key's blobs", async () => {
    const keys = [{ bytes: 30n, generation: 5n }, { code: StatusCode.NOT_FOUND, message: "not there" }, { bytes: 7n }];
    native.answer = async () => ({ code: 0, payload: objectReply(keys, [], [[10n, 20n], [], [7n]]) });
    const result = await client.getMetaInfo(["a", "b", "c"]);
    expect(result.metas).toEqual([
      { sizeBytes: 30n, blobSizes: [10n, 20n], generation: 5n },
      undefined,
      { sizeBytes: 7n, blobSizes: [7n], generation: 0n },
    ]);
    expect(result.failedKeys).toEqual(["b"]);
  });

  it.each([
    { message: 'key "b" (number 2) has the byte " " at 1', key: "b" },
    { message: 'key "b" is in the call twice (numbers 1 and 2)', key: "a" },
    { message: "key number 2 is empty", key: "b" },
    { message: 'blob 3 of key "b" (number 2) with pointer 0x1', key: "b" },
    { message: "the sidecar is busy", key: undefined },
  ])("a refusal of the whole call rejects and names the key: $message", async ({ message, key }) => {
    native.answer = async () => ({ code: StatusCode.INVALID, payload: refusal(message) });
    await expect(client.delete(["a", "b"])).rejects.toMatchObject({ code: StatusCode.INVALID, message, key, node });
    native.answer = async () => Promise.reject(nativeError(StatusCode.INVALID, message));
    await expect(client.delete(["a", "b"])).rejects.toMatchObject({ code: StatusCode.INVALID, message, key, node });
  });

  it.each([
    { name: "nothing", payload: new Uint8Array(0) },
    { name: "another number of keys", payload: objectReply([{}, {}]) },
    { name: "cut off", payload: objectReply([{ message: "long" }]).subarray(0, 50) },
  ])("a reply that contradicts itself ($name): DATA_INCONSISTENCY", async ({ payload }) => {
    native.answer = async () => ({ code: 0, payload });
    await expect(client.delete(["a"])).rejects.toMatchObject({ code: StatusCode.DATA_INCONSISTENCY, node });
  });
});

describe("time limits and cancellation", () => {
  /** Answers nothing until it is told to stop. */
  const hang = (onStop: NativeReply | Error): void => {
    let settle: () => void = () => {};
    native.answer = async () =>
      await new Promise((resolve, reject) => {
        settle = () => (onStop instanceof Error ? reject(onStop) : resolve(onStop));
      });
    native.onCancel = () => settle();
  };

  it("a call that isn't answered is stopped, and says what it waited for", async () => {
    hang({ code: StatusCode.RPC_CANCELLED, payload: refusal("cancelled") });
    const call = client.mGetH2D(["a"], [list()], { timeoutMs: 1_000 });
    const failure = expect(call).rejects.toMatchObject({
      code: StatusCode.RPC_DEADLINE_EXCEEDED,
      message: expect.stringMatching(
        /waited 10001 ms for worker 127\.0\.0\.1:31501 to answer mGetH2D of 1 key \(first "a"\)/,
      ),
    });
    await clock.advance(10_000);
    expect(native.cancelled).toEqual([]);
    await clock.advance(10);
    await failure;
    expect(native.cancelled).toEqual([1n]);
    expect(clock.pendingTimers).toBe(0);
  });

  it("an answer that comes after all is given", async () => {
    hang({ code: 0, payload: objectReply([{}]) });
    const call = client.delete(["a"]);
    await clock.advance(9_001);
    expect((await call).failedKeys).toEqual([]);
  });

  it("a sidecar that doesn't even stop: WORKER_TIMEOUT, with the warning about the memory", async () => {
    native.answer = async () => await new Promise(() => {});
    const failure = expect(client.delete(["a"])).rejects.toMatchObject({
      code: StatusCode.WORKER_TIMEOUT,
      message: expect.stringMatching(/did not confirm.*don't reuse the device memory/),
    });
    await clock.advance(12_000);
    await failure;
  });

  it("bytes that move may have to come to their end: a stop is given as long as they may take", async () => {
    native.answer = async () => await new Promise(() => {});
    const large = new DeviceBlobList(0, [new Blob(4096n, 1_000_000_000n)]); // 10 s at the floor rate
    const controller = new AbortController();
    let ended = false;
    const call = client.mSetD2H(["a"], [large], { signal: controller.signal }).finally(() => {
      ended = true;
    });
    const failure = expect(call).rejects.toMatchObject({
      code: StatusCode.WORKER_TIMEOUT,
      message: expect.stringMatching(/cancelled by its caller. The sidecar did not confirm within 12000 ms/),
    });
    controller.abort();
    await clock.advance(11_999);
    expect(ended).toBe(false);
    await clock.advance(1);
    await failure;
    expect(clock.pendingTimers).toBe(0);
  });

  it("an aborted call: RPC_CANCELLED, once the sidecar has stopped", async () => {
    hang(nativeError(StatusCode.RPC_CANCELLED, "cancelled before it was sent"));
    const controller = new AbortController();
    const call = client.mSetD2H(["a"], [list()], { signal: controller.signal });
    controller.abort();
    await expect(call).rejects.toMatchObject({ code: StatusCode.RPC_CANCELLED });
    expect(native.cancelled).toEqual([1n]);
    expect(clock.pendingTimers).toBe(0);
  });

  it("keys that were left undone: an abort rejects, a time limit only when nothing was done", async () => {
    const cancelled = { code: StatusCode.RPC_CANCELLED, message: "cancelled by the caller" };
    hang({ code: 0, payload: objectReply([{}, cancelled]) });
    const controller = new AbortController();
    const aborted = client.mGetH2D(["a", "b"], [list(), list()], { signal: controller.signal });
    controller.abort();
    await expect(aborted).rejects.toMatchObject({ code: StatusCode.RPC_CANCELLED });

    const late = client.mGetH2D(["a", "b"], [list(), list()]);
    await clock.advance(9_001);
    const { failedKeys, statuses } = await late;
    expect(failedKeys).toEqual(["b"]);
    expect(statuses[1]).toMatchObject({
      code: StatusCode.RPC_DEADLINE_EXCEEDED,
      message: expect.stringMatching(/^waited \d+ ms for worker/),
    });

    hang({ code: 0, payload: objectReply([cancelled, cancelled]) });
    const nothing = expect(client.mGetH2D(["a", "b"], [list(), list()])).rejects.toMatchObject({
      code: StatusCode.RPC_DEADLINE_EXCEEDED,
    });
    await clock.advance(9_001);
    await nothing;
  });

  it("a signal that was aborted before: nothing is sent", async () => {
    await expect(client.delete(["a"], { signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: StatusCode.RPC_CANCELLED,
    });
    expect(native.requests).toEqual([]);
  });
});

describe("life of a client", () => {
  it("before init: NOT_READY; after close: SHUTTING_DOWN; both may be repeated", async () => {
    const fresh = new HeteroClient(address, { addon: fakeAddon(new FakeNative()), clock });
    await expect(fresh.exist(["a"])).rejects.toMatchObject({ code: StatusCode.NOT_READY });
    await Promise.all([fresh.init(), fresh.init()]);
    expect(fresh.deviceCount).toBe(4);
    await fresh.close();
    await fresh.close();
    await expect(fresh.exist(["a"])).rejects.toMatchObject({ code: StatusCode.SHUTTING_DOWN });
    await expect(fresh.init()).rejects.toMatchObject({ code: StatusCode.SHUTTING_DOWN });
  });

  it("no worker: init rejects with its cause and may be tried again", async () => {
    const failing = fakeAddon(nativeError(StatusCode.NO_AVAILABLE_WORKER, "no worker serves 127.0.0.1:31501"));
    const fresh = new HeteroClient(address, { addon: failing, clock });
    await expect(fresh.init()).rejects.toMatchObject({ code: StatusCode.NO_AVAILABLE_WORKER, node });
    await expect(fresh.init()).rejects.toMatchObject({ code: StatusCode.NO_AVAILABLE_WORKER, node });
    expect(failing.connects).toHaveLength(2);
    await fresh.close();
  });

  it("a lost worker: calls say so until init connects anew", async () => {
    addon.lose("the sidecar ended");
    expect(native.closed).toBe(true);
    await expect(client.exist(["a"])).rejects.toMatchObject({
      code: StatusCode.CLIENT_WORKER_DISCONNECT,
      message: "the sidecar ended",
      node,
    });
    await client.init();
    expect((await client.exist(["a"])).presences).toEqual(["HIT"]);
  });

  it("close while connecting: the session is not kept", async () => {
    const late = new FakeNative();
    const fresh = new HeteroClient(address, { addon: fakeAddon(late), clock });
    const connecting = fresh.init();
    const failure = expect(connecting).rejects.toMatchObject({ code: StatusCode.SHUTTING_DOWN });
    await fresh.close();
    await failure;
    expect(late.closed).toBe(true);
  });

  it("close resolves once the session has ended, for a second caller too", async () => {
    let end: () => void = () => {};
    native.closing = new Promise((resolve) => {
      end = resolve;
    });
    const resolved: string[] = [];
    const both = ["first", "second"].map(async (name) => {
      await client.close();
      resolved.push(name);
    });
    await expect(client.exist(["a"])).rejects.toMatchObject({ code: StatusCode.SHUTTING_DOWN });
    await new Promise(setImmediate);
    expect(native.closed).toBe(true);
    expect(resolved).toEqual([]);
    end();
    await Promise.all(both);
    expect(resolved).toHaveLength(2);
  });

  it("generated keys differ and keep to the strict rule", () => {
    const keys = [client.generateKey(), client.generateKey("kv"), client.generateKey("kv")];
    expect(new Set(keys).size).toBe(3);
    expect(keys[1]).toMatch(/^kv-[0-9a-f-]{36}$/);
  });
});
