/**
 * Goal: of two faults at once, the one is told that docs/API.md names first, for every call.
 * Method: the group's cases at each place of cases.ts: calls with several faults. Signals that are aborted already are
 * TypeScript's alone and come after the table.
 */
import { describe, expect, it as plainIt } from "vitest";
import { StatusCode } from "../../src/base/errors.js";
import { Blob, DeviceBlobList, type HeteroClient, type SetOptions } from "../../src/client/index.js";
import { codesOf, failureOf, startFixture } from "../cluster/fixture.js";
import { everyCall } from "./every-call.js";
import { type ApiPlace, apiSuite } from "./suite.js";

const wrongTime = { timeoutMs: 1_800_001 };
const wrongSet: SetOptions = { existence: "other" as "skip" };
/** A device that isn't there, a blob of size 0. */
const wrongLists = [new DeviceBlobList(99, [new Blob(0x1000n, 0n)])];
const keyed = everyCall.filter(({ hasKeys }) => hasKeys);
const blobbed = everyCall.filter(({ hasBlobs }) => hasBlobs);

/** Calls with everything wrong that there is: options, number of keys, device, blobs. */
const withOptions = (client: HeteroClient): readonly (readonly [RegExp, Promise<unknown>])[] => [
  [/existence/, client.mSetD2H([], wrongLists, wrongSet)],
  [/existence/, client.devMSet([], wrongLists, wrongSet)],
  [/1800001/, client.mGetH2D([], wrongLists, wrongTime)],
  [/1800001/, client.devMGet([], wrongLists, wrongTime)],
  [/1800001/, client.devSubscribe([], wrongLists, wrongTime)],
  [/1800\.001/, client.reserveLayers([], { ttlSeconds: 1_800.001 })],
];

async function eachSays(client: HeteroClient, code: StatusCode): Promise<void> {
  const calls = [
    ...everyCall.map(({ name, call }) => [name, call(client, [], wrongLists)] as const),
    ...withOptions(client),
    ["push", client.push("no ticket", -7, wrongLists[0] as DeviceBlobList)] as const,
    ["preRegisterDeviceMemory", client.preRegisterDeviceMemory([0n], [])] as const,
    ["explain", client.explain(7 as unknown as string)] as const,
  ];
  for (const [name, call] of calls) {
    expect([String(name), (await failureOf(call)).code]).toEqual([String(name), code]);
  }
}

apiSuite("precedence of errors", (at, it) => {
  const blobOf = (device: number, bytes = 64n): Blob =>
    new Blob(at.memory(device, 1, [64]).list.blobs[0]?.pointer ?? 0n, bytes);
  /** Every call with blobs, of two keys, neither allowed. */
  const blobsSay = async (lists: readonly DeviceBlobList[], says: RegExp): Promise<void> => {
    for (const { name, call } of blobbed) {
      const failure = await failureOf(call(at.first, ["a b", "c/d"], lists));
      expect([name, failure.code]).toEqual([name, StatusCode.INVALID]);
      expect(failure.message).toMatch(says);
    }
  };

  it("NOT_READY before anything that is wrong with a call", async () => {
    await eachSays(at.newClient(0), StatusCode.NOT_READY);
  });

  it("SHUTTING_DOWN before anything that is wrong with a call", async () => {
    const client = await at.client(0);
    await client.close();
    await eachSays(client, StatusCode.SHUTTING_DOWN);
  });

  it("options and times before the number of keys", async () => {
    for (const [says, call] of withOptions(at.first)) {
      const failure = await failureOf(call);
      expect(failure.code).toBe(StatusCode.INVALID);
      expect(failure.message).toMatch(says);
    }
  });

  it("the number of keys before devices and blobs", async () => {
    for (const { name, hasKeys, call } of everyCall) {
      const failure = await failureOf(call(at.first, [], hasKeys ? wrongLists : []));
      expect([name, failure.code]).toEqual([name, StatusCode.INVALID]);
      expect(failure.message).toContain("no keys given");
    }
  });

  it("the device before the blobs, and the blobs' sizes before their memory", async () => {
    const nowhere = new Blob(0x1000n, 64n);
    const nothing = new Blob(0x1000n, 0n);
    await blobsSay([new DeviceBlobList(99, [nothing]), new DeviceBlobList(99, [nothing])], /device 99/);
    await blobsSay([new DeviceBlobList(0, [nowhere]), new DeviceBlobList(0, [nothing])], /size 0/);
  });

  it("the blobs' memory, the first one's first, before which keys are allowed", async () => {
    const elsewhere = blobOf(1);
    const list = (blob: Blob): DeviceBlobList => new DeviceBlobList(0, [blob]);
    await blobsSay([list(new Blob(0x1000n, 64n)), list(elsewhere)], /0x1000/);
    await blobsSay([list(blobOf(0)), list(elsewhere)], /device 1/);
  });

  it("which keys are allowed, the first one's fault first, before keys that come twice", async () => {
    const list = new DeviceBlobList(0, [blobOf(0)]);
    for (const { name, call } of keyed) {
      const wrong = await failureOf(call(at.first, [at.key, at.key, "a b", "c/d"], [list, list, list, list]));
      expect([name, wrong.code, wrong.key]).toEqual([name, StatusCode.INVALID, "a b"]);
      expect(wrong.message).toContain("(number 3)");
      const twice = await failureOf(call(at.first, [at.key, at.key], [list, list]));
      expect([name, twice.code, twice.key]).toEqual([name, StatusCode.INVALID, at.key]);
      expect(twice.message).toContain("(numbers 1 and 2)");
    }
    expect((await at.first.exist([at.key])).presences).toEqual(["MISS"]);
  });

  it("what is wrong with the blobs before a call that is too large, and that before which keys are allowed", async () => {
    const blob = blobOf(0, 1n);
    const blobs = Array.from({ length: 1_400_000 }, () => blob);
    const list = (last: bigint): DeviceBlobList => new DeviceBlobList(0, [...blobs, new Blob(blob.pointer, last)]);
    expect((await failureOf(at.first.mSetD2H(["a b"], [list(1n)]))).code).toBe(StatusCode.OUT_OF_RANGE);
    const failure = await failureOf(at.first.mSetD2H(["a b"], [list(0n)]));
    expect(failure.code).toBe(StatusCode.INVALID);
    expect(failure.message).toContain("size 0");
  });

  it("of a key: its family, then whose it is, then the card, then the blobs", () => faultsOfAKey(at));
  it("of a push: ticket, secret, layer, pushed before, blobs; of a wait: layer, time", () => faultsOfAPush(at));
});

