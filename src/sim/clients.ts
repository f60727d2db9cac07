/**
 * Clients of a simulated cluster: they set, get and delete at hosts chosen from the seed, and the model judges what
 * they are told.
 */

import { StatusCode } from "../base/errors.js";
import type { RandomSource } from "../base/random.js";
import type { SimCluster, SimHost } from "./cluster.js";
import { Model, type Origin } from "./model.js";
import type { SimAnswer, SimSidecar } from "./sidecar.js";

export interface CheckResult {
  /** Keys that were looked for: all that are set for sure, at one host each. */
  checked: number;
  found: number;
  /** Not found, and no host has their bytes any more. */
  lostWithBytes: number;
  /** No answer that claims anything, after all attempts. */
  unknown: number;
}

/** A call of a client and what it may take at most; a host may die in it, and nobody answers then. */
const CALL_LIMIT_MS = 60_000;
const KEYS_PER_BATCH = 64;
const CHECK_ATTEMPTS = 20;
const CHECK_PAUSE_MS = 500;
const STEP_MS = 20;

export class Clients {
  readonly model: Model;
  readonly #cluster: SimCluster;
  readonly #random: RandomSource;
  /** Since they were looked at last: when calls at hosts that are not cut off began, and ended. */
  #waits: { begunMs: number; endedMs: number | undefined }[] = [];
  #nextKey = 0;

  constructor(cluster: SimCluster, random: RandomSource) {
    this.#cluster = cluster;
    this.#random = random;
    this.model = new Model({ hasBytes: (key, contents) => cluster.hasBytes(key, contents) });
  }

  /** Sets so many new keys, spread over all hosts. */
  async fill(keys: number): Promise<void> {
    const hosts = this.#usable();
    const perHost = Math.ceil(keys / hosts.length);
    const sets: Promise<void>[] = [];
    for (const [index, host] of hosts.entries()) {
      const count = Math.min(perHost, keys - index * perHost);
      for (let left = count; left > 0; left -= KEYS_PER_BATCH) {
        sets.push(this.#set(host, this.#newKeys(Math.min(left, KEYS_PER_BATCH)), 0));
      }
    }
    await this.#cluster.clock.drive(Promise.all(sets), CALL_LIMIT_MS);
  }

  /** For `durationMs`: a few calls at random hosts, every STEP_MS. What is under way at its end goes on. */
  async run(durationMs: number, callsPerStep: number): Promise<void> {
    const { clock } = this.#cluster;
    const endMs = clock.monotonicMs() + durationMs;
    while (clock.monotonicMs() < endMs) {
      const hosts = this.#usable();
      for (let call = 0; call < callsPerStep && hosts.length > 0; call++) {
        // What it is told goes to the model; a call at a host that dies ends with nothing.
        const host = this.#pick(hosts);
        const wait = { begunMs: clock.monotonicMs(), endedMs: undefined as number | undefined };
        if (!host.isCutOff) {
          this.#waits.push(wait);
        }
        void this.#callSomething(host)
          .catch((reason: unknown) => {
            this.model.violations.push(`a call threw: ${String(reason)}`);
          })
          .finally(() => {
            wait.endedMs = clock.monotonicMs();
          });
      }
      await clock.advance(Math.min(STEP_MS, endMs - clock.monotonicMs()));
    }
  }

  /** The longest wait so far of the calls that began since this was asked last. */
  takeLongestWaitMs(): number {
    const nowMs = this.#cluster.clock.monotonicMs();
    const waits = this.#waits.map(({ begunMs, endedMs = nowMs }) => endedMs - begunMs);
    this.#waits = [];
    return Math.max(0, ...waits);
  }

  /** Looks for every key that is set for sure at a random host that runs, again while nothing is claimed. */
  async check(): Promise<CheckResult> {
    const keys = this.model.certain;
    const result: CheckResult = { checked: keys.length, found: 0, lostWithBytes: 0, unknown: 0 };
    const before = this.model.counts.lostWithBytes;
    let left = keys;
    for (let attempt = 0; left.length > 0 && attempt < CHECK_ATTEMPTS; attempt++) {
      const hosts = this.#usable();
      const again: string[] = [];
      const gets: Promise<void>[] = [];
      for (let from = 0; from < left.length; from += KEYS_PER_BATCH) {
        const batch = left.slice(from, from + KEYS_PER_BATCH);
        gets.push(
          this.#get(this.#pick(hosts), batch).then((answers) =>
            answers.forEach(({ code }, index) => {
              if (code === StatusCode.OK) {
                result.found++;
              } else if (code !== StatusCode.NOT_FOUND) {
                again.push(batch[index] as string);
              }
            }),
          ),
        );
      }
      await this.#cluster.clock.drive(Promise.all(gets), CALL_LIMIT_MS);
      left = again;
      if (left.length > 0) {
        await this.#cluster.clock.advance(CHECK_PAUSE_MS);
      }
    }
    result.unknown = left.length;
    result.lostWithBytes = this.model.counts.lostWithBytes - before;
    return result;
  }

