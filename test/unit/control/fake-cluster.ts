/**
 * Several control processes with the real Wasm in one process: a memory store, links in memory that can be cut, fake
 * sidecars and virtual time.
 */
import { setMaxListeners } from "node:events";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { Transport } from "@connectrpc/connect";
import { createVirtualClock, type VirtualClock } from "../../../src/base/clock.js";
import { resolveWorkerConfig, type WorkerConfig } from "../../../src/base/config.js";
import { createDeferred, withDeadline } from "../../../src/base/deadline.js";
import { HbmeshError, StatusCode } from "../../../src/base/errors.js";
import { createSilentLogger, type Logger } from "../../../src/base/log.js";
import { createSeededRandom } from "../../../src/base/random.js";
import type { ControlProcess } from "../../../src/control/contract.js";
import { startControlProcess } from "../../../src/control/control-process.js";
import type { ControlNetwork } from "../../../src/control/network.js";
import type { Decisions } from "../../../src/decision/index.js";
import { createMemoryStore, type Store } from "../../../src/metadata/index.js";
import type { WatchBatch } from "../../../src/metadata/store.js";
import { toConnectError } from "../../../src/rpc/index.js";
import { type LinkRoutes, methodName } from "../../../src/rpc/link-routes.js";
import { type FakeFabric, FakeMemory, FakeSidecar } from "./fake-sidecar.js";

export interface FakeWorker {
  address: string;
  control: ControlProcess;
  /** The one that runs now; another one after a restart. */
  sidecar: FakeSidecar;
  memory: FakeMemory;
}

/** Links in memory: messages are encoded and decoded as on the wire. */
class MemoryNetwork {
  readonly #listening = new Map<string, LinkRoutes>();
  /** Link addresses that can't be reached. */
  readonly cut = new Set<string>();
  /** Link addresses of processes that were killed: these reach nobody either. */
  readonly dead = new Set<string>();
  #nextPort = 1;

  constructor(readonly clock: VirtualClock) {}

  /** The network as one process has it. `onAddress` tells its link address. */
  forProcess(onAddress: (address: string) => void): ControlNetwork {
    let own = "";
    return {
      listen: async (_, routes) => {
        const address = `127.0.0.1:${this.#nextPort++}`;
        own = address;
        this.#listening.set(address, routes);
        onAddress(address);
        return { address, close: async () => void this.#listening.delete(address) };
      },
      connect: (address) => {
        const ending = new AbortController();
        // One listener for each call under way.
        setMaxListeners(0, ending.signal);
        const isDead = (): boolean => this.dead.has(own);
        return { transport: this.#transport(address, ending.signal, isDead), close: () => ending.abort() };
      },
    };
  }

  #transport(address: string, ended: AbortSignal, isDead: () => boolean): Transport {
    return {
      unary: async (method, signal, timeoutMs, _header, input) => {
        const routes = this.cut.has(address) || isDead() ? undefined : this.#listening.get(address);
        const lost = createDeferred<never>();
        const lose = (): void =>
          lost.reject(
            new HbmeshError(StatusCode.RPC_UNAVAILABLE, `the control process at ${address} can't be reached`, {
              node: address,
            }),
          );
        if (routes === undefined || ended.aborted) {
          lose();
        }
        ended.addEventListener("abort", lose, { once: true });
        const handling = new AbortController();
        try {
          const work = async (): Promise<Uint8Array> => {
            await Promise.resolve();
            const request = toBinary(method.input, create(method.input, input));
            const index = routes?.methods.indexOf(methodName(method)) ?? -1;
            return (await routes?.call(index, request, { signal: handling.signal, timeoutMs })) as Uint8Array;
          };
          const reply = withDeadline(Promise.race([routes === undefined ? lost.promise : work(), lost.promise]), {
            clock: this.clock,
            timeoutMs,
            signal,
            what: `${method.name} at ${address}`,
          });
          const message = fromBinary(method.output, await reply);
          return {
            stream: false,
            service: method.parent,
            method,
            header: new Headers(),
            trailer: new Headers(),
            message,
          };
        } catch (reason) {
          handling.abort();
          throw toConnectError(reason);
        } finally {
          ended.removeEventListener("abort", lose);
        }
      },
      stream: () => Promise.reject(new Error("no streams here")),
    };
  }
}

/** The cluster's store as one worker reaches it, or doesn't. */
class CuttableStore implements Store {
  cut = false;
  readonly #store: Store;

  constructor(store: Store) {
    this.#store = store;
  }

  readonly get: Store["get"] = (...given) => this.#reach((store) => store.get(...given));
  readonly getPrefix: Store["getPrefix"] = (...given) => this.#reach((store) => store.getPrefix(...given));
  readonly put: Store["put"] = (...given) => this.#reach((store) => store.put(...given));
  readonly delete: Store["delete"] = (...given) => this.#reach((store) => store.delete(...given));
  readonly grantLease: Store["grantLease"] = (...given) => this.#reach((store) => store.grantLease(...given));
  readonly keepAlive: Store["keepAlive"] = (...given) => this.#reach((store) => store.keepAlive(...given));
  readonly revokeLease: Store["revokeLease"] = (...given) => this.#reach((store) => store.revokeLease(...given));