async function faultsOfAKey(at: ApiPlace): Promise<void> {
  const stranger = await at.client(0);
  const cached = `${at.key}-cache`;
  const sent = await at.publish(at.first, at.key, at.memory(0, 2));
  expect(codesOf(await at.first.devMSet([cached], [at.memory(0, 4).list]))).toEqual(["OK"]);
  const other = at.memory(0, 1, [3]); // on the same card, and of another shape
  const published = async (key: string): Promise<unknown> =>
    await (await at.publish(stranger, key, other)).get(30_000).catch((error: unknown) => error);
  const subscribed = async (key: string): Promise<unknown> =>
    await (await at.subscribe(stranger, key, other)).get(30_000).catch((error: unknown) => error);
  const status = async (call: Promise<{ statuses: readonly unknown[] }>): Promise<unknown> => (await call).statuses[0];
  const fail: SetOptions = { existence: "fail" };
  for (const [said, says] of [
    [await status(stranger.mSetD2H([at.key], [other.list], fail)), "devPublish"],
    [await status(stranger.mGetH2D([at.key], [other.list])), "devSubscribe"],
    [await status(stranger.devMSet([at.key], [other.list], fail)), "devPublish"],
    [await status(stranger.devMGet([at.key], [other.list])), "devSubscribe"],
    [await published(at.key), "another client's"],
    [await subscribed(at.key), "device 0"],
    [await subscribed(cached), "devMGet"],
    [await status(stranger.devMGet([cached], [other.list])), "device 0"],
    [await status(stranger.devMSet([cached], [other.list])), "another client's"],
    [await published(cached), "devMSet"],
  ] as const) {
    expect(said).toMatchObject({ code: StatusCode.INVALID, message: expect.stringContaining(says) });
  }
  sent.cancel();
  await expect(sent.get(30_000)).rejects.toMatchObject({ code: StatusCode.RPC_CANCELLED });
}

async function faultsOfAPush(at: ApiPlace): Promise<void> {
  const ticket = await at.second.reserveLayers([at.memory(1).list, at.memory(1).list]);
  const [member, , secret = ""] = ticket.text.split("-");
  const wrongSecret = secret.slice(0, -1) + (secret.endsWith("0") ? "1" : "0");
  await at.first.push(ticket.text, 0, at.memory(0, 1).list);
  const other = at.memory(0, 1, [3]).list;
  for (const [text, layer, code] of [
    ["no-ticket", 9, "INVALID"],
    [`${member}-999999-${wrongSecret}`, 9, "NOT_FOUND"],
    [ticket.text.replace(secret, wrongSecret), 9, "NOT_AUTHORIZED"],
    [ticket.text, 9, "OUT_OF_RANGE"],
    [ticket.text, 0, "KEY_ALREADY_EXISTS"],
    [ticket.text, 1, "INVALID"],
  ] as const) {
    const failure = await failureOf(at.first.push(text, layer, other));
    expect([text, StatusCode[failure.code]]).toEqual([text, code]);
  }
  await expect(ticket.layer(9, 1_800_001)).rejects.toMatchObject({ code: StatusCode.OUT_OF_RANGE });
  await expect(ticket.layer(0, 1_800_001)).rejects.toMatchObject({ code: StatusCode.INVALID });
  ticket.cancel();
}

describe("a signal that is aborted already", () => {
  plainIt("comes after what this process sees wrong, and before what the worker says", async () => {
    const fixture = await startFixture({ workers: 1 });
    try {
      const client = await fixture.client(0);
      const signal = AbortSignal.abort();
      for (const { name, call } of keyed.filter(({ hasBlobs }) => !hasBlobs)) {
        const none = await failureOf(call(client, [], [], { signal }));
        expect([name, none.code]).toEqual([name, StatusCode.INVALID]);
        const notAllowed = await failureOf(call(client, ["a b"], [], { signal }));
        expect([name, notAllowed.code]).toEqual([name, StatusCode.RPC_CANCELLED]);
      }
    } finally {
      await fixture.close();
    }
  });
});
