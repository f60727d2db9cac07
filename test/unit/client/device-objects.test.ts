/**
 * Goal: publishes, subscriptions and layers give a future a key, and every future ends exactly once: by its event, or
 * with the request, whatever ends that; nothing is rejected that nobody waits for.
 * Method: a native client of this test's own, and virtual time.
 */
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createVirtualClock, type VirtualClock } from "../../../src/base/clock.js";
import { StatusCode } from "../../../src/base/errors.js";
import { Blob, DeviceBlobList, HeteroClient, type TransferFuture } from "../../../src/client/index.js";
import type { NativeReply } from "../../../src/sidecar/addon.js";
import { deviceReply, FakeNative, fakeAddon, nativeError, objectReply, refusal } from "./fake-native.js";

const address = { host: "127.0.0.1", port: 31501 };
const node = "127.0.0.1:31501";
const list = (device = 0): DeviceBlobList => new DeviceBlobList(device, [new Blob(4096n, 64n)]);
const lists = (count: number): DeviceBlobList[] => Array.from({ length: count }, () => list());
const ticketText = "7-1-0123456789abcdef0123456789abcdef";

let native: FakeNative;
let clock: VirtualClock;
let client: HeteroClient;
let unhandled: unknown[];
const onUnhandled = (reason: unknown): void => {
  unhandled.push(reason);
};

/** A request that is open: what the test says to it. */
interface Open {
  more(...steps: Parameters<typeof deviceReply>[0]): void;
  end(code?: StatusCode, ...steps: Parameters<typeof deviceReply>[0]): void;
  fail(error: Error): void;
}

/** The next request stays open until the test ends it. */
function hold(): Open {
  let onEvents: (payload: Uint8Array) => void = () => {};
  let settle: (reply: NativeReply) => void = () => {};
  let reject: (error: Error) => void = () => {};
  native.answer = async (request) => {
    onEvents = request.onEvents ?? onEvents;
    return await new Promise((onReply, onError) => {
      settle = onReply;
      reject = onError;
    });
  };
  return {
    more: (...steps) => onEvents(deviceReply(steps)),
    end: (code = StatusCode.OK, ...steps) => settle({ code, payload: deviceReply(steps) }),
    fail: (error) => reject(error),
  };
}

const codeOf = async (future: TransferFuture | undefined): Promise<unknown> =>
  await future?.get(0).then(
    () => "OK",
    (error: { codeName: string }) => error.codeName,
  );

beforeEach(async () => {
  unhandled = [];
  process.on("unhandledRejection", onUnhandled);
  native = new FakeNative();
  clock = createVirtualClock();
  client = new HeteroClient(address, { addon: fakeAddon(native), clock });
  await client.init();
});

afterEach(async () => {
  await client.close();
  await new Promise((resolve) => setImmediate(resolve));
  process.off("unhandledRejection", onUnhandled);
  expect(unhandled).toEqual([]);
});

