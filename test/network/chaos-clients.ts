/**
 * Clients of a chaos run: each sets, replaces and deletes keys of its own at its host, and reads those of all. What it
 * does follows from the seed; what a key may hold is kept here, so that every answer can be judged.
 *
 * A write that was confirmed is what a key holds. One that failed, or whose process was killed, may have its effect or
 * not, at any time: its key is left alone from then on, and may hold what it held before or what was tried. A read may
 * be told that a key can't be read now. It may never be told that a key is missing which is there for sure, nor get
 * bytes that were not set under that key as a whole.
 */
import { setTimeout as delay } from "node:timers/promises";
import type { RandomSource } from "../../src/base/random.js";
import { hasEnded } from "../support/asked-process.js";
import { NEEDS_CONNECT, type NetworkFixture, TRANSIENT } from "./fixture.js";
import { type HostProcess, type Outcome, WRONG_BYTES } from "./host-process.js";

const ABSENT = 0;
const STEP_PAUSE_MS = 10;
/** The sidecar did not even say that it stopped. */
const SILENT = "WORKER_TIMEOUT";

export interface ChaosKey {
  name: string;
  sizes: number[];
  /** Versions that it may hold; ABSENT is one of them. */
  possible: Set<number>;
  /** All that were ever tried. */
  lastVersion: number;
  /** How often `possible` grew or was replaced: tells a reader whether it changed meanwhile. */
  changes: number;
  /** A write of it is under way, or is not known to have failed. */
  isOpen: boolean;
}

export interface ChaosCounts {
  calls: number;
  confirmed: number;
  read: number;
  refused: number;
  uncertain: number;
  /** Of refused keys, by code. */
  codes: Record<string, number>;
}

export class ChaosClient {
  readonly host: number;
  readonly keys: ChaosKey[] = [];
  #process: HostProcess | undefined;
  #isConnected = false;
  readonly #net: NetworkFixture;
  readonly #random: RandomSource;
  readonly #name: string;
  readonly #all: readonly ChaosClient[];
  readonly #counts: ChaosCounts;
  readonly #violations: string[];
  readonly #keysMax: number;
  readonly #when: () => string;

  constructor(options: {
    net: NetworkFixture;
    random: RandomSource;
    host: number;
    name: string;
    all: readonly ChaosClient[];
    counts: ChaosCounts;
    violations: string[];
    keysMax: number;
    /** What is broken now, for messages. */
    when: () => string;
  }) {
    this.host = options.host;
    this.#net = options.net;
    this.#random = options.random;
    this.#name = options.name;
    this.#all = options.all;
    this.#counts = options.counts;
    this.#violations = options.violations;
    this.#keysMax = options.keysMax;
    this.#when = options.when;
  }

  /** Goes on until the signal aborts, and ends the call under way. Never rejects but by a fault of the test. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        this.#process ??= await this.#net.newProcess(this.host);
        this.#isConnected ||= await connect(this.#process);
        if (this.#isConnected) {
          await this.#step(this.#process);
        }
        // So that the workers have the machine, and not those who ask them.
        await delay(STEP_PAUSE_MS);
      } catch (reason) {
        if (!hasEnded(reason)) {
          throw reason;
        }
        this.#process = undefined;
        this.#isConnected = false;
      }
    }
  }

  /** kill -9 in the middle of whatever it does. */
  async kill(): Promise<void> {
    await this.#process?.kill();
  }

