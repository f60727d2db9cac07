/**
 * The Store on etcd (3.4 or newer), through etcd3's generated calls: they give revisions, which its builders hide.
 */
import { Etcd3, type IOptions, type IRequestOp, type IWatchResponse, Range } from "etcd3";
import { parseAddress } from "../base/address.js";
import type { Clock } from "../base/clock.js";
import { abortError } from "../base/deadline.js";
import { keepGrpcDirect } from "../base/direct-agent.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { type EtcdFiles, loadEtcdAccess } from "../base/etcd-access.js";
import { fromEtcdError, isLeaseGone, isLoginOver, isUnreached } from "./etcd-errors.js";
import { checkEntrySize, checkTtl } from "./memory-store.js";
import {
  type PutOptions,
  type PutResult,
  STORE_TIMEOUT_MS,
  type Store,
  type StoreCallOptions,
  type StoreEntry,
  type WatchBatch,
} from "./store.js";
import { WatchQueue } from "./watch-queue.js";

/**
 * `endpoints` are HOST:PORT or URLs, all with TLS or all without. Connects at first use. Throws INVALID for files that
 * can't be read.
 */
export function createEtcdStore(endpoints: readonly string[], clock: Clock, files: EtcdFiles = {}): Store {
  return new EtcdStore(endpoints, clock, files);
}

/** etcd answers a new watch at once; one that gets no answer is made anew. */
const WATCH_CREATE_TIMEOUT_MS = 2_000;

/**
 * Calls in a row that reached no etcd, after which each further one is made by a new client. What the old one does
 * while packets are lost would keep the store away for seconds after it could be reached again: etcd3 leaves an etcd
 * alone for 5 s, and the kernel repeats its attempts to connect after longer and longer times.
 */
const FAILURES_MAX = 3;

/**
 * A connection with calls or watches on it that answers no ping is given up; the kernel alone would take a quarter of
 * an hour. etcd takes pings from every 5 s on (--grpc-keepalive-min-time), and only while something is under way, which
 * is when grpc sends them.
 */
const PING_MS = 10_000;
const PING_TIMEOUT_MS = 2_000;

interface EtcdKeyValue {
  key: Buffer;
  value: Buffer;
  mod_revision: string;
}

class EtcdStore implements Store {
  readonly #endpoints: readonly string[];
  readonly #clock: Clock;
  readonly #files: EtcdFiles;
  readonly #closing = new AbortController();
  /** What ends each watch. */
  readonly #watches = new Set<(reason: unknown) => void>();
  #client: Etcd3;
  /** Calls in a row that reached no etcd. */
  #failures = 0;
  #clients = 0;

  constructor(endpoints: readonly string[], clock: Clock, files: EtcdFiles) {
    this.#endpoints = endpoints;
    this.#clock = clock;
    this.#files = files;
    this.#client = this.#connect();
  }

