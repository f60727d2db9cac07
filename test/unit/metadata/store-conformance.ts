/**
 * One suite for every Store. Goal: compare-and-swap, leases and watches behave the same, whoever keeps the data.
 * Method: real calls against a store that `open` makes; prefixes are new for each test, so that a shared server does no
 * harm.
 */
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { StatusCode } from "../../../src/base/errors.js";
import {
  STORE_KEY_BYTES_MAX,
  STORE_VALUE_BYTES_MAX,
  type Store,
  type WatchBatch,
  type WatchEvent,
} from "../../../src/metadata/store.js";

export interface OpenedStore {
  store: Store;
  close: () => Promise<void>;
  /** Lets this much of the store's time pass. */
  pass: (durationMs: number) => Promise<void>;
}

/** Smallest lease that every store keeps to. */
const TTL_MS = 2_000;
let prefixes = 0;

const bytes = (text: string): Uint8Array => Buffer.from(text, "utf8");
const text = (value: Uint8Array | undefined): string | undefined =>
  value === undefined ? undefined : Buffer.from(value).toString("utf8");

/** Reads a watch until `enough` is true of all events so far. */
async function readUntil(
  watch: AsyncIterator<WatchBatch>,
  enough: (events: WatchEvent[]) => boolean,
): Promise<WatchEvent[]> {
  const events: WatchEvent[] = [];
  while (!enough(events)) {
    const { value, done } = await watch.next();
    if (done === true) {
      break;
    }
    events.push(...value.events);
  }
  return events;
}

