/**
 * The hetero benchmark: HBM to host objects at one worker, host objects to HBM at another, by real client processes and
 * threads. With its own two workers each case sets at worker 1, gets at worker 2, gets at worker 1, and deletes; with a
 * worker that the caller names it sets and gets there, or does one half and leaves the other to a second run on another
 * node.
 */
import { readFileSync } from "node:fs";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { createSystemRandom, type RandomSource } from "../base/random.js";
import { type BenchContext, withClosers } from "./cluster.js";
import { caseBytes, type HeteroCase, iterationBytes } from "./hetero-cases.js";
import { type KeySuffixes, readSuffixes, writeSuffixes } from "./hetero-keys.js";
import { type HeteroOperation, type HeteroRow, heteroRow, lanesOf, pathOf } from "./hetero-rows.js";
import { limitOf, measureLimit } from "./limits.js";
import { BenchClient, type KeyedRun, type RunAnswer, startTogether } from "./native-client.js";
import { warmUp } from "./warm-up.js";

export interface HeteroOptions {
  cases: readonly HeteroCase[];
  /** Worker that the caller has, "IP:PORT"; without it two are started for each case. */
  workerAddress?: string;
  mode: "all" | "set" | "get";
  /** Where a set leaves the names of its keys for a get. */
  keysFile: string;
  warmup: boolean;
  firstDevice: number;
  getMultiplier: number;
  /** Fewer than the case names. */
  iterationsMax?: number;
  withAllLatencies: boolean;
  /** Between its own workers. */
  transport: "tcp" | "shm";
  /** Bytes of objects that a case may take at its own workers. */
  objectBytesMax: number;
  random?: RandomSource;
}

export interface HeteroResult {
  /** "sim": simulated devices. */
  backend: string;
  rows: HeteroRow[];
  /** Cases that this machine has no memory for. */
  skipped: { test: string; reason: string }[];
}

/** More than the objects: room below the watermark from which on the arena evicts. */
const arenaShare = 1.3;
const keptMb = 64;
const suffixLetters = 10;
const MB = 1024 * 1024;
const limitBytesMax = 256 * MB;
const limitRounds = 3;

export async function runHetero(
  options: HeteroOptions,
  context: BenchContext,
  onRow: (row: HeteroRow) => void,
): Promise<HeteroResult> {
  const result: HeteroResult = { backend: "", rows: [], skipped: [] };
  for (const [index, named] of options.cases.entries()) {
    context.signal.throwIfAborted();
    const test = fitted(named, options);
    const title = `${index + 1} of ${options.cases.length}: ${test.name}`;
    const reason = options.workerAddress === undefined ? lackOfMemory(test) : undefined;
    if (reason !== undefined) {
      context.progress(`${title}: skipped, ${reason}`);
      result.skipped.push({ test: test.name, reason });
      continue;
    }
    const fewer = test.iterations < named.iterations ? ` of ${named.iterations}` : "";
    context.progress(`${title}, ${test.iterations}${fewer} iterations, ${Math.round(caseBytes(test) / MB)} MB`);
    const run = new HeteroRun(test, options, context, (row) => {
      result.rows.push(row);
      onRow(row);
    });
    result.backend = await run.run();
  }
  return result;
}

/** As many iterations as were asked for, and as its own workers have memory for; at least one. */
function fitted(test: HeteroCase, options: HeteroOptions): HeteroCase {
  const asked = Math.min(test.iterations, options.iterationsMax ?? test.iterations);
  if (options.workerAddress !== undefined) {
    return { ...test, iterations: asked };
  }
  const room = Math.max(1, Math.floor(options.objectBytesMax / iterationBytes(test)));
  return { ...test, iterations: Math.min(asked, room) };
}