  /** Deletes these keys at this host. Returns those of which it was told that they are gone. */
  async deleteAt(host: SimHost, keys: readonly string[]): Promise<string[]> {
    const free = keys.filter((key) => this.model.isFree(key));
    const takes = free.map((key) => this.model.beginDelete(key));
    const answers = await this.#cluster.clock.drive(sidecarOf(host).delete(free), CALL_LIMIT_MS);
    this.#judge(host, takes, answers);
    return free.filter((_, index) => answers[index]?.code === StatusCode.OK);
  }

  /** Sets these keys at this host, each to a new content. Returns those of which it was told that they are set. */
  async setAt(host: SimHost, keys: readonly string[], existence: 0 | 2): Promise<string[]> {
    const free = keys.filter((key) => this.model.isFree(key));
    const content = this.model.nextContent();
    const takes = free.map((key) => this.model.beginSet(key, content, existence));
    const setting = sidecarOf(host).set(free, content, existence);
    const answers = await this.#cluster.clock.drive(setting, CALL_LIMIT_MS);
    this.#judge(host, takes, answers);
    return free.filter((_, index) => answers[index]?.code === StatusCode.OK && answers[index]?.existed !== true);
  }

  /** The objects of these keys make room at this host, which is the only one that has them. */
  evictAt(host: SimHost, keys: readonly string[]): void {
    this.model.beginEviction(keys);
    sidecarOf(host).evict(keys);
    this.model.endEviction(keys);
  }

  /** Looks for these keys at this host. */
  async getAt(host: SimHost, keys: readonly string[]): Promise<void> {
    await this.#cluster.clock.drive(this.#get(host, keys), CALL_LIMIT_MS);
  }

  /** Looks for these keys at every host; the model judges what is found. */
  async getEverywhere(keys: readonly string[]): Promise<void> {
    const gets = this.#usable().map((host) => this.#get(host, keys));
    await this.#cluster.clock.drive(Promise.all(gets), CALL_LIMIT_MS);
  }

  async #callSomething(host: SimHost): Promise<void> {
    const dice = this.#random.nextBelow(100);
    const { keys } = this.model;
    if (dice < 60 && keys.length > 0) {
      await this.#get(host, this.#pickKeys(keys, 8));
      return;
    }
    if (dice < 80 || keys.length === 0) {
      await this.#set(host, this.#newKeys(4), 0);
    } else if (dice < 90) {
      await this.#set(host, this.#pickFree(keys, 2), dice < 85 ? 0 : 2);
    } else {
      await this.#delete(host, this.#pickFree(keys, 2));
    }
  }

  async #get(host: SimHost, keys: readonly string[]): Promise<SimAnswer[]> {
    const takes = keys.map((key) => this.model.beginGet(key));
    const answers = await sidecarOf(host).get(keys);
    this.#judge(host, takes, answers);
    return answers;
  }

  async #set(host: SimHost, keys: readonly string[], existence: 0 | 2): Promise<void> {
    if (keys.length > 0) {
      const content = this.model.nextContent();
      const takes = keys.map((key) => this.model.beginSet(key, content, existence));
      const atOnce = existence === 0 && this.#random.nextBelow(2) === 0;
      this.#judge(host, takes, await sidecarOf(host).set(keys, content, existence, atOnce));
    }
  }

  async #delete(host: SimHost, keys: readonly string[]): Promise<void> {
    if (keys.length > 0) {
      const takes = keys.map((key) => this.model.beginDelete(key));
      this.#judge(host, takes, await sidecarOf(host).delete(keys));
    }
  }

  #judge(host: SimHost, takes: ((answer: SimAnswer, origin: Origin) => void)[], answers: readonly SimAnswer[]): void {
    const { clock, trace } = this.#cluster;
    const where = `host ${host.number}, ${clock.monotonicMs().toFixed(2)} ms`;
    trace.note(`${where} ${answers.map(({ code, content }) => `${code}/${content ?? ""}`).join(" ")}`);
    const origin = { where, isCutOff: host.isCutOff };
    takes.forEach((take, index) => take(answers[index] as SimAnswer, origin));
  }

  /** Hosts whose sidecar runs and has clients. */
  #usable(): SimHost[] {
    return this.#cluster.hosts.filter(
      ({ sidecar, running }) => sidecar?.process.isRunning === true && running?.control !== undefined,
    );
  }

  #newKeys(count: number): string[] {
    return Array.from({ length: count }, () => `key-${this.#nextKey++}`);
  }

  #pick<T>(from: readonly T[]): T {
    return from[this.#random.nextBelow(from.length)] as T;
  }

  #pickKeys(keys: readonly string[], count: number): string[] {
    return [...new Set(Array.from({ length: count }, () => this.#pick(keys)))];
  }

  #pickFree(keys: readonly string[], count: number): string[] {
    return this.#pickKeys(keys, count).filter((key) => this.model.isFree(key));
  }
}

function sidecarOf(host: SimHost): SimSidecar {
  return host.sidecar as SimSidecar;
}
