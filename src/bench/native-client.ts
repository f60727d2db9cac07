/**
 * A user's process for the bench: hbmesh-bench-client (native/bench), a program on the C API with real threads. This is
 * the launcher's end: an order a line, an answer a line, one at a time for each process.
 */
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { nativePath } from "../sidecar/index.js";

/** What carried bytes, summed over the calls of a run. */
export interface Carried {
  transport: string;
  source: string;
  lanes: number;
  bytes: number;
  calls: number;
  fallback: boolean;
  staged: boolean;
}

/** Times of a run: CLOCK_MONOTONIC nanoseconds, the same in all processes of a machine. */
export interface RunTimes {
  beginNs: number;
  endNs: number;
  /** Thread after thread, each in the order of its calls. */
  latenciesUs: number[];
}

export interface RunAnswer extends RunTimes {
  paths: Carried[];
}

/** Device memory of a client process: for each thread `keys` objects of `blobs` pieces. */
export interface MemoryShape {
  device: number;
  threads: number;
  keys: number;
  blobs: number;
  bytes: number;
}

/** Calls on keys `${prefix}${iteration}_${number}_${suffix of the thread}`. */
export interface KeyedRun {
  memory: string;
  prefix: string;
  /** One a thread; letters and digits and what else the key rule allows, but no comma. */
  suffixes: readonly string[];
  iterations: number;
  multiplier?: number;
  timeoutMs?: number;
  shareReplica?: boolean;
  /** Not before this moment: `startTogether`. */
  at?: number;
}

export type BatchOp =
  | "set"
  | "get"
  | "delete"
  | "exist"
  | "meta"
  | "devmset"
  | "devmget"
  | "devdelete"
  | "devlocaldelete"
  | "subscribe";

type Argument = string | number;
type Line = { ok: boolean; code?: string; message?: string };

const keptOutputBytesMax = 8_192;
/** Long enough for an order to reach every process before the moment that it names. */
const startAheadNs = 20_000_000n;

/** A moment for runs in several processes to start at, as `at` of a run. */
export function startTogether(): number {
  return Number(process.hrtime.bigint() + startAheadNs);
}

export class BenchClient {
  readonly #name: string;
  readonly #child: ChildProcessByStdio<Writable, Readable, Readable>;
  readonly #ended: Promise<string>;
  readonly #waiting: { resolve: (line: Line) => void; reject: (cause: Error) => void }[] = [];
  #output = "";
  #end: HbmeshError | undefined;
  /** Devices of the worker's node, and what they are: "sim". */
  deviceCount = 0;
  backend = "";

