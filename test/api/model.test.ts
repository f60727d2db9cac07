/**
 * Goal: whatever several client processes do with host objects at two workers, each key behaves as one place that holds
 * one value. Method: four client processes, two at each worker, do thousands of random operations on few keys, many at
 * once. A key has one turn at a time: one operation (also of several keys in one call), whose answer the model
 * foretells exactly; or a burst, in which several processes work on the key at once and each answer must be one that
 * some order of them gives; then all processes must agree on what the key holds. Values are 32-bit words that fill the
 * object, none used twice, so that mixed or stale bytes are seen. The seed is printed; HBMESH_SEED=N replays the same
 * operations.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { LocalClusterOptions } from "../../src/cli/local-cluster.js";
import { type Fixture, startFixture } from "../cluster/fixture.js";
import { ClientProcess } from "./client-process.js";

const seed = Number(process.env["HBMESH_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
const operationsWanted = 4_000;
const keyCount = 12;
const processCount = 4;
/** Shapes that objects have: multiples of 4 bytes. */
const shapes = [[64], [4096, 12], [128, 70_000]] as const;

/** What a key holds. */
interface Held {
  value: number;
  shape: number;
}

type Existence = "skip" | "fail" | "replace";

interface SetAnswer {
  codes: string[];
  existed: boolean[];
}

interface GetAnswer {
  codes: string[];
  values: number[];
  /** Some of the bytes came from an SSD tier. */
  spilled: boolean;
}

interface ExistAnswer {
  codes: string[];
  presences: string[];
}