describe("devPublish", () => {
  it("resolves when every key was accepted or has ended; futures end one by one", async () => {
    const open = hold();
    const publishing = client.devPublish(["a", "b", "c"], lists(3));
    open.more({ key: 2 }, { key: 0 });
    open.more({ key: 1, ended: true, code: StatusCode.INVALID, message: "published with other blobs" });
    const futures = await publishing;
    expect(futures.map((future) => [future.key, future.done])).toEqual([
      ["a", false],
      ["b", true],
      ["c", false],
    ]);
    await expect(futures[1]?.get()).rejects.toMatchObject({
      name: "HbmeshError",
      code: StatusCode.INVALID,
      message: "published with other blobs",
      key: "b",
      node,
    });
    open.more({ key: 2, ended: true, bytes: 64n });
    open.end(StatusCode.OK, { key: 0, ended: true, bytes: 64n });
    expect(await futures[0]?.get()).toEqual({ key: "a", bytes: 64n, paths: [], path: "none" });
    expect(await codeOf(futures[2])).toBe("OK");
    expect(clock.pendingTimers).toBe(0);
  });

  it("a refusal of the whole call rejects it, naming the key", async () => {
    native.answer = async () => ({ code: StatusCode.INVALID, payload: refusal('key "b" (number 2) has a space') });
    await expect(client.devPublish(["a", "b"], lists(2))).rejects.toMatchObject({ code: StatusCode.INVALID, key: "b" });
  });

  it("a worker that doesn't accept in time is asked to stop; the call says what it waited for", async () => {
    const open = hold();
    native.onCancel = () => open.end(StatusCode.RPC_CANCELLED);
    const failure = expect(client.devPublish(["a"], lists(1))).rejects.toMatchObject({
      code: StatusCode.RPC_DEADLINE_EXCEEDED,
      message: expect.stringMatching(/waited 9000 ms for worker 127\.0\.0\.1:31501 to accept devPublish of 1 key/),
    });
    await clock.advance(9_001);
    await failure;
    expect(native.cancelled).toEqual([1n]);
    expect(clock.pendingTimers).toBe(0);
  });

  it("once accepted, it waits for its receiver as long as it takes", async () => {
    const open = hold();
    const publishing = client.devPublish(["a"], lists(1));
    open.more({ key: 0 });
    const [future] = await publishing;
    await clock.advance(10 * 3_600_000);
    expect(native.cancelled).toEqual([]);
    open.end(StatusCode.OK, { key: 0, ended: true });
    await future?.get();
  });

  it("an aborted signal ends what is open, and keys that ended in time did", async () => {
    const open = hold();
    const controller = new AbortController();
    const publishing = client.devPublish(["a", "b"], lists(2), { signal: controller.signal });
    open.more({ key: 0 }, { key: 1 });
    const futures = await publishing;
    native.onCancel = () => open.end(StatusCode.RPC_CANCELLED, { key: 1, ended: true });
    controller.abort();
    await expect(futures[0]?.get()).rejects.toMatchObject({ code: StatusCode.RPC_CANCELLED, key: "a" });
    expect(await codeOf(futures[1])).toBe("OK");
  });
});