  async #step(process: HostProcess): Promise<void> {
    this.#counts.calls += 1;
    const kind = this.#random.nextFraction();
    if (kind < 0.35) {
      await this.#write(process, this.#toSet(), kind < 0.3 ? "set" : "setFail");
    } else if (kind < 0.43) {
      await this.#write(
        process,
        this.#some(
          this.keys.filter((key) => !key.isOpen),
          2,
        ),
        "delete",
      );
    } else {
      const names = this.#some(
        this.#all.flatMap((client) => client.keys),
        8,
      );
      await this.#look(process, names, kind < 0.9 ? "get" : "exist");
    }
  }

  /** New ones, as long as there may be more, and such that are there already. */
  #toSet(): ChaosKey[] {
    const chosen = this.#some(
      this.keys.filter((key) => !key.isOpen),
      2,
    );
    for (let count = this.#random.nextBelow(3); count > 0 && this.keys.length < this.#keysMax; count -= 1) {
      const sizes = [64 + 4 * this.#random.nextBelow(4_096), 4 + 4 * this.#random.nextBelow(16)];
      const name = `${this.#name}-${this.keys.length}`;
      const key = { name, sizes, possible: new Set([ABSENT]), lastVersion: 0, changes: 0, isOpen: false };
      this.keys.push(key);
      chosen.push(key);
    }
    return chosen;
  }

  #some(from: readonly ChaosKey[], countMax: number): ChaosKey[] {
    const chosen = new Set<ChaosKey>();
    const count = 1 + this.#random.nextBelow(countMax);
    for (let time = 0; time < count && from.length > 0; time += 1) {
      chosen.add(from[this.#random.nextBelow(from.length)] as ChaosKey);
    }
    return [...chosen];
  }

  async #write(process: HostProcess, keys: readonly ChaosKey[], kind: "set" | "setFail" | "delete"): Promise<void> {
    if (keys.length === 0) {
      return;
    }
    const before = keys.map(({ possible }) => possible);
    const versions = keys.map((key) => (kind === "delete" ? ABSENT : key.lastVersion + 1));
    for (const [index, key] of keys.entries()) {
      key.isOpen = true;
      key.lastVersion = Math.max(key.lastVersion, versions[index] as number);
      change(key, new Set([...key.possible, versions[index] as number]));
    }
    const names = keys.map(({ name }) => name);
    const existence = kind === "set" ? "replace" : "fail";
    // Rejects with the process: then the keys stay open.
    const outcomes =
      kind === "delete"
        ? await process.ask<Outcome[]>("delete", { keys: names })
        : await process.ask<Outcome[]>("set", {
            keys: names,
            sizes: keys.map(({ sizes }) => sizes),
            versions,
            existence,
          });
    for (const [index, key] of keys.entries()) {
      this.#judgeWrite(key, versions[index] as number, before[index] as Set<number>, outcomes[index] as Outcome, kind);
    }
    await this.#noteConnection(outcomes);
  }

  #judgeWrite(key: ChaosKey, version: number, before: Set<number>, { code, message }: Outcome, kind: string): void {
    if (code === "OK") {
      this.#counts.confirmed += 1;
      if (kind === "setFail" && !before.has(ABSENT)) {
        this.#violations.push(`${key.name} was set although it was there for sure`);
      }
      change(key, new Set([version]));
      key.isOpen = false;
    } else if (code === "KEY_ALREADY_EXISTS" && kind === "setFail") {
      if (before.size === 1 && before.has(ABSENT)) {
        this.#violations.push(`${key.name} was refused as being there although it was not: ${message}`);
      }
      change(key, before);
      key.isOpen = false;
    } else if (TRANSIENT.includes(code) || code === SILENT) {
      this.#refused(code);
      this.#counts.uncertain += 1;
    } else {
      this.#violations.push(`${kind} of ${key.name} at host ${this.host} failed with ${code}: ${message}`);
    }
  }

  async #look(process: HostProcess, keys: readonly ChaosKey[], how: "get" | "exist"): Promise<void> {
    if (keys.length === 0) {
      return;
    }
    const before = keys.map(({ possible, changes }) => ({ possible, changes }));
    const asked = { keys: keys.map(({ name }) => name), sizes: keys.map(({ sizes }) => sizes) };
    const outcomes = await process.ask<Outcome[]>(how, asked);
    for (const [index, key] of keys.entries()) {
      const outcome = outcomes[index] as Outcome;
      const was = before[index] as { possible: Set<number>; changes: number };
      const mayBeAbsent = was.possible.has(ABSENT) || key.possible.has(ABSENT) || key.changes !== was.changes;
      const missing = outcome.code === "NOT_FOUND" || outcome.presence === "MISS";
      if (missing && !mayBeAbsent) {
        const what = `${key.name} was said to be missing at host ${this.host} (${how})`;
        // Asked at once: who owned it, and what that one knew.
        const why = await process.ask<unknown>("explain", { key: key.name }).catch(String);
        this.#violations.push(`${this.#when()}: ${what}: ${JSON.stringify(why)}`);
      } else if (outcome.code === "OK" && how === "get") {
        this.#judgeBytes(key, outcome.version ?? WRONG_BYTES);
      } else if (outcome.code !== "OK" && outcome.code !== "NOT_FOUND") {
        this.#judgeRefusal(key, outcome);
      }
    }
    await this.#noteConnection(outcomes);
  }

  #judgeBytes(key: ChaosKey, version: number): void {
    this.#counts.read += 1;
    // An older version may be read where others can't tell this host that it was replaced.
    if (version < 1 || version > key.lastVersion) {
      this.#violations.push(
        `${key.name} was read at host ${this.host} with bytes that nobody set (version ${version})`,
      );
    }
  }

  #judgeRefusal(key: ChaosKey, { code, message }: Outcome): void {
    if (TRANSIENT.includes(code) || code === SILENT) {
      this.#refused(code);
    } else {
      this.#violations.push(`reading ${key.name} at host ${this.host} failed with ${code}: ${message}`);
    }
  }

  #refused(code: string): void {
    this.#counts.refused += 1;
    this.#counts.codes[code] = (this.#counts.codes[code] ?? 0) + 1;
  }

  async #noteConnection(outcomes: readonly Outcome[]): Promise<void> {
    this.#isConnected = !outcomes.some(({ code }) => NEEDS_CONNECT.includes(code));
    if (outcomes.some(({ code }) => code === SILENT)) {
      // Its worker was stopped for longer than a request may take, and may still use the memory of the call.
      await this.kill();
    }
  }
}

/** False: not now. Rejects when the process ends. */
async function connect(process: HostProcess): Promise<boolean> {
  try {
    await process.ask("connect");
    return true;
  } catch (reason) {
    if (hasEnded(reason)) {
      throw reason;
    }
    return false;
  }
}

function change(key: ChaosKey, possible: Set<number>): void {
  key.possible = possible;
  key.changes += 1;
}
