/**
 * The embedded store: everything in the memory of one process, time from the clock that is passed in. Lasts as long as
 * its process. Others reach it over StoreService (remote-store.ts).
 */
import type { Clock, Timer } from "../base/clock.js";
import { abortError } from "../base/deadline.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import {
  type PutOptions,
  type PutResult,
  STORE_KEY_BYTES_MAX,
  STORE_VALUE_BYTES_MAX,
  type Store,
  type StoreCallOptions,
  type StoreEntry,
  type WatchBatch,
  type WatchEvent,
} from "./store.js";
import { WatchQueue } from "./watch-queue.js";

export function createMemoryStore(clock: Clock): Store {
  return new MemoryStore(clock);
}

interface Lease {
  ttlMs: number;
  timer: Timer;
  keys: Set<string>;
}

interface StoredEntry extends StoreEntry {
  leaseId: bigint | undefined;
  /** A copy that all watches are given: there may be very many of them. */
  watched: StoreEntry;
}

class MemoryStore implements Store {
  readonly #clock: Clock;
  readonly #entries = new Map<string, StoredEntry>();
  readonly #leases = new Map<bigint, Lease>();
  readonly #watches = new Set<{ prefix: string; queue: WatchQueue }>();
  /** Starts at the time in seconds, so that the revisions of a store that was started anew are above the old one's. */
  #revision: bigint;
  #lastLease = 0n;
  #closed = false;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#revision = BigInt(Math.floor(clock.nowMs() / 1_000));
  }

  async get(key: string, options?: StoreCallOptions): Promise<StoreEntry | undefined> {
    this.#check(options, "reading the store");
    const entry = this.#entries.get(key);
    return entry === undefined ? undefined : copyEntry(entry);
  }

  async getPrefix(prefix: string, options?: StoreCallOptions): Promise<{ entries: StoreEntry[]; revision: bigint }> {
    this.#check(options, "reading the store");
    return { entries: this.#under(prefix).map(copyEntry), revision: this.#revision };
  }

  async put(key: string, value: Uint8Array, options: PutOptions = {}): Promise<PutResult> {
    this.#check(options, "writing to the store");
    checkEntrySize(key, value);
    const { leaseId, expectedRevision } = options;
    const before = this.#entries.get(key);
    if (expectedRevision !== undefined && expectedRevision !== (before?.modifyRevision ?? 0n)) {
      return { written: false, revision: this.#revision };
    }
    const lease = leaseId === undefined ? undefined : this.#leases.get(leaseId);
    if (leaseId !== undefined && lease === undefined) {
      throw new HbmeshError(StatusCode.NOT_FOUND, `lease ${leaseId} is gone; grant another one`);
    }
    if (before?.leaseId !== undefined) {
      this.#leases.get(before.leaseId)?.keys.delete(key);
    }
    lease?.keys.add(key);
    const entry = { key, value: new Uint8Array(value), modifyRevision: ++this.#revision };
    const watched = copyEntry(entry);
    this.#entries.set(key, { ...entry, leaseId, watched });
    this.#tell([{ entry: watched, deleted: false }]);
    return { written: true, revision: this.#revision };
  }

  async delete(key: string, options?: StoreCallOptions): Promise<boolean> {
    this.#check(options, "writing to the store");
    return this.#remove([key]) > 0;
  }

  async grantLease(ttlMs: number, options?: StoreCallOptions): Promise<bigint> {
    this.#check(options, "granting a lease");
    checkTtl(ttlMs);
    const id = ++this.#lastLease;
    this.#leases.set(id, { ttlMs, keys: new Set(), timer: this.#expireLater(id, ttlMs) });
    return id;
  }

  async keepAlive(leaseId: bigint, options?: StoreCallOptions): Promise<boolean> {
    this.#check(options, "renewing a lease");
    const lease = this.#leases.get(leaseId);
    if (lease === undefined) {
      return false;
    }
    lease.timer.cancel();
    lease.timer = this.#expireLater(leaseId, lease.ttlMs);
    return true;
  }

  async revokeLease(leaseId: bigint, options?: StoreCallOptions): Promise<void> {
    this.#check(options, "revoking a lease");
    this.#endLease(leaseId);
  }

  async *watch(prefix: string, options: { signal: AbortSignal }): AsyncGenerator<WatchBatch> {
    if (options.signal.aborted) {
      return;
    }
    this.#check(undefined, "watching the store");
    const watch = { prefix, queue: new WatchQueue() };
    const onAbort = (): void => watch.queue.end();
    options.signal.addEventListener("abort", onAbort, { once: true });
    const events = this.#under(prefix).map(({ watched }) => ({ entry: watched, deleted: false }));
    watch.queue.push({ snapshot: true, revision: this.#revision, events });
    this.#watches.add(watch);
    try {
      yield* watch.queue;
    } finally {
      this.#watches.delete(watch);
      options.signal.removeEventListener("abort", onAbort);
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    for (const lease of this.#leases.values()) {
      lease.timer.cancel();
    }
    this.#leases.clear();
    for (const watch of this.#watches) {
      watch.queue.end(closedError());
    }
  }

  #check(options: StoreCallOptions | undefined, what: string): void {
    if (this.#closed) {
      throw closedError();
    }
    if (options?.signal?.aborted) {
      throw abortError(options.signal, what);
    }
  }

  #under(prefix: string): StoredEntry[] {
    const found = [...this.#entries.values()].filter((entry) => entry.key.startsWith(prefix));
    return found.sort((a, b) => (a.key < b.key ? -1 : 1));
  }

  #expireLater(leaseId: bigint, ttlMs: number): Timer {
    return this.#clock.setTimer(ttlMs, () => this.#endLease(leaseId));
  }

  #endLease(leaseId: bigint): void {
    const lease = this.#leases.get(leaseId);
    if (lease !== undefined) {
      lease.timer.cancel();
      this.#leases.delete(leaseId);
      this.#remove([...lease.keys]);
    }
  }

  /** One revision for all keys, as etcd does when a lease ends. Returns how many were there. */
  #remove(keys: readonly string[]): number {
    const events: WatchEvent[] = [];
    for (const key of keys) {
      const entry = this.#entries.get(key);
      if (entry !== undefined) {
        this.#entries.delete(key);
        if (entry.leaseId !== undefined) {
          this.#leases.get(entry.leaseId)?.keys.delete(key);
        }
        events.push({ entry: { key, value: new Uint8Array(0), modifyRevision: 0n }, deleted: true });
      }
    }
    if (events.length > 0) {
      this.#revision += 1n;
      for (const event of events) {
        event.entry.modifyRevision = this.#revision;
      }
      this.#tell(events);
    }
    return events.length;
  }

  #tell(events: readonly WatchEvent[]): void {
    for (const watch of this.#watches) {
      const mine = events.filter((event) => event.entry.key.startsWith(watch.prefix));
      if (mine.length > 0) {
        watch.queue.push({ snapshot: false, revision: this.#revision, events: mine });
      }
    }
  }
}

function copyEntry(entry: StoreEntry): StoreEntry {
  return { key: entry.key, value: new Uint8Array(entry.value), modifyRevision: entry.modifyRevision };
}

function closedError(): HbmeshError {
  return new HbmeshError(StatusCode.SHUTTING_DOWN, "the store was closed");
}

/** The limits that every implementation keeps. Throws INVALID. */
export function checkEntrySize(key: string, value: Uint8Array): void {
  const keyBytes = Buffer.byteLength(key, "utf8");
  if (keyBytes === 0 || keyBytes > STORE_KEY_BYTES_MAX) {
    throw new HbmeshError(
      StatusCode.INVALID,
      `a store key has 1 to ${STORE_KEY_BYTES_MAX} bytes; this one has ${keyBytes}`,
      { key },
    );
  }
  if (value.byteLength > STORE_VALUE_BYTES_MAX) {
    const message = `a store value has at most ${STORE_VALUE_BYTES_MAX} bytes; this one has ${value.byteLength}`;
    throw new HbmeshError(StatusCode.INVALID, message, { key });
  }
}

/** Throws INVALID. */
export function checkTtl(ttlMs: number): void {
  if (!Number.isInteger(ttlMs) || ttlMs < 1 || ttlMs > 2 ** 31 - 1) {
    throw new HbmeshError(StatusCode.INVALID, `a lease lasts 1 to ${2 ** 31 - 1} ms, not ${ttlMs}`);
  }
}