  private constructor(name: string, address: string) {
    this.#name = name;
    this.#child = spawn(nativePath("hbmesh-bench-client"), [address], { stdio: ["pipe", "pipe", "pipe"] });
    this.#child.stderr.setEncoding("utf8").on("data", (text: string) => {
      this.#output = (this.#output + text).slice(-keptOutputBytesMax);
    });
    // A process that ended takes no order: its end is told by `ended`.
    this.#child.stdin.on("error", () => undefined);
    createInterface({ input: this.#child.stdout }).on("line", (line) => {
      this.#waiting.shift()?.resolve(JSON.parse(line) as Line);
    });
    this.#ended = new Promise((resolve) => {
      this.#child.once("error", (cause) => resolve(`${cause.message}; npm run setup builds it`));
      this.#child.once("close", (code, signal) => resolve(signal === null ? `exit code ${code}` : `signal ${signal}`));
    });
    void this.#ended.then((reason) => {
      const said = this.#output === "" ? "" : `; its last output:\n${this.#output.trim()}`;
      const message = `the ${this.#name} process ended with ${reason}${said}`;
      this.#end = new HbmeshError(StatusCode.CLIENT_WORKER_DISCONNECT, message);
      for (const { reject } of this.#waiting.splice(0)) {
        reject(this.#end);
      }
    });
  }

  /** Resolves when it is connected to the worker at `address`; "-": to none. `name` is for messages. */
  static async start(name: string, address: string): Promise<BenchClient> {
    const client = new BenchClient(name, address);
    try {
      const { devices, backend } = await client.#answer<{ devices: number; backend: string }>();
      client.deviceCount = devices;
      client.backend = backend;
      return client;
    } catch (error) {
      await client.end();
      throw error;
    }
  }

  async allocate(name: string, shape: MemoryShape, fill: number): Promise<void> {
    const { device, threads, keys, blobs, bytes } = shape;
    await this.#ask("memory", { name, device, threads, keys, blobs, bytes, fill });
  }

  /** Rejects with DATA_INCONSISTENCY unless the memory holds what `fill` puts there. */
  async expectBytes(name: string, fill: number): Promise<void> {
    const { holds } = await this.#ask<{ holds: boolean }>("check", { name, fill });
    if (!holds) {
      throw new HbmeshError(StatusCode.DATA_INCONSISTENCY, `the ${this.#name} did not get the bytes that were set`);
    }
  }

  async run(op: BatchOp, run: KeyedRun): Promise<RunAnswer> {
    return await this.#ask<RunAnswer>("run", { op, ...keyed(run) });
  }

  async publish(run: KeyedRun): Promise<void> {
    await this.#ask("publish", keyed(run));
  }

  /** Resolves when all that was published has been received. */
  async settle(): Promise<void> {
    await this.#ask("settle", {});
  }

  /** Every key of the memory's one thread becomes a layer. Resolves to the ticket's text. */
  async reserve(memory: string): Promise<string> {
    return (await this.#ask<{ ticket: string }>("reserve", { memory })).ticket;
  }

  /** Resolves to the moment at which all layers were there. */
  async awaitLayers(): Promise<number> {
    return (await this.#ask<{ endNs: number }>("await", {})).endNs;
  }

  async push(memory: string, ticket: string, inFlight: number): Promise<RunTimes> {
    return await this.#ask<RunTimes>("push", { memory, ticket, in_flight: inFlight });
  }

  /** Microseconds of each round of a loop that reads all of the memory, for `ms` milliseconds. */
  async loop(memory: string, ms: number): Promise<number[]> {
    return (await this.#ask<{ latenciesUs: number[] }>("loop", { memory, ms })).latenciesUs;
  }

  /** Microseconds of round trips between two threads without hbmesh. */
  async roundTrips(kind: "eventfd" | "tcp" | "spin", rounds: number): Promise<number[]> {
    return (await this.#ask<{ latenciesUs: number[] }>("round-trips", { kind, rounds })).latenciesUs;
  }

  /** Ends the process; resolves when it is gone. */
  async end(): Promise<void> {
    this.#child.stdin.end();
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), 5_000);
    await this.#ended;
    clearTimeout(timer);
  }

  async #ask<Answer = unknown>(verb: string, args: Record<string, Argument>): Promise<Answer> {
    const words = Object.entries(args).map(([name, value]) => `${name}=${value}`);
    const answer = this.#answer<Answer>();
    this.#child.stdin.write(`${[verb, ...words].join(" ")}\n`);
    return await answer;
  }

  async #answer<Answer>(): Promise<Answer> {
    if (this.#end !== undefined) {
      throw this.#end;
    }
    const line = await new Promise<Line>((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
    });
    if (!line.ok) {
      const code = StatusCode[line.code as keyof typeof StatusCode] ?? StatusCode.RUNTIME_ERROR;
      throw new HbmeshError(code, `the ${this.#name}: ${line.message ?? "no message"}`);
    }
    return line as Answer;
  }
}

function keyed(run: KeyedRun): Record<string, Argument> {
  return {
    memory: run.memory,
    prefix: run.prefix,
    suffixes: run.suffixes.join(","),
    iterations: run.iterations,
    ...(run.multiplier === undefined ? {} : { multiplier: run.multiplier }),
    ...(run.timeoutMs === undefined ? {} : { timeout_ms: run.timeoutMs }),
    ...(run.shareReplica === true ? { share: 1 } : {}),
    ...(run.at === undefined ? {} : { at: run.at }),
  };
}