  async *watch(prefix: string, options: { signal: AbortSignal }): AsyncGenerator<WatchBatch> {
    this.#check();
    for await (const batch of this.#store.watch(prefix, options)) {
      this.#check();
      yield batch;
    }
  }

  /** The store is the cluster's. */
  async close(): Promise<void> {}

  async #reach<T>(call: (store: Store) => Promise<T>): Promise<T> {
    this.#check();
    return call(this.#store);
  }

  #check(): void {
    if (this.cut) {
      throw new HbmeshError(StatusCode.RPC_UNAVAILABLE, "the store can't be reached");
    }
  }
}

export class FakeCluster {
  readonly clock = createVirtualClock();
  readonly store: Store = createMemoryStore(this.clock);
  readonly network = new MemoryNetwork(this.clock);
  readonly fabric: FakeFabric = new Map();
  readonly workers: FakeWorker[] = [];
  readonly #linkAddresses = new Map<string, string>();
  readonly #stores = new Map<FakeWorker, CuttableStore>();

  /** Starts a worker, and waits until everyone has announced. */
  async start(
    number: number,
    settings: Partial<WorkerConfig> = {},
    options: {
      memory?: FakeMemory;
      settle?: boolean;
      isolated?: boolean;
      log?: Logger;
      takeOver?: FakeSidecar;
      decisions?: Decisions;
    } = {},
  ): Promise<FakeWorker> {
    const address = `127.0.0.1:${20_000 + number}`;
    const memory = options.memory ?? new FakeMemory();
    const config = resolveWorkerConfig({ workerAddress: address, ...settings });
    const store = new CuttableStore(this.store);
    let worker: FakeWorker | undefined;
    let first: FakeSidecar | undefined;
    const starting = startControlProcess(config, {
      clock: this.clock,
      log: options.log ?? createSilentLogger(),
      ...(options.decisions === undefined ? {} : { decisions: options.decisions }),
      random: createSeededRandom(number),
      store,
      network: this.network.forProcess((link) => {
        this.#linkAddresses.set(address, link);
        if (options.isolated === true) {
          this.network.cut.add(link);
        }
      }),
      takeOverSidecar: async () => {
        first = options.takeOver;
        return first;
      },
      spawnSidecar: async () => {
        const sidecar = new FakeSidecar(address, memory, this.fabric);
        first ??= sidecar;
        if (worker !== undefined) {
          worker.sidecar = sidecar;
        }
        return sidecar;
      },
    });
    const control = await this.drive(starting);
    worker = { address, control, sidecar: first as FakeSidecar, memory };
    this.#stores.set(worker, store);
    this.workers.push(worker);
    if (options.settle !== false) {
      await this.ready();
    }
    return worker;
  }

  /** Lets time pass until the promise is settled. */
  async drive<T>(work: Promise<T>, stepMs = 10, limitMs = 120_000): Promise<T> {
    let settled = false;
    const mark = (): void => {
      settled = true;
    };
    work.then(mark, mark);
    await this.clock.settle();
    for (let passedMs = 0; !settled && passedMs < limitMs; passedMs += stepMs) {
      await this.clock.advance(stepMs);
    }
    if (!settled) {
      throw new Error(`not settled after ${limitMs} ms of virtual time`);
    }
    return work;
  }

  /** All are ready but those that are cut off. */
  async ready(): Promise<void> {
    const reached = this.workers.filter((worker) => this.#stores.get(worker)?.cut === false);
    await this.drive(Promise.all(reached.map(({ control }) => control.whenReady())));
  }

  /** As a SIGKILL of both processes: nothing is told to anybody; the lease runs out. */
  kill(worker: FakeWorker): void {
    this.workers.splice(this.workers.indexOf(worker), 1);
    this.cutOff(worker);
    this.network.dead.add(this.#linkAddresses.get(worker.address) ?? "");
    this.fabric.delete(worker.address);
    this.#killed.push(worker);
  }

  /** The others can't reach this worker's control process. */
  isolate(worker: FakeWorker): void {
    this.network.cut.add(this.#linkAddresses.get(worker.address) ?? "");
  }

  heal(worker: FakeWorker): void {
    this.network.cut.delete(this.#linkAddresses.get(worker.address) ?? "");
  }

  /** As isolate, and it can't reach the store either: it lives, but its lease runs out. */
  cutOff(worker: FakeWorker): void {
    this.isolate(worker);
    (this.#stores.get(worker) as CuttableStore).cut = true;
  }

  /** It does not reach the store, but everyone else. */
  cutStore(worker: FakeWorker): void {
    (this.#stores.get(worker) as CuttableStore).cut = true;
  }

  comeBack(worker: FakeWorker): void {
    this.heal(worker);
    (this.#stores.get(worker) as CuttableStore).cut = false;
  }

  readonly #killed: FakeWorker[] = [];

  async close(): Promise<void> {
    for (const worker of [...this.workers, ...this.#killed]) {
      await this.drive(worker.control.close());
    }
    await this.store.close();
  }
}
