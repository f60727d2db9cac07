/**
 * A simulated cluster: hosts with a control process and a sidecar each, the network between them, and the store, all in
 * virtual time. The control processes are the real ones, with the real Wasm; only what is passed into them is
 * simulated. Failures are done to hosts from here.
 */
import { resolveWorkerConfig, type WorkerConfig } from "../base/config.js";
import { createSilentLogger, type Logger } from "../base/log.js";
import { createSeededRandom, type RandomSource } from "../base/random.js";
import type { ControlProcess, SpawnedSidecar } from "../control/contract.js";
import { startControlProcess } from "../control/control-process.js";
import type { Decisions } from "../decision/index.js";
import { createMemoryStore, type Store } from "../metadata/index.js";
import { SimClock } from "./clock.js";
import { createSimDecisions } from "./decisions.js";
import { SimMemory, type SimObject } from "./memory.js";
import { ipOf, SimNetwork } from "./network.js";
import { SimProcess } from "./process.js";
import { type SimFabric, SimSidecar } from "./sidecar.js";
import { createSimStore, StoreReach } from "./store.js";
import { Trace } from "./trace.js";

export interface SimClusterOptions {
  seed: number;
  /** Tokens of a member in the rings of the control processes (src/sim/decisions.ts). */
  tokens: number;
  settings?: Partial<WorkerConfig>;
  /** Sidecars keep copies of what they read from others. */
  copies?: boolean;
  log?: Logger;
}

/** The control process that runs on a host. */
export interface RunningControl {
  process: SimProcess;
  /** Undefined until it has joined. */
  control: ControlProcess | undefined;
  decisions: Decisions;
}

export interface SimHost {
  number: number;
  address: string;
  memory: SimMemory;
  running: RunningControl | undefined;
  sidecar: SimSidecar | undefined;
  /** Its bytes will never be seen again. */
  isLost: boolean;
  /** Something that cuts it off from the others has been done to it since all were settled. */
  isCutOff: boolean;
}

/** What the trace calls a write to the store. */
export const STORE_PUT = "Store put";
/** Starting workers follow each other by this time. */
const START_STEP_MS = 0.5;
/** How long a sidecar waits for an object at another one that does not answer. */
const READ_TIMEOUT_MS = 2_000;
const SPAWN_MS = 50;
const SEAL_LOOK_MS = 1;
/** How exactly the time of a change is measured. */
const LOOK_MS = 10;

export class SimCluster {
  readonly clock = new SimClock();
  readonly trace = new Trace();
  readonly random: RandomSource;
  readonly network: SimNetwork;
  readonly reach = new StoreReach();
  readonly hosts: SimHost[] = [];
  readonly #options: SimClusterOptions;
  readonly #store: Store = createMemoryStore(this.clock);
  readonly #byAddress = new Map<string, SimHost>();
  readonly #failures: string[] = [];

  constructor(options: SimClusterOptions) {
    this.#options = options;
    this.random = createSeededRandom(options.seed);
    this.network = new SimNetwork(this.clock, createSeededRandom(options.seed ^ 0x5eed), this.trace);
  }

  /** Control processes that run and have joined. */
  get controls(): ControlProcess[] {
    return this.hosts.flatMap(({ running }) => (running?.control === undefined ? [] : [running.control]));
  }

  /** Adds so many hosts, starts their workers, and waits until all know of all. */
  async grow(workers: number): Promise<void> {
    const members = this.controls.length + workers;
    for (let count = 0; count < workers; count++) {
      this.addHost();
      await this.clock.advance(START_STEP_MS);
    }
    await this.settle(members);
  }

  /** Adds a host and starts its worker. */
  addHost(): SimHost {
    const number = this.hosts.length + 1;
    const address = `${ipOf(number)}:31501`;
    const memory = new SimMemory();
    const host: SimHost = {
      number,
      address,
      memory,
      running: undefined,
      sidecar: undefined,
      isLost: false,
      isCutOff: false,
    };
    this.hosts.push(host);
    this.#byAddress.set(address, host);
    this.startControl(host);
    return host;
  }