export function describeStore(name: string, open: () => Promise<OpenedStore>): void {
  describe(`Store: ${name}`, () => {
    let opened: OpenedStore;
    let store: Store;
    let prefix: string;

    beforeEach(async () => {
      opened = await open();
      store = opened.store;
      prefix = `conformance-${process.pid}-${++prefixes}/`;
    });

    afterEach(async () => {
      await opened.close();
    });

    it("gets what was put, with a revision that grows with each write", async () => {
      expect(await store.get(`${prefix}a`)).toBeUndefined();
      const first = await store.put(`${prefix}a`, bytes("1"));
      const second = await store.put(`${prefix}a`, bytes("2"));
      expect([first.written, second.written]).toEqual([true, true]);
      expect(second.revision).toBeGreaterThan(first.revision);
      const entry = await store.get(`${prefix}a`);
      expect([entry?.key, text(entry?.value), entry?.modifyRevision]).toEqual([`${prefix}a`, "2", second.revision]);
    });

    it("writes only at the expected revision, and 0n means absent", async () => {
      const key = `${prefix}cas`;
      const made = await store.put(key, bytes("1"), { expectedRevision: 0n });
      expect(made.written).toBe(true);
      expect((await store.put(key, bytes("2"), { expectedRevision: 0n })).written).toBe(false);
      expect((await store.put(key, bytes("2"), { expectedRevision: made.revision + 1_000n })).written).toBe(false);
      expect(text((await store.get(key))?.value)).toBe("1");
      expect((await store.put(key, bytes("2"), { expectedRevision: made.revision })).written).toBe(true);
      expect(text((await store.get(key))?.value)).toBe("2");
    });

    it("of many compare-and-swaps at once exactly one wins each round", async () => {
      const key = `${prefix}counter`;
      const increment = async (): Promise<number> => {
        for (;;) {
          const entry = await store.get(key);
          const next = Number(text(entry?.value) ?? "0") + 1;
          if ((await store.put(key, bytes(String(next)), { expectedRevision: entry?.modifyRevision ?? 0n })).written) {
            return next;
          }
        }
      };
      const numbers = await Promise.all(Array.from({ length: 8 }, increment));
      expect(numbers.sort((a, b) => a - b)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    });

    it("gets everything under a prefix, sorted, and nothing beside it", async () => {
      await store.put(`${prefix}b`, bytes("2"));
      await store.put(`${prefix}a`, bytes("1"));
      await store.put(`x${prefix}`, bytes("3"));
      const { entries, revision } = await store.getPrefix(prefix);
      expect(entries.map(({ key, value }) => [key, text(value)])).toEqual([
        [`${prefix}a`, "1"],
        [`${prefix}b`, "2"],
      ]);
      expect(revision).toBeGreaterThanOrEqual(entries[0]?.modifyRevision ?? 0n);
    });

    it("deletes, and says whether the key was there", async () => {
      await store.put(`${prefix}a`, bytes("1"));
      expect(await store.delete(`${prefix}a`)).toBe(true);
      expect(await store.delete(`${prefix}a`)).toBe(false);
      expect(await store.get(`${prefix}a`)).toBeUndefined();
    });

    it("a lease that isn't renewed ends, and its keys vanish; the watch tells", async () => {
      const ending = new AbortController();
      const leaseId = await store.grantLease(TTL_MS);
      await store.put(`${prefix}leased`, bytes("1"), { leaseId });
      await store.put(`${prefix}free`, bytes("2"));
      const watch = store.watch(prefix, { signal: ending.signal })[Symbol.asyncIterator]();
      const seen = readUntil(watch, (events) => events.some(({ deleted }) => deleted));
      await opened.pass(TTL_MS / 2);
      expect(await store.keepAlive(leaseId)).toBe(true);
      await opened.pass(TTL_MS * 3);
      const gone = (await seen).filter(({ deleted }) => deleted);
      expect(gone.map(({ entry }) => [entry.key, entry.value.byteLength])).toEqual([[`${prefix}leased`, 0]]);
      expect(await store.get(`${prefix}leased`)).toBeUndefined();
      expect(text((await store.get(`${prefix}free`))?.value)).toBe("2");
      expect(await store.keepAlive(leaseId)).toBe(false);
      ending.abort();
      await watch.return?.();
    });

    it("a renewed lease goes on, a revoked one ends at once, and revoking it again does nothing", async () => {
      const leaseId = await store.grantLease(TTL_MS);
      await store.put(`${prefix}leased`, bytes("1"), { leaseId });
      for (let round = 0; round < 3; round++) {
        await opened.pass(TTL_MS * 0.6);
        expect(await store.keepAlive(leaseId)).toBe(true);
      }
      expect(text((await store.get(`${prefix}leased`))?.value)).toBe("1");
      await store.revokeLease(leaseId);
      expect(await store.get(`${prefix}leased`)).toBeUndefined();
      await store.revokeLease(leaseId);
      await expect(store.put(`${prefix}late`, bytes("1"), { leaseId })).rejects.toMatchObject({
        code: StatusCode.NOT_FOUND,
      });
    });

    it("a watch begins with a snapshot and then tells every change in order", async () => {
      const ending = new AbortController();
      await store.put(`${prefix}old`, bytes("0"));
      const watch = store.watch(prefix, { signal: ending.signal })[Symbol.asyncIterator]();
      const first = (await watch.next()).value as WatchBatch;
      expect([first.snapshot, first.events.map(({ entry }) => entry.key)]).toEqual([true, [`${prefix}old`]]);
      for (let index = 0; index < 20; index++) {
        await store.put(`${prefix}k${index % 4}`, bytes(String(index)));
      }
      await store.put(`beside-${prefix}`, bytes("x"));
      await store.delete(`${prefix}old`);
      const events = await readUntil(watch, (seen) => seen.some(({ deleted }) => deleted));
      expect(events.map(({ entry, deleted }) => (deleted ? "deleted" : text(entry.value)))).toEqual([
        ...Array.from({ length: 20 }, (_, index) => String(index)),
        "deleted",
      ]);
      const revisions = events.map(({ entry }) => entry.modifyRevision);
      expect(revisions).toEqual([...revisions].sort((a, b) => (a < b ? -1 : 1)));
      expect(revisions[0]).toBeGreaterThan(first.revision);
      ending.abort();
      expect((await watch.next()).done).toBe(true);
    });

    it("a watch sees no gap between its snapshot and its changes, however many write meanwhile", async () => {
      const ending = new AbortController();
      const writing = (async (): Promise<void> => {
        for (let index = 0; index < 60; index++) {
          await store.put(`${prefix}busy`, bytes(String(index)));
        }
      })();
      const watch = store.watch(prefix, { signal: ending.signal })[Symbol.asyncIterator]();
      const values = (await readUntil(watch, (events) => text(events.at(-1)?.entry.value) === "59")).map(({ entry }) =>
        Number(text(entry.value)),
      );
      await writing;
      const start = values[0] ?? 0;
      expect(values).toEqual(Array.from({ length: 60 - start }, (_, index) => start + index));
      ending.abort();
      await watch.return?.();
    });

    it("limits: the largest key and value are taken, larger ones refused", async () => {
      const key = prefix.padEnd(STORE_KEY_BYTES_MAX, "k");
      await store.put(key, new Uint8Array(STORE_VALUE_BYTES_MAX));
      expect((await store.get(key))?.value.byteLength).toBe(STORE_VALUE_BYTES_MAX);
      await expect(store.put(`${key}k`, bytes("1"))).rejects.toMatchObject({ code: StatusCode.INVALID });
      await expect(store.put(key, new Uint8Array(STORE_VALUE_BYTES_MAX + 1))).rejects.toMatchObject({
        code: StatusCode.INVALID,
      });
      await expect(store.put("", bytes("1"))).rejects.toMatchObject({ code: StatusCode.INVALID });
      await expect(store.grantLease(0)).rejects.toMatchObject({ code: StatusCode.INVALID });
    });

    it("an aborted call and a closed store reject with their codes, and a watch ends", async () => {
      const aborted = AbortSignal.abort();
      await expect(store.get(`${prefix}a`, { signal: aborted })).rejects.toMatchObject({
        code: StatusCode.RPC_CANCELLED,
      });
      const watch = store.watch(prefix, { signal: new AbortController().signal })[Symbol.asyncIterator]();
      await watch.next();
      const rest = watch.next();
      await Promise.all([store.close(), expect(rest).rejects.toMatchObject({ code: StatusCode.SHUTTING_DOWN })]);
      await expect(store.get(`${prefix}a`)).rejects.toMatchObject({ code: StatusCode.SHUTTING_DOWN });
      await expect(store.put(`${prefix}a`, bytes("1"))).rejects.toMatchObject({ code: StatusCode.SHUTTING_DOWN });
    });
  });
}
