/**
 * Goal: the limits of docs/API.md: what is allowed works at the limit, what is above it is refused with the limit's
 * name, and nothing is done. Method: the group's cases at each place of cases.ts, each with real calls of the full
 * size.
 */
import { expect } from "vitest";
import { StatusCode } from "../../src/base/errors.js";
import { Blob, DeviceBlobList } from "../../src/client/index.js";
import { codesOf, failureOf } from "../cluster/fixture.js";
import { everyCall } from "./every-call.js";
import { type ApiPlace, apiSuite, countsOf, waitMs } from "./suite.js";

const many = 10_000;
const pieceBytes = 64;

const keysOf = (at: ApiPlace, count: number): string[] =>
  Array.from({ length: count }, (_, index) => `${at.key}-${index}`);

/** 10,000 lists of one blob each, side by side in one memory; `holds` compares the whole of it. */
function pieces(
  at: ApiPlace,
  device: number,
  seed?: number,
): { lists: DeviceBlobList[]; holds(seed: number): boolean } {
  const whole = at.memory(device, seed, [many * pieceBytes]);
  const base = whole.list.blobs[0]?.pointer ?? 0n;
  const blobAt = (index: number): Blob => new Blob(base + BigInt(index * pieceBytes), BigInt(pieceBytes));
  const lists = Array.from({ length: many }, (_, index) => new DeviceBlobList(device, [blobAt(index)]));
  return { lists, holds: (wanted) => whole.holds(wanted) };
}

/** `count` blobs of 1 byte, all the same byte. */
function manyBlobs(at: ApiPlace, count: number): DeviceBlobList {
  const pointer = at.memory(0, 6, [1]).list.blobs[0]?.pointer ?? 0n;
  return new DeviceBlobList(
    0,
    Array.from({ length: count }, () => new Blob(pointer, 1n)),
  );
}