  #connect(): Etcd3 {
    const { hosts, tls, user } = loadEtcdAccess(this.#endpoints, this.#files);
    keepGrpcDirect(this.#endpoints.map((endpoint) => parseAddress(endpoint.replace(/^.*:\/\//, ""), "etcd").host));
    // Clients with the same options would share connections, also those that are being made.
    const grpcOptions = {
      "hbmesh.client": ++this.#clients,
      "grpc.keepalive_time_ms": PING_MS,
      "grpc.keepalive_timeout_ms": PING_TIMEOUT_MS,
    };
    const options: IOptions = { hosts, grpcOptions };
    if (tls !== undefined) {
      const { ca, cert, key } = tls;
      const own = cert === undefined || key === undefined ? {} : { certChain: cert, privateKey: key };
      // Without an authority of its own etcd3 takes those that Node knows, whatever its types say.
      options.credentials = { rootCertificate: ca as Buffer, ...own };
    }
    if (user !== undefined) {
      options.auth = { username: user.name, password: user.password };
    }
    return new Etcd3(options);
  }

  get(key: string, options?: StoreCallOptions): Promise<StoreEntry | undefined> {
    return this.#call(options, "reading", async (call) => {
      const { kvs } = await this.#client.kv.range({ key: Buffer.from(key) }, call);
      return kvs[0] === undefined ? undefined : toEntry(kvs[0]);
    });
  }

  getPrefix(prefix: string, options?: StoreCallOptions): Promise<{ entries: StoreEntry[]; revision: bigint }> {
    return this.#call(options, "reading", async (call) => {
      const { start, end } = Range.prefix(prefix);
      const { kvs, header } = await this.#client.kv.range({ key: start, range_end: end }, call);
      return { entries: kvs.map(toEntry), revision: BigInt(header.revision) };
    });
  }

  put(key: string, value: Uint8Array, options: PutOptions = {}): Promise<PutResult> {
    return this.#call(options, "writing", async (call) => {
      checkEntrySize(key, value);
      const keyBytes = Buffer.from(key);
      const write = { key: keyBytes, value: Buffer.from(value), lease: (options.leaseId ?? 0n).toString() };
      if (options.expectedRevision === undefined) {
        const { header } = await this.#client.kv.put(write, call);
        return { written: true, revision: BigInt(header.revision) };
      }
      // The revision of a key that is absent compares as 0.
      const compare = {
        result: "Equal",
        target: "Mod",
        key: keyBytes,
        mod_revision: options.expectedRevision.toString(),
      } as const;
      const success: IRequestOp[] = [{ request_put: write }];
      const { succeeded, header } = await this.#client.kv.txn({ compare: [compare], success, failure: [] }, call);
      return { written: succeeded, revision: BigInt(header.revision) };
    });
  }

  delete(key: string, options?: StoreCallOptions): Promise<boolean> {
    return this.#call(options, "writing", async (call) => {
      const { deleted } = await this.#client.kv.deleteRange({ key: Buffer.from(key) }, call);
      return BigInt(deleted) > 0n;
    });
  }

  grantLease(ttlMs: number, options?: StoreCallOptions): Promise<bigint> {
    return this.#call(options, "granting a lease", async (call) => {
      checkTtl(ttlMs);
      const { ID } = await this.#client.leaseClient.leaseGrant({ TTL: Math.ceil(ttlMs / 1_000) }, call);
      return BigInt(ID);
    });
  }

  keepAlive(leaseId: bigint, options?: StoreCallOptions): Promise<boolean> {
    return this.#call(options, "renewing a lease", async (call) => {
      const stream = await this.#client.leaseClient.leaseKeepAlive(call);
      return await new Promise<boolean>((resolve, reject) => {
        // A lease that is gone answers with a TTL of 0.
        stream.on("data", (response) => {
          stream.end();
          resolve(Number(response.TTL) > 0);
        });
        stream.on("error", reject);
        stream.on("end", () => reject(new Error("etcd ended the stream")));
        stream.write({ ID: leaseId.toString() });
      });
    });
  }

  revokeLease(leaseId: bigint, options?: StoreCallOptions): Promise<void> {
    return this.#call(options, "revoking a lease", async (call) => {
      try {
        await this.#client.leaseClient.leaseRevoke({ ID: leaseId.toString() }, call);
      } catch (reason) {
        if (!isLeaseGone(reason)) {
          throw reason;
        }
      }
    });
  }

  async *watch(prefix: string, options: { signal: AbortSignal }): AsyncGenerator<WatchBatch> {
    const { signal } = options;
    if (signal.aborted) {
      return;
    }
    const { entries, revision } = await this.getPrefix(prefix);
    const queue = new WatchQueue();
    queue.push({ snapshot: true, revision, events: entries.map((entry) => ({ entry, deleted: false })) });
    const end = (reason: unknown): void => queue.end(this.#translate(reason, "watching"));
    const onAbort = (): void => queue.end();
    const onClose = (): void => queue.end(closedError());
    signal.addEventListener("abort", onAbort, { once: true });
    this.#closing.signal.addEventListener("abort", onClose, { once: true });
    const stream = this.#openWatch(prefix, revision + 1n, { onBatch: (batch) => queue.push(batch), onEnd: end });
    stream.catch(end);
    this.#watches.add(end);
    try {
      yield* queue;
    } finally {
      this.#watches.delete(end);
      signal.removeEventListener("abort", onAbort);
      this.#closing.signal.removeEventListener("abort", onClose);
      queue.end();
      stream.then(
        (cancel) => cancel(),
        () => {},
      );
    }
  }

  /**
   * A stream of its own for each watch. etcd3's watchers share one, which they resume by themselves: they skip what
   * happened between its connecting and the first change that they see, and a watcher that is made while it has lost
   * one etcd of several may hear nothing any more, and no error.
   */
  async #openWatch(
    prefix: string,
    startRevision: bigint,
    { onBatch, onEnd }: { onBatch: (batch: WatchBatch) => void; onEnd: (reason: unknown) => void },
  ): Promise<() => void> {
    const { start, end } = Range.prefix(prefix);
    const silent = this.#clock.setTimer(WATCH_CREATE_TIMEOUT_MS, () =>
      onEnd(new Error(`no answer for ${WATCH_CREATE_TIMEOUT_MS} ms`)),
    );
    const stream = await this.#client.watchClient.watch().catch((reason: unknown) => {
      silent.cancel();
      throw reason;
    });
    stream.on("data", (response) => {
      silent.cancel();
      if (response.canceled) {
        onEnd(new Error(response.cancel_reason || "etcd ended the watch"));
      } else if (response.events.length > 0) {
        onBatch(toBatch(response));
      }
    });
    // After cancel() too, when nobody listens any more.
    stream.on("error", (reason: unknown) => {
      silent.cancel();
      onEnd(reason);
    });
    stream.on("end", () => {
      silent.cancel();
      onEnd(new Error("etcd ended the stream"));
    });
    stream.write({ create_request: { key: start, range_end: end, start_revision: startRevision.toString() } });
    return () => {
      silent.cancel();
      stream.cancel();
    };
  }

  async close(): Promise<void> {
    this.#closing.abort();
    this.#client.close();
  }

  async #call<T>(
    options: StoreCallOptions | undefined,
    what: string,
    work: (call: { deadline: number }) => Promise<T>,
    isRetry = false,
  ): Promise<T> {
    if (this.#closing.signal.aborted) {
      throw closedError();
    }
    const signal = options?.signal;
    if (signal?.aborted) {
      throw abortError(signal, `${what} etcd`);
    }
    const client = this.#client;
    const ends: (() => void)[] = [];
    const ended = new Promise<never>((_, reject) => {
      const onAbort = (): void => reject(abortError(signal as AbortSignal, `${what} etcd`));
      const onClose = (): void => reject(closedError());
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#closing.signal.addEventListener("abort", onClose, { once: true });
      ends.push(() => signal?.removeEventListener("abort", onAbort));
      ends.push(() => this.#closing.signal.removeEventListener("abort", onClose));
    });
    try {
      const deadline = this.#clock.nowMs() + (options?.timeoutMs ?? STORE_TIMEOUT_MS);
      const done = await Promise.race([work({ deadline }), ended]);
      this.#failures = 0;
      return done;
    } catch (reason) {
      this.#noteFailure(client, reason);
      if (isLoginOver(reason) && this.#files.etcdUser !== undefined && !isRetry) {
        this.#startAnew(client);
        return await this.#call(options, what, work, true);
      }
      throw this.#translate(reason, what, options?.timeoutMs);
    } finally {
      for (const end of ends) {
        end();
      }
    }
  }

  #noteFailure(client: Etcd3, reason: unknown): void {
    if (isUnreached(reason) && ++this.#failures >= FAILURES_MAX) {
      this.#startAnew(client);
    }
  }

  /**
   * With new connections, and logged in anew: etcd forgets who logged in when it starts anew, after a while, and when
   * its users change; etcd3 notices that in plain calls only. The files are read again. Watches are made anew, too: the
   * old client's connections stay for as long as a stream is open on them.
   */
  #startAnew(client: Etcd3): void {
    if (this.#client === client && !this.#closing.signal.aborted) {
      this.#client = this.#connect();
      for (const end of this.#watches) {
        end(new Error("the connections to etcd were made anew"));
      }
      client.close();
    }
  }

  #translate(reason: unknown, what: string, timeoutMs = STORE_TIMEOUT_MS): HbmeshError {
    return fromEtcdError(reason, { what, endpoints: this.#endpoints, timeoutMs });
  }
}

function closedError(): HbmeshError {
  return new HbmeshError(StatusCode.SHUTTING_DOWN, "the store was closed");
}

function toEntry(entry: EtcdKeyValue): StoreEntry {
  return {
    key: entry.key.toString("utf8"),
    value: new Uint8Array(entry.value),
    modifyRevision: BigInt(entry.mod_revision),
  };
}

function toBatch(response: IWatchResponse): WatchBatch {
  return {
    snapshot: false,
    revision: BigInt(response.header.revision),
    events: response.events.map(({ type, kv }) => {
      const deleted = type === "Delete";
      return { entry: deleted ? { ...toEntry(kv), value: new Uint8Array(0) } : toEntry(kv), deleted };
    }),
  };
}