describe("devSubscribe", () => {
  it.each([
    { keys: ["a"], options: {}, waits: 20_000n },
    { keys: ["a", "b"], options: {}, waits: 60_000n },
    { keys: ["a"], options: { timeoutMs: 5 }, waits: 5n },
  ])("waits $waits ms for $keys", async ({ keys, options, waits }) => {
    const open = hold();
    await client.devSubscribe(keys, lists(keys.length), options);
    expect(native.requests[0]).toMatchObject({ op: 8, args: [waits, 0n, 0n, 0n] });
    open.fail(nativeError(StatusCode.SHUTTING_DOWN, "closed"));
  });

  it("the client's own defaults", async () => {
    const other = new HeteroClient(
      { ...address, subscribeTimeoutMs: 7, subscribeManyTimeoutMs: 8 },
      { addon: fakeAddon(native), clock },
    );
    await other.init();
    const open = hold();
    await other.devSubscribe(["a"], lists(1));
    expect(native.requests[0]?.args[0]).toBe(7n);
    open.fail(nativeError(StatusCode.SHUTTING_DOWN, "closed"));
    expect(() => new HeteroClient({ ...address, subscribeTimeoutMs: 1_800_001 })).toThrow(/1,800,000/);
    await other.close();
  });

  it("refuses a wait over 1,800,000 ms, and get() too", async () => {
    await expect(client.devSubscribe(["a"], lists(1), { timeoutMs: 1_800_001 })).rejects.toThrow(/1,800,000/);
    const open = hold();
    const [future] = await client.devSubscribe(["a"], lists(1));
    for (const wrong of [-1, 1_800_001, Number.NaN]) {
      await expect(future?.get(wrong)).rejects.toMatchObject({ code: StatusCode.INVALID });
    }
    open.end(StatusCode.OK, { key: 0, ended: true });
    await future?.get(1_800_000);
  });

  it("get() that waited too long says so and may be repeated", async () => {
    const open = hold();
    const [future] = await client.devSubscribe(["a"], lists(1));
    await expect(future?.get(0)).rejects.toMatchObject({ code: StatusCode.FUTURE_TIMEOUT, key: "a" });
    const waiting = expect(future?.get(100)).rejects.toMatchObject({
      code: StatusCode.FUTURE_TIMEOUT,
      message: expect.stringMatching(/waited 100 ms for key "a" of devSubscribe/),
    });
    await clock.advance(100);
    await waiting;
    expect(future?.done).toBe(false);
    const again = future?.get(100);
    open.more({ key: 0, ended: true, bytes: 64n });
    expect((await again)?.bytes).toBe(64n);
    open.end();
  });

  it("cancel ends one key, the others go on", async () => {
    const open = hold();
    const cancelled: number[] = [];
    native.onCancelKey = (_, index) => {
      cancelled.push(index);
      open.more({ key: index, ended: true, code: StatusCode.RPC_CANCELLED, message: "cancelled" });
    };
    const futures = await client.devSubscribe(["a", "b"], lists(2));
    futures[1]?.cancel();
    futures[1]?.cancel();
    expect(await codeOf(futures[1])).toBe("RPC_CANCELLED");
    expect(futures[0]?.done).toBe(false);
    open.end(StatusCode.OK, { key: 0, ended: true });
    expect((await futures[0]?.get())?.key).toBe("a");
    futures[0]?.cancel();
    expect(cancelled).toEqual([1]);
    expect(clock.pendingTimers).toBe(0);
  });

  it("a sidecar that doesn't confirm a cancel: WORKER_TIMEOUT, with the warning about the memory", async () => {
    const open = hold();
    const [future] = await client.devSubscribe(["a"], lists(1));
    future?.cancel();
    await clock.advance(2_001);
    await expect(future?.get()).rejects.toMatchObject({
      code: StatusCode.WORKER_TIMEOUT,
      key: "a",
      message: expect.stringMatching(/don't reuse the device memory/),
    });
    open.fail(nativeError(StatusCode.SHUTTING_DOWN, "closed"));
  });

  it.each([
    { name: "the worker's death", code: StatusCode.CLIENT_WORKER_DISCONNECT },
    { name: "close", code: StatusCode.SHUTTING_DOWN },
  ])("$name ends every future that is open", async ({ code }) => {
    const open = hold();
    const futures = await client.devSubscribe(["a", "b", "c"], lists(3));
    open.more({ key: 1, ended: true });
    open.fail(nativeError(code, "why"));
    await clock.settle();
    expect(futures.every((future) => future.done)).toBe(true);
    for (const index of [0, 2]) {
      await expect(futures[index]?.get(0)).rejects.toMatchObject({ code, message: "why", node });
    }
    expect(await codeOf(futures[1])).toBe("OK");
  });

  it("what the worker refuses about the whole call, every future says", async () => {
    native.answer = async () => ({ code: StatusCode.INVALID, payload: refusal("not so") });
    const futures = await client.devSubscribe(["a", "b"], lists(2));
    await clock.settle();
    for (const future of futures) {
      await expect(future.get(0)).rejects.toMatchObject({ code: StatusCode.INVALID, message: "not so" });
    }
  });

  it("a signal that was aborted before: nothing is sent", async () => {
    const call = client.devSubscribe(["a"], lists(1), { signal: AbortSignal.abort() });
    await expect(call).rejects.toMatchObject({ code: StatusCode.RPC_CANCELLED });
    expect(native.requests).toEqual([]);
  });
});

describe("layers", () => {
  it("a ticket, layers as they come, all of them", async () => {
    const open = hold();
    const reserving = client.reserveLayers(lists(3), { ttlSeconds: 1.5 });
    open.more({ key: 0, message: ticketText }, { key: 1 }, { key: 2 });
    const ticket = await reserving;
    expect([ticket.text, ticket.layerCount]).toEqual([ticketText, 3]);
    const [request] = native.requests;
    expect(request).toMatchObject({ op: 13, args: [1500n, 0n, 0n, 0n], keyCount: 3 });
    open.more({ key: 1, ended: true, bytes: 64n });
    expect((await ticket.layer(1)).bytes).toBe(64n);
    await expect(ticket.layer(0, 0)).rejects.toMatchObject({ code: StatusCode.FUTURE_TIMEOUT });
    await expect(ticket.layer(3)).rejects.toMatchObject({ code: StatusCode.OUT_OF_RANGE });
    const all = ticket.all();
    open.end(StatusCode.OK, { key: 0, ended: true }, { key: 2, ended: true });
    expect((await all).map(({ key }) => key)).toEqual(["0", "1", "2"]);
  });

  it("cancel ends the layers that aren't there", async () => {
    const open = hold();
    const reserving = client.reserveLayers(lists(2));
    open.more({ key: 0, message: ticketText }, { key: 1 });
    const ticket = await reserving;
    native.onCancel = () => open.end(StatusCode.RPC_CANCELLED);
    ticket.cancel();
    await expect(ticket.all()).rejects.toMatchObject({ code: StatusCode.RPC_CANCELLED });
  });

  it("what is refused before anything is sent", async () => {
    await expect(client.reserveLayers([])).rejects.toMatchObject({ code: StatusCode.INVALID });
    await expect(client.reserveLayers(lists(1), { ttlSeconds: 0 })).rejects.toThrow(/above 0/);
    await expect(client.push(ticketText, 1.5, list())).rejects.toThrow(/layer 1.5/);
    expect(native.requests).toEqual([]);
  });

  it("push: its layer and ticket; a failure rejects", async () => {
    await client.push(ticketText, 4, list());
    expect(native.requests[0]).toMatchObject({ op: 14, args: [4n, 0n, 0n, 0n], keyCount: 1 });
    native.answer = async () => ({
      code: 0,
      payload: objectReply([{ code: StatusCode.KEY_ALREADY_EXISTS, message: "layer 4 was pushed before" }]),
    });
    await expect(client.push(ticketText, 4, list())).rejects.toMatchObject({
      code: StatusCode.KEY_ALREADY_EXISTS,
      message: "layer 4 was pushed before",
    });
  });
});

describe("device cache, options and explain", () => {
  it("send what they were told", async () => {
    await client.devMSet(["a"], [list()], { existence: "fail" });
    await client.devMGet(["a"], [list()], { timeoutMs: 5, shareReplica: true });
    await client.devMGet(["a"], [list()]);
    await client.devDelete(["a"]);
    await client.devLocalDelete(["a"]);
    await client.mSetD2H(["a"], [list()], { pin: "hard", checksum: true });
    await client.mSetD2H(["a"], [list()], { pin: "soft", ttlSeconds: 2 });
    expect(native.requests.map(({ op, args }) => [op, args])).toEqual([
      [9, [1n, 0n, 0n, 0n]],
      [10, [5n, 1n, 0n, 0n]],
      [10, [0n, 0n, 0n, 0n]],
      [11, [0n, 0n, 0n, 0n]],
      [12, [0n, 0n, 0n, 0n]],
      [1, [0n, 0n, 6n, 0n]],
      [1, [0n, 2000n, 1n, 0n]],
    ]);
    await expect(client.mSetD2H(["a"], [list()], { pin: "glued" as never })).rejects.toThrow(
      /"none", "soft" and "hard"/,
    );
  });

  it("explain gives the worker's document, or its failure", async () => {
    native.answer = async () => ({ code: 0, payload: objectReply([{ message: '{"pin":"soft"}' }]) });
    expect(await client.explain("a")).toEqual({ pin: "soft" });
    native.answer = async () => ({ code: 0, payload: objectReply([{ message: "no JSON" }]) });
    await expect(client.explain("a")).rejects.toMatchObject({ code: StatusCode.DATA_INCONSISTENCY, key: "a" });
    native.answer = async () => ({ code: 0, payload: objectReply([{ code: StatusCode.NOT_FOUND, message: "gone" }]) });
    await expect(client.explain("a")).rejects.toMatchObject({ code: StatusCode.NOT_FOUND, key: "a", message: "gone" });
  });
});