/** mulberry32. */
function randomOf(state: number): (below: number) => number {
  let next = state;
  return (below) => {
    next = (next + 0x6d2b79f5) | 0;
    let mixed = Math.imul(next ^ (next >>> 15), 1 | next);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

/** As Promise.all, but nothing is under way any more when it rejects. */
async function allEnded<Value>(calls: readonly Promise<Value>[]): Promise<Value[]> {
  await Promise.allSettled(calls);
  return await Promise.all(calls);
}

let processes: ClientProcess[] = [];

/** How workers keep objects: what a key holds must not depend on it. */
const arrangements: { name: string; spills: boolean; options: (directory: string) => LocalClusterOptions }[] = [
  // Of few objects at a time, so that they come and go.
  { name: "remote gets leave copies", spills: false, options: () => ({ replicaPercent: 1 }) },
  {
    name: "nearly everything goes to an SSD tier and comes back",
    spills: true,
    options: (directory) => ({
      sharedMemorySizeMb: 4,
      workerArgs: (index) => [
        ...["--eviction_high", "1", "--eviction_low", "1"],
        ...["--spill_directory", join(directory, `worker-${index}`), "--spill_mb", "64"],
      ],
    }),
  },
];

/**
 * One key's turns follow each other; lanes of keys run at once, each with randomness of its own, so that a seed
 * replays.
 */
class Lane {
  readonly #keys: readonly string[];
  readonly #held: (Held | undefined)[];
  readonly #random: (below: number) => number;
  #lastValue: number;
  done = 0;
  /** Gets that an SSD tier answered. */
  spilled = 0;

  constructor(lane: number, keys: readonly string[]) {
    this.#keys = keys;
    this.#held = keys.map(() => undefined);
    this.#random = randomOf(seed + lane * 7_919);
    this.#lastValue = (lane + 1) << 20;
  }

  async turn(): Promise<void> {
    const kind = this.#random(10);
    if (kind < 3) {
      await this.#set();
    } else if (kind < 6) {
      await this.#get();
    } else if (kind < 7) {
      await this.#exist();
    } else if (kind < 8) {
      await this.#delete();
    } else {
      await this.#burst(this.#random(this.#keys.length));
    }
  }

  #process(): ClientProcess {
    return processes[this.#random(processCount)] as ClientProcess;
  }

  #newValue(): number {
    this.#lastValue += 1;
    return this.#lastValue;
  }

  /** Some of the lane's keys, at least one, as indices. */
  #someKeys(): number[] {
    const chosen = this.#keys.map((_, index) => index).filter(() => this.#random(2) === 0);
    return chosen.length === 0 ? [this.#random(this.#keys.length)] : chosen;
  }

  #names(indices: readonly number[]): string[] {
    return indices.map((index) => this.#keys[index] ?? "");
  }

  async #ask<Answer>(
    process: ClientProcess,
    command: string,
    indices: readonly number[],
    args: object = {},
  ): Promise<Answer> {
    this.done += indices.length;
    return await process.ask<Answer>(command, { keys: this.#names(indices), device: this.#random(4), ...args });
  }

  async #set(): Promise<void> {
    const indices = this.#someKeys();
    const existence = (["skip", "fail", "replace"] as const)[this.#random(3)] as Existence;
    const written = indices.map(() => ({ value: this.#newValue(), shape: this.#random(shapes.length) }));
    const answer = await this.#ask<SetAnswer>(this.#process(), "set", indices, {
      sizes: written.map(({ shape }) => shapes[shape]),
      values: written.map(({ value }) => value),
      existence,
      checksum: this.#random(2) === 0,
    });
    const was = indices.map((index) => this.#held[index] !== undefined);
    const codes = was.map((there) => (there && existence === "fail" ? "KEY_ALREADY_EXISTS" : "OK"));
    expect(answer.codes, this.#context(`set ${existence}`, indices)).toEqual(codes);
    if (existence === "skip") {
      expect(answer.existed, this.#context("set skip existed", indices)).toEqual(was);
    }
    for (const [at, index] of indices.entries()) {
      if (!was[at] || existence === "replace") {
        this.#held[index] = written[at];
      }
    }
  }

  async #get(): Promise<void> {
    const indices = this.#someKeys();
    const shapesAsked = indices.map((index) => {
      const right = this.#held[index]?.shape;
      return right === undefined || this.#random(8) === 0 ? this.#random(shapes.length) : right;
    });
    const sizes = shapesAsked.map((shape) => shapes[shape]);
    const answer = await this.#ask<GetAnswer>(this.#process(), "get", indices, { sizes });
    this.spilled += answer.spilled ? 1 : 0;
    const wanted = indices.map((index, at) => {
      const held = this.#held[index];
      return held === undefined ? "NOT_FOUND" : held.shape === shapesAsked[at] ? "OK" : "INVALID";
    });
    expect(answer.codes, this.#context("get", indices)).toEqual(wanted);
    const values = indices.map((index, at) => (wanted[at] === "OK" ? this.#held[index]?.value : 0));
    expect(answer.values, this.#context("bytes of get", indices)).toEqual(values);
  }

  async #exist(): Promise<void> {
    const indices = this.#someKeys();
    const answer = await this.#ask<ExistAnswer>(this.#process(), "exist", indices);
    const wanted = indices.map((index) => (this.#held[index] === undefined ? "MISS" : "HIT"));
    expect(answer.presences, this.#context("exist", indices)).toEqual(wanted);
  }

  async #delete(): Promise<void> {
    const indices = this.#someKeys();
    const answer = await this.#ask<SetAnswer>(this.#process(), "delete", indices);
    expect(answer.codes, this.#context("delete", indices)).toEqual(indices.map(() => "OK"));
    const was = indices.map((index) => this.#held[index] !== undefined);
    expect(answer.existed, this.#context("delete existed", indices)).toEqual(was);
    for (const index of indices) {
      this.#held[index] = undefined;
    }
  }

  /** All processes on one key at once. Afterwards the model holds what all of them read. */
  async #burst(index: number): Promise<void> {
    const before = this.#held[index];
    const shape = before?.shape ?? this.#random(shapes.length);
    const sizes = [shapes[shape]];
    const plans = processes.map((process) => ({ process, kind: this.#random(4), value: this.#newValue() }));
    const isDeleted = plans.some(({ kind }) => kind === 2);
    const isReplaced = plans.some(({ kind }) => kind === 1);
    const possible = plans.filter(({ kind }) => kind < 2).map(({ value }) => value);
    if (before !== undefined) {
      possible.push(before.value);
    }
    const outcomes = await allEnded(
      plans.map(async ({ process, kind, value }) => {
        if (kind < 2) {
          const existence = kind === 0 ? "skip" : "replace";
          const args = { sizes, values: [value], existence, checksum: value % 2 === 0 };
          const answer = await this.#ask<SetAnswer>(process, "set", [index], args);
          // A delete or another write in between may send a set away; it has then done nothing.
          const refused = answer.codes[0] === "TRY_AGAIN" && (isDeleted || isReplaced);
          expect(refused ? ["OK"] : answer.codes, this.#context("set in a burst", [index])).toEqual(["OK"]);
          return { kind, existed: refused || answer.existed[0] === true, value, refused };
        }
        if (kind === 2) {
          const answer = await this.#ask<SetAnswer>(process, "delete", [index]);
          expect(answer.codes, this.#context("delete in a burst", [index])).toEqual(["OK"]);
          return { kind, existed: answer.existed[0] === true, value, refused: false };
        }
        const answer = await this.#ask<GetAnswer>(process, "get", [index], { sizes });
        const code = answer.codes[0];
        const allowed = ["OK", "TRY_AGAIN", ...(isDeleted || before === undefined ? ["NOT_FOUND"] : [])];
        expect(allowed, this.#context("get in a burst", [index])).toContain(code);
        if (code === "OK") {
          expect(possible, this.#context("bytes of a get in a burst", [index])).toContain(answer.values[0]);
        }
        return { kind, existed: false, value, refused: false };
      }),
    );
    const firstWrites = outcomes.filter(({ kind, existed }) => kind === 0 && !existed).length;
    if (!isDeleted && !isReplaced) {
      const skips = outcomes.filter(({ kind }) => kind === 0).length;
      const wanted = before === undefined && skips > 0 ? 1 : 0;
      expect(firstWrites, this.#context("first writes in a burst", [index])).toBe(wanted);
    }
    await this.#agree(index, shape, {
      possible: outcomes
        .filter(({ kind, existed, refused }) => (kind === 1 && !refused) || (kind === 0 && !existed))
        .map(({ value }) => value),
      before,
      isDeleted,
    });
  }

  /** Every process reads the same, and it is something that may be left. */
  async #agree(
    index: number,
    shape: number,
    burst: { possible: number[]; before: Held | undefined; isDeleted: boolean },
  ): Promise<void> {
    const sizes = [shapes[shape]];
    const answers = await Promise.all(
      processes.map((process) => this.#ask<GetAnswer>(process, "get", [index], { sizes })),
    );
    const seen = answers.map(({ codes, values }) => (codes[0] === "OK" ? values[0] : codes[0]));
    expect(new Set(seen).size, this.#context(`after a burst, one saw ${seen.join(", another ")}`, [index])).toBe(1);
    const left: (number | string | undefined)[] = [...burst.possible];
    if (burst.possible.length === 0 || burst.isDeleted) {
      left.push(burst.before?.value ?? "NOT_FOUND");
    }
    if (burst.isDeleted) {
      left.push("NOT_FOUND");
    }
    expect(left, this.#context("left after a burst", [index])).toContain(seen[0]);
    this.#held[index] = typeof seen[0] === "number" ? { value: seen[0], shape } : undefined;
  }

  #context(what: string, indices: readonly number[]): string {
    return `${what} of ${this.#names(indices).join(", ")} after ${this.done} operations; replay with HBMESH_SEED=${seed}`;
  }
}

describe.each(arrangements)(`random operations of ${processCount} client processes: $name`, ({ options, spills }) => {
  let fixture: Fixture | undefined;
  let directory: string;

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), "hbmesh-model-"));
    const started = await startFixture({ transport: "tcp", sharedMemorySizeMb: 16, ...options(directory) });
    fixture = started;
    processes = await Promise.all(
      Array.from({ length: processCount }, (_, index) => ClientProcess.start(started.addresses[index % 2] ?? "")),
    );
  });

  afterAll(async () => {
    try {
      await Promise.all(processes.map((each) => each.close()));
      await fixture?.close();
    } finally {
      rmSync(directory, { recursive: true });
    }
  });

  it(`behave as the model (HBMESH_SEED=${seed})`, async () => {
    console.log(`model test: HBMESH_SEED=${seed}`);
    const lanes = Array.from({ length: keyCount / 3 }, (_, lane) => {
      return new Lane(
        lane,
        [0, 1, 2].map((number) => `model-${lane}-${number}`),
      );
    });
    let failed = false;
    const runs = await Promise.allSettled(
      lanes.map(async (lane) => {
        while (!failed && lane.done < operationsWanted / lanes.length) {
          await lane.turn().catch((error: unknown) => {
            failed = true; // the others end their turns
            throw error;
          });
        }
      }),
    );
    for (const run of runs) {
      if (run.status === "rejected") {
        throw run.reason;
      }
    }
    expect(lanes.reduce((sum, lane) => sum + lane.done, 0)).toBeGreaterThanOrEqual(operationsWanted);
    const spilled = lanes.reduce((sum, lane) => sum + lane.spilled, 0);
    expect(spilled > 50, `${spilled} gets were answered by an SSD tier`).toBe(spills);
  });
});