apiSuite("limits", (at, it) => {
  it("one key too many: INVALID naming the limit, in every call, and nothing is done", async () => {
    const keys = keysOf(at, 100_001);
    const { list } = at.memory(0, 1, [64]);
    for (const { name, keysMax, call } of everyCall) {
      const given = keys.slice(0, keysMax + 1);
      const failure = await failureOf(
        call(
          at.first,
          given,
          given.map(() => list),
        ),
      );
      expect([name, failure.code]).toEqual([name, StatusCode.INVALID]);
      expect(failure.message).toContain((keysMax + 1).toLocaleString("en-US"));
      expect(failure.message).toContain(`at most ${keysMax.toLocaleString("en-US")}`);
    }
    const first = keys[0] ?? "";
    expect((await at.second.exist([first])).presences).toEqual(["MISS"]);
    expect(codesOf(await at.second.devMGet([first], [at.memory(1, undefined, [64]).list]))).toEqual(["NOT_FOUND"]);
  });

  it("10,000 keys are set, read and deleted in one call each", async () => {
    const keys = keysOf(at, many);
    const target = pieces(at, 1);
    expect(countsOf(await at.first.mSetD2H(keys, pieces(at, 0, 1).lists))).toEqual({ OK: many });
    expect(countsOf(await at.second.mGetH2D(keys, target.lists))).toEqual({ OK: many });
    expect(target.holds(1)).toBe(true);
    const removed = await at.second.delete(keys);
    expect([countsOf(removed), removed.existed.every(Boolean)]).toEqual([{ OK: many }, true]);
  });

  it("10,000 keys are published and subscribed in one call each", async () => {
    const keys = keysOf(at, many);
    const target = pieces(at, 1);
    const sent = await at.first.devPublish(keys, pieces(at, 0, 2).lists);
    const received = await at.second.devSubscribe(keys, target.lists);
    await Promise.all([...received, ...sent].map((future) => future.get(waitMs)));
    expect(target.holds(2)).toBe(true);
  });

  it("10,000 keys are cached on devices, read and deleted in one call each", async () => {
    const keys = keysOf(at, many);
    const target = pieces(at, 1);
    expect(countsOf(await at.first.devMSet(keys, pieces(at, 0, 3).lists))).toEqual({ OK: many });
    expect(countsOf(await at.second.devMGet(keys, target.lists))).toEqual({ OK: many });
    expect(target.holds(3)).toBe(true);
    const local = await at.second.devLocalDelete(keys);
    expect([countsOf(local), local.existed.some(Boolean)]).toEqual([{ OK: many }, false]);
    const removed = await at.second.devDelete(keys);
    expect([countsOf(removed), removed.existed.every(Boolean)]).toEqual([{ OK: many }, true]);
  });

  it("10,000 layers are reserved in one call, and the last one is pushed", async () => {
    const targets = at.memory(1, undefined, [pieceBytes]);
    const lists = [...pieces(at, 1).lists.slice(1), targets.list];
    const ticket = await at.second.reserveLayers(lists);
    expect(ticket.layerCount).toBe(many);
    const source = at.memory(0, 4, [pieceBytes]);
    await at.first.push(ticket.text, many - 1, source.list);
    await ticket.layer(many - 1, waitMs);
    expect(targets.holds(4)).toBe(true);
    expect((await failureOf(at.first.push(ticket.text, many, source.list))).code).toBe(StatusCode.OUT_OF_RANGE);
    ticket.cancel();
    await expect(ticket.all(waitMs)).rejects.toMatchObject({ code: StatusCode.RPC_CANCELLED });
  });

  it("100,000 keys are asked for in one call of exist, and of getMetaInfo", async () => {
    const keys = keysOf(at, 100_000);
    const last = keys.length - 1;
    expect(codesOf(await at.first.mSetD2H(keys.slice(-1), [at.memory(0, 5, [64, 1]).list]))).toEqual(["OK"]);
    const { presences } = await at.second.exist(keys);
    expect([presences.filter((presence) => presence === "MISS").length, presences[last]]).toEqual([last, "HIT"]);
    const info = await at.second.getMetaInfo(keys);
    expect(countsOf(info)).toEqual({ NOT_FOUND: last, OK: 1 });
    expect(info.metas[last]).toMatchObject({ sizeBytes: 65n, blobSizes: [64n, 1n] });
  });

  it("metadata of more blobs than one answer carries comes whole, from either worker", async () => {
    const blobs = 1_100_000;
    const keys = keysOf(at, 4);
    const list = manyBlobs(at, blobs);
    for (const key of keys) {
      expect(codesOf(await at.first.mSetD2H([key], [list]))).toEqual(["OK"]);
    }
    for (const client of [at.first, at.second]) {
      const info = await client.getMetaInfo(keys);
      expect(countsOf(info)).toEqual({ OK: keys.length });
      expect(info.metas.map((meta) => meta?.blobSizes.length)).toEqual(keys.map(() => blobs));
      expect(info.metas.every((meta) => meta?.blobSizes.every((bytes) => bytes === 1n))).toBe(true);
    }
    expect((await at.first.delete(keys)).existed).toEqual(keys.map(() => true));
  });

  it("a call larger than the queue: OUT_OF_RANGE, and nothing is done", async () => {
    const failure = await failureOf(at.first.mSetD2H([at.key], [manyBlobs(at, 1_400_000)]));
    expect(failure.code).toBe(StatusCode.OUT_OF_RANGE);
    expect(failure.message).toContain("fewer keys or blobs");
    expect((await at.first.exist([at.key])).presences).toEqual(["MISS"]);
  });

  it("1,024 calls of a client are under way; one more: TRY_AGAIN, until one has ended", async () => {
    const client = await at.client(1);
    const { list } = at.memory(1, undefined, [64]);
    await client.preRegisterDeviceMemory([list.blobs[0]?.pointer ?? 0n], [64n]); // so that calls are sent in order
    const aborts = Array.from({ length: 1_024 }, () => new AbortController());
    const waiting = aborts.map(({ signal }) =>
      failureOf(client.mGetH2D([at.key], [list], { timeoutMs: 60_000, signal })),
    );
    const refused = await failureOf(client.exist([at.key]));
    expect(refused.code).toBe(StatusCode.TRY_AGAIN);
    expect(refused.message).toContain("1024 requests under way");
    // Comes before which keys are allowed.
    expect((await failureOf(client.exist(["a b"]))).code).toBe(StatusCode.TRY_AGAIN);
    aborts[7]?.abort();
    expect((await waiting[7])?.code).toBe(StatusCode.RPC_CANCELLED);
    expect((await client.exist([at.key])).presences).toEqual(["MISS"]);
    for (const abort of aborts) {
      abort.abort();
    }
    expect((await Promise.all(waiting)).every(({ code }) => code === StatusCode.RPC_CANCELLED)).toBe(true);
  });
});
