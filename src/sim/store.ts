/**
 * The cluster's store as one simulated process reaches it, or doesn't: the memory store in virtual time behind a
 * latency. A call that gets no answer ends with its time; a watch that hears nothing is lost after a while, and misses
 * nothing before that.
 */
import type { Clock } from "../base/clock.js";
import { withDeadline } from "../base/deadline.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { STORE_TIMEOUT_MS, type Store, type StoreCallOptions, type WatchBatch } from "../metadata/store.js";
import { WatchQueue } from "../metadata/watch-queue.js";
import type { SimProcess } from "./process.js";

/** One direction. */
const LATENCY_MS = 0.5;
/** After this time without the store a watch counts as lost. */
const WATCH_LOST_MS = 2_000;

/** Which hosts reach the store. */
export class StoreReach {
  readonly #cut = new Set<number>();
  readonly #onHeal = new Set<() => void>();
  readonly #onCut = new Set<() => void>();
  #allCut = false;

  reaches(host: number): boolean {
    return !this.#allCut && !this.#cut.has(host);
  }

  cut(host: number): void {
    this.#cut.add(host);
    this.#tell(this.#onCut);
  }

  heal(host: number): void {
    this.#cut.delete(host);
    this.#tell(this.#onHeal);
  }

  cutAll(): void {
    this.#allCut = true;
    this.#tell(this.#onCut);
  }

  healAll(): void {
    this.#allCut = false;
    this.#tell(this.#onHeal);
  }

  /** Returns how to take it back. */
  listen(onCut: () => void, onHeal: () => void): () => void {
    this.#onCut.add(onCut);
    this.#onHeal.add(onHeal);
    return () => {
      this.#onCut.delete(onCut);
      this.#onHeal.delete(onHeal);
    };
  }

  #tell(listeners: Set<() => void>): void {
    for (const listener of [...listeners]) {
      listener();
    }
  }
}

export interface SimStoreOptions {
  process: SimProcess;
  store: Store;
  reach: StoreReach;
  /** The simulation's, which no process stops. */
  clock: Clock;
  /** Told of each value that is to be written. */
  onPut?: (bytes: number) => void;
}

export function createSimStore(options: SimStoreOptions): Store {
  return new SimStore(options);
}

class SimStore implements Store {
  readonly #options: SimStoreOptions;

  constructor(options: SimStoreOptions) {
    this.#options = options;
  }

  readonly get: Store["get"] = (key, options) => this.#call(options, (store) => store.get(key));
  readonly getPrefix: Store["getPrefix"] = (prefix, options) => this.#call(options, (store) => store.getPrefix(prefix));
  readonly put: Store["put"] = (key, value, { leaseId, expectedRevision, ...options } = {}) => {
    this.#options.onPut?.(value.byteLength);
    return this.#call(options, (store) => store.put(key, value, { leaseId, expectedRevision }));
  };
  readonly delete: Store["delete"] = (key, options) => this.#call(options, (store) => store.delete(key));
  readonly grantLease: Store["grantLease"] = (ttlMs, options) => this.#call(options, (s) => s.grantLease(ttlMs));
  readonly keepAlive: Store["keepAlive"] = (lease, options) => this.#call(options, (s) => s.keepAlive(lease));
  readonly revokeLease: Store["revokeLease"] = (lease, options) => this.#call(options, (s) => s.revokeLease(lease));

  async *watch(prefix: string, { signal }: { signal: AbortSignal }): AsyncGenerator<WatchBatch> {
    if (signal.aborted) {
      return;
    }
    const { process } = this.#options;
    const queue = new WatchQueue();
    const ending = new AbortController();
    const end = (): void => process.enter(() => queue.end());
    signal.addEventListener("abort", end, { once: true });
    const takeBack = process.onDeath(() => ending.abort());
    const pumping = this.#pump(prefix, queue, ending.signal);
    try {
      yield* queue;
    } finally {
      ending.abort();
      takeBack();
      signal.removeEventListener("abort", end);
      await pumping;
    }
  }

  /** The store is the cluster's. */
  async close(): Promise<void> {}

  /** Never rejects. */
  async #pump(prefix: string, queue: WatchQueue, signal: AbortSignal): Promise<void> {
    const { process, store, reach, clock } = this.#options;
    const lose = (): void =>
      process.enter(() => queue.end(new HbmeshError(StatusCode.RPC_UNAVAILABLE, "the store can't be reached")));
    if (!reach.reaches(process.host)) {
      await new Promise<void>((resolve) => {
        clock.setTimer(WATCH_LOST_MS, resolve);
        signal.addEventListener("abort", () => resolve(), { once: true });
      });
      lose();
      return;
    }
    const held: WatchBatch[] = [];
    const push = (batch: WatchBatch): void => {
      clock.setTimer(LATENCY_MS, () => process.enter(() => queue.push(batch)));
    };
    const onHeal = (): void => {
      if (reach.reaches(process.host)) {
        for (const batch of held.splice(0)) {
          push(batch);
        }
      }
    };
    const onCut = (): void => {
      if (!reach.reaches(process.host)) {
        clock.setTimer(WATCH_LOST_MS, () => (reach.reaches(process.host) ? undefined : lose()));
      }
    };
    const takeBack = reach.listen(onCut, onHeal);
    try {
      for await (const batch of store.watch(prefix, { signal })) {
        if (reach.reaches(process.host)) {
          push(batch);
        } else {
          held.push(batch);
        }
      }
    } catch {
      lose();
    } finally {
      takeBack();
    }
  }

  #call<T>(options: StoreCallOptions | undefined, work: (store: Store) => Promise<T>): Promise<T> {
    const { process, store, reach, clock } = this.#options;
    const answer = new Promise<T>((resolve, reject) => {
      const post = (deliver: () => void): void => {
        if (reach.reaches(process.host)) {
          clock.setTimer(LATENCY_MS, () => (reach.reaches(process.host) ? deliver() : undefined));
        }
      };
      post(() => {
        work(store).then(
          (value) => post(() => process.enter(() => resolve(value))),
          (reason: unknown) => post(() => process.enter(() => reject(reason as Error))),
        );
      });
    });
    return withDeadline(answer, {
      clock: process.clock,
      timeoutMs: options?.timeoutMs ?? STORE_TIMEOUT_MS,
      signal: options?.signal,
      what: "asking the store",
      code: StatusCode.RPC_UNAVAILABLE,
    });
  }
}