  /** Starts a control process, which takes over the host's sidecar if one runs. */
  startControl(host: SimHost): void {
    const process = new SimProcess(this.clock, host.number);
    const config = resolveWorkerConfig({ workerAddress: host.address, insecure: true, ...this.#options.settings });
    const random = createSeededRandom(this.random.nextBelow(2 ** 32));
    const hashSeed = BigInt(random.nextBelow(2 ** 32));
    const running: RunningControl = {
      process,
      control: undefined,
      decisions: createSimDecisions({ hashSeed, tokens: this.#options.tokens }),
    };
    host.running = running;
    const { decisions } = running;
    const { reach, clock } = this;
    const onPut = (bytes: number): void => this.trace.countMessage(STORE_PUT, bytes);
    startControlProcess(config, {
      clock: process.clock,
      log: this.#options.log ?? createSilentLogger(),
      random,
      decisions,
      store: createSimStore({ process, store: this.#store, reach, clock, onPut }),
      network: this.network.forProcess(process),
      takeOverSidecar: async () =>
        host.sidecar === undefined || host.sidecar.process.isDead ? undefined : this.#spawned(host, process),
      spawnSidecar: async () => {
        await new Promise<void>((resolve) => process.clock.setTimer(SPAWN_MS, resolve));
        host.sidecar = new SimSidecar(
          new SimProcess(clock, host.number),
          host.memory,
          this.#fabric,
          this.#options.copies,
        );
        return this.#spawned(host, process);
      },
    }).then(
      (control) => {
        running.control = control;
        void control.failed.then((reason) => this.#failures.push(`${host.address}: ${reason.message}`));
      },
      (reason: unknown) => void this.#failures.push(`${host.address} did not start: ${String(reason)}`),
    );
  }

  /** SIGKILL of the control process: its sidecar goes on. */
  killControl(host: SimHost): void {
    this.#note("killControl", host);
    host.isCutOff = true;
    host.running?.process.kill();
    host.running = undefined;
  }

  /** SIGKILL of the sidecar: the memory stays, and its control process starts another one. */
  killSidecar(host: SimHost): void {
    this.#note("killSidecar", host);
    host.sidecar?.process.kill();
  }

  /** The power goes: nobody is told anything, and the bytes are gone. */
  loseHost(host: SimHost): void {
    this.#note("loseHost", host);
    host.isLost = true;
    this.network.loseHost(host.number);
    this.reach.cut(host.number);
    host.running?.process.kill();
    host.sidecar?.process.kill();
    host.running = undefined;
    host.sidecar = undefined;
    host.memory = new SimMemory();
  }

  /** A lost host is back, empty. */
  replaceHost(host: SimHost): void {
    this.#note("replaceHost", host);
    host.isLost = false;
    this.network.healHost(host.number);
    this.reach.heal(host.number);
    this.startControl(host);
  }

  cutLink(one: SimHost, other: SimHost): void {
    this.#note(`cutLink ${other.number}`, one);
    one.isCutOff = true;
    other.isCutOff = true;
    this.network.cutLink(one.number, other.number);
  }

  healLink(one: SimHost, other: SimHost): void {
    this.#note(`healLink ${other.number}`, one);
    this.network.healLink(one.number, other.number);
  }

  /** This host does not reach the store any more; without one: no host does. */
  cutStore(host?: SimHost): void {
    this.#note("cutStore", host);
    if (host === undefined) {
      this.reach.cutAll();
    } else {
      host.isCutOff = true;
      this.reach.cut(host.number);
    }
  }

  /** Nobody reaches this host, nor it anybody. */
  isolate(host: SimHost): void {
    for (const other of this.hosts.filter((each) => each !== host)) {
      this.cutLink(host, other);
    }
  }

  rejoin(host: SimHost): void {
    for (const other of this.hosts.filter((each) => each !== host)) {
      this.healLink(host, other);
    }
  }

  healStore(host?: SimHost): void {
    this.#note("healStore", host);
    if (host === undefined) {
      this.reach.healAll();
    } else {
      this.reach.heal(host.number);
    }
  }

  /** SIGSTOP of everything on it. */
  pause(host: SimHost): void {
    this.#note("pause", host);
    host.isCutOff = true;
    host.running?.process.pause();
    host.sidecar?.process.pause();
  }

  /** Its sidecar runs on. */
  pauseControl(host: SimHost): void {
    this.#note("pause control", host);
    host.isCutOff = true;
    host.running?.process.pause();
  }

  resume(host: SimHost): void {
    this.#note("resume", host);
    host.sidecar?.process.resume();
    host.running?.process.resume();
  }

  /** As SIGTERM: it leaves as planned. */
  async stop(host: SimHost): Promise<void> {
    this.#note("stop", host);
    await this.clock.drive(host.running?.control?.close() ?? Promise.resolve(), 60_000);
    host.running?.process.kill();
    host.sidecar?.process.kill();
    host.running = undefined;
    host.sidecar = undefined;
    host.memory = new SimMemory();
  }

  /**
   * Waits until so many members know of each other and can give sure answers. Returns how long that took. Throws with
   * what is missing.
   */
  async settle(members: number, limitMs = 120_000): Promise<number> {
    const startMs = this.clock.monotonicMs();
    while (!this.isSettled(members)) {
      if (this.clock.monotonicMs() - startMs >= limitMs) {
        throw new Error(`not settled after ${limitMs} ms of virtual time: ${this.#describeState(members)}`);
      }
      await this.clock.advance(LOOK_MS);
    }
    for (const host of this.hosts) {
      host.isCutOff = false;
    }
    return this.clock.monotonicMs() - startMs;
  }

  /** Do so many members run, know of each other, and give sure answers? */
  isSettled(members: number): boolean {
    const { controls } = this;
    const [first] = controls;
    // Of one epoch all have the same members.
    return (
      controls.length === members &&
      first?.members.length === members &&
      controls.every((control) => control.epoch === first.epoch && control.notReadyReason === "")
    );
  }

  /** Control processes that gave up, with the cause. There should be none. */
  get failures(): readonly string[] {
    return this.#failures;
  }

  /**
   * Is there a sealed object of this key with one of these contents on a host that isn't lost? A copy on a host that
   * was cut off counts for nothing: where nothing else is left of its version it may be dropped
   * (src/control/copies.ts).
   */
  hasBytes(key: string, contents: ReadonlySet<number>, withCopies = true): boolean {
    return this.hosts.some(({ isLost, isCutOff, memory }) => {
      const object = isLost ? undefined : memory.sealed(key);
      const counts = object !== undefined && !(object.isCopy && (isCutOff || !withCopies));
      return counts && contents.has(object.content);
    });
  }

  /** Do these hosts have the key, and no other one? */
  isOnlyAt(key: string, hosts: readonly SimHost[]): boolean {
    const holders = this.hosts.filter(({ isLost, memory }) => !isLost && memory.sealed(key) !== undefined);
    return holders.length > 0 && holders.every((host) => hosts.includes(host));
  }

  /** Keys in each directory that runs. */
  directoryKeys(): number[] {
    return this.hosts.flatMap(({ running }) =>
      running === undefined ? [] : [running.decisions.directory.stats().keys],
    );
  }

  /** Ends every process; the simulation is over. */
  async close(): Promise<void> {
    for (const host of this.hosts) {
      host.running?.process.kill();
      host.sidecar?.process.kill();
    }
    await this.#store.close();
    await this.clock.advance(0);
  }

  #describeState(members: number): string {
    const epochs = new Map<bigint, number>();
    for (const { epoch } of this.controls) {
      epochs.set(epoch, (epochs.get(epoch) ?? 0) + 1);
    }
    const waiting = this.controls.find((control) => control.notReadyReason !== "");
    const of = [...epochs].map(([epoch, count]) => `${count} at epoch ${epoch}`).join(", ");
    const reason = waiting === undefined ? "" : `; ${waiting.config.workerAddress}: ${waiting.notReadyReason}`;
    const failed = this.#failures.length === 0 ? "" : `; ${this.#failures.join("; ")}`;
    return `${this.controls.length} of ${members} run, ${of}${reason.slice(0, 300)}${failed.slice(0, 300)}`;
  }

  #note(what: string, host: SimHost | undefined): void {
    this.trace.note(`${this.clock.monotonicMs()} ${what} ${host?.number ?? ""}`);
  }

  #spawned(host: SimHost, process: SimProcess): SpawnedSidecar {
    const sidecar = host.sidecar as SimSidecar;
    const port = sidecar.connect(process);
    return { port, storeFd: 1, stop: async () => port.close() };
  }

  readonly #fabric: SimFabric = {
    read: (reader, address, slot, generation) =>
      new Promise<SimObject | undefined>((resolve, reject) => {
        const timer = reader.clock.setTimer(READ_TIMEOUT_MS, () => reject(new Error(`${address} does not answer`)));
        const settle = (finish: () => void): void => {
          timer.cancel();
          reader.enter(finish);
        };
        const host = this.#byAddress.get(address);
        const reaches = (): boolean => host !== undefined && this.network.reaches(reader.host, host.number);
        const travel = (arrive: () => void): void => {
          if (reaches()) {
            this.clock.setTimer(this.network.latencyMs(), () => (reaches() ? arrive() : undefined));
          }
        };
        travel(() => {
          const sidecar = host?.sidecar;
          if (sidecar === undefined || sidecar.process.isDead) {
            settle(() => reject(new Error(`${address} has no sidecar now`)));
            return;
          }
          const look = (): void => {
            const object = sidecar.memory.at(slot, generation);
            if (object?.isSealed === false) {
              // Its owner knows of it before its holder has sealed it: who asks waits.
              sidecar.process.clock.setTimer(SEAL_LOOK_MS, look);
            } else {
              travel(() => settle(() => resolve(object)));
            }
          };
          sidecar.process.enter(look);
        });
      }),
  };
}
