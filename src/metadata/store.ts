/**
 * Store: the small shared store of a cluster: who is a member, settings, counters. Never anything per object.
 *
 * Designed for etcd: keys with revisions, compare-and-swap, leases whose end deletes keys, and a watch that misses
 * nothing. Keys are UTF-8 text, values bytes. Revisions are those of the whole store: each write gets a higher one.
 *
 * Every call rejects with RPC_UNAVAILABLE when the store can't be reached, and SHUTTING_DOWN after close().
 */

export interface StoreEntry {
  key: string;
  value: Uint8Array;
  /** The revision at which this value was written. */
  modifyRevision: bigint;
}

export interface StoreCallOptions {
  signal?: AbortSignal | undefined;
  /** Default 5,000. */
  timeoutMs?: number | undefined;
}

export interface PutOptions extends StoreCallOptions {
  /** The key vanishes with this lease. NOT_FOUND when the lease is gone. Default: stays. */
  leaseId?: bigint | undefined;
  /** Write only if the key's modifyRevision is this one; 0n: only if it is absent. Default: write whatever is there. */
  expectedRevision?: bigint | undefined;
}

export interface PutResult {
  /** False: another revision was there, and nothing was written. */
  written: boolean;
  /** Of the write; of the store when nothing was written. */
  revision: bigint;
}

export interface WatchEvent {
  /** Of a deletion: the key, no value, and the revision of the deletion. */
  entry: StoreEntry;
  deleted: boolean;
}

export interface WatchBatch {
  /** True for the first batch, which has everything under the prefix as it was at `revision`. */
  snapshot: boolean;
  /** Changes up to and including this revision have been told. */
  revision: bigint;
  /** In order of revision. */
  events: WatchEvent[];
}

export interface Store {
  get(key: string, options?: StoreCallOptions): Promise<StoreEntry | undefined>;
  /** All entries whose key begins with `prefix`, sorted by key, and the store's revision. */
  getPrefix(prefix: string, options?: StoreCallOptions): Promise<{ entries: StoreEntry[]; revision: bigint }>;
  put(key: string, value: Uint8Array, options?: PutOptions): Promise<PutResult>;
  /** Was the key there. */
  delete(key: string, options?: StoreCallOptions): Promise<boolean>;
  /** A lease that ends `ttlMs` after its last renewal. Stores may round up to whole seconds. */
  grantLease(ttlMs: number, options?: StoreCallOptions): Promise<bigint>;
  /** Renews a lease. False: it is gone, and with it the keys bound to it. */
  keepAlive(leaseId: bigint, options?: StoreCallOptions): Promise<boolean>;
  /** Ends a lease and deletes its keys; nothing happens if it is gone. */
  revokeLease(leaseId: bigint, options?: StoreCallOptions): Promise<void>;
  /**
   * A snapshot, then every change in order, until `signal` aborts (the iteration then ends) or the store is lost (it
   * throws; watch again, and compare the new snapshot with what you knew).
   */
  watch(prefix: string, options: { signal: AbortSignal }): AsyncIterable<WatchBatch>;
  close(): Promise<void>;
}

/** Longest key and largest value that every store takes. */
export const STORE_KEY_BYTES_MAX = 1_024;
export const STORE_VALUE_BYTES_MAX = 1_048_576;
/** Default of StoreCallOptions.timeoutMs. */
export const STORE_TIMEOUT_MS = 5_000;