/** Arena of worker 1, and device memory of one side's clients. */
function lackOfMemory(test: HeteroCase): string | undefined {
  const needMb = Math.ceil((caseBytes(test) * arenaShare + iterationBytes(test)) / MB) + 4 * keptMb;
  const text = readFileSync("/proc/meminfo", "utf8");
  const availableMb = Math.floor(Number(/^MemAvailable:\s+(\d+)/m.exec(text)?.[1] ?? 0) / 1024);
  return needMb <= availableMb * 0.9
    ? undefined
    : `it needs ${needMb} MB of memory, and ${availableMb} MB are available on this machine`;
}

class HeteroRun {
  readonly #test: HeteroCase;
  readonly #options: HeteroOptions;
  readonly #context: BenchContext;
  readonly #onRow: (row: HeteroRow) => void;
  readonly #random: RandomSource;

  constructor(test: HeteroCase, options: HeteroOptions, context: BenchContext, onRow: (row: HeteroRow) => void) {
    this.#test = test;
    this.#options = options;
    this.#context = context;
    this.#onRow = onRow;
    this.#random = options.random ?? createSystemRandom();
  }

  /** Resolves to the backend of the devices. */
  async run(): Promise<string> {
    return await withClosers(async (defer) => {
      const { workerAddress, mode } = this.#options;
      const own = workerAddress === undefined ? await this.#openWorkers(defer) : undefined;
      const first = own?.[0] ?? workerAddress ?? "";
      const suffixes = mode === "get" ? undefined : this.#newSuffixes();
      let side = await this.#openSide("client", first, 1, defer);
      const known = suffixes ?? readSuffixes(this.#options.keysFile, this.#test, side.devices);
      if (mode !== "get") {
        await this.#set(side, known);
      }
      if (mode === "set") {
        writeSuffixes(this.#options.keysFile, this.#test, side.devices, known);
      } else {
        await this.#get(side, known, own === undefined ? "mget_h2d" : "mget_h2d_local");
      }
      if (own !== undefined) {
        // Their device memory goes before that of the other side comes.
        await side.end();
        side = await this.#openSide("client of worker 2", own[1] ?? "", 0, defer);
        await this.#get(side, known, "mget_h2d");
      }
      if (mode !== "set") {
        await this.#delete(side, known);
      }
      return side.clients[0]?.backend ?? "";
    });
  }

  async #openWorkers(defer: (close: () => Promise<void>) => void): Promise<readonly string[]> {
    const { transport } = this.#options;
    const cluster = await this.#context.openCluster({
      workers: 2,
      devices: 8,
      transport,
      sharedMemorySizeMb: Math.ceil((caseBytes(this.#test) * arenaShare) / MB) + keptMb,
      // Worker 2 holds nothing; the last of two equal options counts.
      workerArgs: (index) => (index === 0 ? [] : ["--shared_memory_size_mb", String(keptMb)]),
    });
    defer(() => cluster.close());
    if (this.#options.warmup) {
      await warmUp(cluster.addresses, this.#context);
    }
    return cluster.addresses;
  }

  async #openSide(
    name: string,
    address: string,
    firstFill: number,
    defer: (close: () => Promise<void>) => void,
  ): Promise<Side> {
    const { processes } = this.#test;
    const clients = await Promise.all(
      Array.from({ length: processes }, async (_, number) => {
        const client = await BenchClient.start(`${name} ${number + 1}`, address);
        defer(() => client.end());
        return client;
      }),
    );
    const deviceCount = clients[0]?.deviceCount ?? 1;
    const devices = clients.map((_, number) => (this.#options.firstDevice + number) % deviceCount);
    const side = new Side(clients, devices, this.#test);
    await side.allocate(firstFill);
    return side;
  }

  /** One a process, each with one a thread. */
  #newSuffixes(): string[][] {
    const { processes, threads } = this.#test;
    const letter = (): string => this.#random.nextBelow(36).toString(36);
    const one = (): string => Array.from({ length: suffixLetters }, letter).join("");
    return Array.from({ length: processes }, () => Array.from({ length: threads }, one));
  }

  async #set(side: Side, suffixes: KeySuffixes): Promise<void> {
    if (this.#options.warmup) {
      for (const op of ["set", "get", "delete"] as const) {
        await side.run(op, suffixes, { iterations: 1, prefix: "warm" });
      }
    }
    const { iterations } = this.#test;
    await this.#measured("mset_d2h", () => side.run("set", suffixes, { iterations }));
  }

  async #get(side: Side, suffixes: KeySuffixes, operate: HeteroOperation): Promise<void> {
    await side.allocate(0);
    if (this.#options.warmup) {
      await side.run("get", suffixes, { iterations: 1 });
      await side.allocate(0);
    }
    const { iterations } = this.#test;
    const multiplier = this.#options.getMultiplier;
    await this.#measured(operate, () => side.run("get", suffixes, { iterations, multiplier }));
    await side.expectBytes();
  }

  async #delete(side: Side, suffixes: KeySuffixes): Promise<void> {
    await side.run("delete", suffixes, { iterations: this.#test.iterations });
  }

  /** The limit is measured right after, so that both meet the machine in the same state. */
  async #measured(operate: HeteroOperation, run: () => Promise<RunAnswer[]>): Promise<void> {
    this.#context.signal.throwIfAborted();
    const runs = await run();
    const transport = pathOf(runs).includes("tcp") ? "tcp" : "local";
    const limitBytesPerSecond = await measureLimit({
      transport,
      lanes: lanesOf(runs),
      bytes: Math.min(limitBytesMax, caseBytes(this.#test)),
      pieceBytes: this.#test.blobBytes,
      rounds: limitRounds,
    });
    const { withAllLatencies } = this.#options;
    const against = limitOf(transport);
    this.#onRow(heteroRow({ test: this.#test, operate, runs, limitBytesPerSecond, against, withAllLatencies }));
  }
}

/** The client processes of one side, each on a device of its own. */
class Side {
  readonly clients: readonly BenchClient[];
  readonly devices: readonly number[];
  readonly #test: HeteroCase;

  constructor(clients: readonly BenchClient[], devices: readonly number[], test: HeteroCase) {
    this.clients = clients;
    this.devices = devices;
    this.#test = test;
  }

  /** Fill 0: zeros; else what tells the processes' bytes apart. */
  async allocate(fill: number): Promise<void> {
    const { threads, keys, blobs, blobBytes: bytes } = this.#test;
    await this.#each((client, number) => {
      const shape = { device: this.devices[number] ?? 0, threads, keys, blobs, bytes };
      return client.allocate("m", shape, fill === 0 ? 0 : number + fill);
    });
  }

  /** Rejects with DATA_INCONSISTENCY unless each has the bytes that the set side had. */
  async expectBytes(): Promise<void> {
    await this.#each((client, number) => client.expectBytes("m", number + 1));
  }

  async run(
    op: "set" | "get" | "delete",
    suffixes: KeySuffixes,
    run: { iterations: number; multiplier?: number; prefix?: string },
  ): Promise<RunAnswer[]> {
    const at = startTogether();
    return await this.#each((client, number) => {
      const order: KeyedRun = {
        memory: "m",
        iterations: run.iterations,
        prefix: `${run.prefix ?? ""}dev${this.devices[number]}_key`,
        suffixes: suffixes[number] ?? [],
        multiplier: run.multiplier ?? 1,
        at,
      };
      return client.run(op, order);
    });
  }

  async end(): Promise<void> {
    await this.#each((client) => client.end());
  }

  async #each<Result>(use: (client: BenchClient, number: number) => Promise<Result>): Promise<Result[]> {
    return await Promise.all(this.clients.map(use));
  }
}

/** Throws INVALID for a case that there is none of, naming those that there are. */
export function caseOfName(name: string, cases: readonly HeteroCase[]): HeteroCase {
  const found = cases.find((each) => each.name === name);
  if (found === undefined) {
    const names = cases.map((each) => each.name).join("\n  ");
    throw new HbmeshError(StatusCode.INVALID, `there is no case ${name}; give one of\n  ${names}`);
  }
  return found;
}
