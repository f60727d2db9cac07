/**
 * What clients of a simulated cluster know, and so what the cluster owes them: for each key which contents a get may
 * answer. A call that failed may have had its effect or not: both are then possible.
 *
 * A host that is cut off goes on serving what it holds to its own clients, also when others have deleted or replaced
 * it: that is promised to them (docs/ARCHITECTURE.md), and counted apart. Any other violation is an answer that was not
 * possible: a miss of a key whose bytes are there, other bytes than were set, a set that claims that the key exists
 * where nothing is.
 */
import { StatusCode } from "../base/errors.js";
import type { SimAnswer } from "./sidecar.js";

/** Stands for "nothing is set". Contents are above. */
export const ABSENT = 0;

interface KeyState {
  key: string;
  /** What a get may find. */
  possible: Set<number>;
  /** Gets under way: they may also find what becomes possible meanwhile. */
  readers: Set<Set<number>>;
  /** A write is under way: no other one is started. Nor after one that failed: it may have its effect at any time. */
  isBusy: boolean;
  /** Nothing but copies is left of it, which may go at any time. */
  isLoose: boolean;
}

export interface ModelCounts {
  hits: number;
  misses: number;
  /** Answers that claim nothing: TRY_AGAIN, owners that could not be asked. */
  unknown: number;
  writes: number;
  failedWrites: number;
  /** Keys whose only bytes were on a host that is lost: they are missed rightly. */
  lostWithBytes: number;
  /** Old bytes that a cut-off host served to its own clients. */
  staleLocal: number;
}

/** Where an answer comes from. */
export interface Origin {
  /** For messages. */
  where: string;
  /** The host may have been cut off from the others, and not know all that happened meanwhile. */
  isCutOff: boolean;
}

export interface ModelOptions {
  /** Is there a sealed object with one of these contents on a host that is not lost? */
  hasBytes: (key: string, contents: ReadonlySet<number>) => boolean;
}

export class Model {
  readonly counts: ModelCounts = {
    hits: 0,
    misses: 0,
    unknown: 0,
    writes: 0,
    failedWrites: 0,
    lostWithBytes: 0,
    staleLocal: 0,
  };
  /** Each in a sentence. */
  readonly violations: string[] = [];
  /** All that were ever written. */
  readonly keys: string[] = [];
  readonly #keys = new Map<string, KeyState>();
  readonly #options: ModelOptions;
  #lastContent = ABSENT;

  constructor(options: ModelOptions) {
    this.#options = options;
  }

  nextContent(): number {
    return ++this.#lastContent;
  }

  /** May a write of this key be started? */
  isFree(key: string): boolean {
    return this.#keys.get(key)?.isBusy !== true;
  }

  /** Returns what takes the answer. */
  beginSet(key: string, content: number, existence: 0 | 2): (answer: SimAnswer, origin: Origin) => void {
    const state = this.#stateOf(key);
    const before = new Set(state.possible);
    state.isBusy = true;
    this.#becomesPossible(state, content);
    return ({ code, existed, isLocal }, { where, isCutOff }) => {
      if (code !== StatusCode.OK) {
        this.counts.failedWrites++;
        return;
      }
      state.isBusy = false;
      this.counts.writes++;
      if (!existed || existence === 2) {
        state.possible = new Set([content]);
        state.isLoose = false;
        return;
      }
      state.possible = before;
      if (isLocal === true && isCutOff) {
        // What it has may be old; nothing is known now.
        state.possible = new Set([...before, ABSENT]);
        return;
      }
      if (before.size === 1 && before.has(ABSENT)) {
        this.violations.push(`set ${key} at ${where}: it is said to exist, but was deleted, or never set`);
      }
      before.delete(ABSENT);
      if (state.isLoose) {
        before.add(ABSENT);
      }
    };
  }

  beginDelete(key: string): (answer: SimAnswer) => void {
    const state = this.#stateOf(key);
    state.isBusy = true;
    this.#becomesPossible(state, ABSENT);
    return ({ code }) => {
      if (code !== StatusCode.OK) {
        this.counts.failedWrites++;
        return;
      }
      state.isBusy = false;
      this.counts.writes++;
      state.possible = new Set([ABSENT]);
    };
  }

  beginGet(key: string): (answer: SimAnswer, origin: Origin) => void {
    const state = this.#stateOf(key);
    const possible = new Set(state.possible);
    state.readers.add(possible);
    return ({ code, content, message, isLocal }, { where, isCutOff }) => {
      state.readers.delete(possible);
      if (code === StatusCode.OK && content !== undefined) {
        this.counts.hits++;
        if (!possible.has(content) && isLocal === true && isCutOff) {
          this.counts.staleLocal++;
        } else if (!possible.has(content)) {
          this.violations.push(`get ${key} at ${where}: content ${content}, possible are ${[...possible].join(", ")}`);
        }
      } else if (code === StatusCode.NOT_FOUND) {
        this.#takeMiss(state, possible, where);
      } else {
        this.counts.unknown++;
        if (code === StatusCode.OK) {
          this.violations.push(`get ${key} at ${where}: OK without content: ${message}`);
        }
      }
    };
  }

  /**
   * Keys that are set for sure, and of which nothing is left but copies: these may go at any time. Returns how many.
   */
  releaseCopies(hasOriginal: (key: string, contents: ReadonlySet<number>) => boolean): number {
    const keys = this.certain.filter((key) => !hasOriginal(key, this.#stateOf(key).possible));
    for (const key of keys) {
      this.#stateOf(key).isLoose = true;
      this.#becomesPossible(this.#stateOf(key), ABSENT);
    }
    return keys.length;
  }

  /** The only locations of these keys are about to lose them: what was there may not be found from now on. */
  beginEviction(keys: readonly string[]): void {
    for (const key of keys) {
      this.#becomesPossible(this.#stateOf(key), ABSENT);
    }
  }

  /** Nothing is left of these keys but what nobody may serve: they must not be found any more. */
  endEviction(keys: readonly string[]): void {
    for (const key of keys) {
      this.#stateOf(key).possible = new Set([ABSENT]);
    }
  }

  /** Keys that must be found: set for sure. */
  get certain(): string[] {
    return [...this.#keys.values()].filter(({ possible }) => !possible.has(ABSENT)).map(({ key }) => key);
  }

  #takeMiss(state: KeyState, possible: Set<number>, where: string): void {
    this.counts.misses++;
    if (possible.has(ABSENT)) {
      return;
    }
    if (this.#options.hasBytes(state.key, possible)) {
      this.violations.push(`get ${state.key} at ${where}: a miss, but its bytes are there`);
    } else {
      this.counts.lostWithBytes++;
    }
    state.possible.add(ABSENT);
  }

  #stateOf(key: string): KeyState {
    let state = this.#keys.get(key);
    if (state === undefined) {
      state = { key, possible: new Set([ABSENT]), readers: new Set(), isBusy: false, isLoose: false };
      this.#keys.set(key, state);
      this.keys.push(key);
    }
    return state;
  }

  #becomesPossible(state: KeyState, content: number): void {
    state.possible.add(content);
    for (const reader of state.readers) {
      reader.add(content);
    }
  }
}
