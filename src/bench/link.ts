/**
 * A transport between two hosts without workers, measured by hbmesh-bench-link (native/bench): what it says, as rows in
 * the form of perftest, and the limit beside them.
 */
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { nativePath } from "../sidecar/index.js";
import { measureOneCopy } from "./limits.js";
import { mean, percentile } from "./statistics.js";

export interface LinkOptions {
  host: string;
  port: number;
  transport: "tcp" | "shm";
  op: "read" | "write";
  /** Bytes of a transfer, one row each. */
  sizes: readonly number[];
  iterations: number;
  /** Connections, or copy threads. */
  lanes: number;
  /** Transfers under way on each. */
  depth: number;
  /** 0: once over the sizes. Else the first size for ever, a row an interval. */
  intervalMs: number;
}

export interface BandwidthRow {
  bytes: number;
  iterations: number;
  lanes: number;
  /** Bytes a second over the whole run, and of its best tenth. */
  average: number;
  peak: number;
}

export interface LatencyRow {
  bytes: number;
  iterations: number;
  min: number;
  max: number;
  typical: number;
  average: number;
  stdev: number;
  p99: number;
  p999: number;
}

/** What this pair of hosts does without the transport, in bytes a second. */
export interface LinkLimit {
  against: string;
  lanes: number;
  average: number;
}

type Event =
  | { event: "listening"; port: number }
  | { event: "client"; asked: string }
  | ({ event: "bandwidth" } & BandwidthRow)
  | { event: "latency"; bytes: number; iterations: number; latenciesUs: number[] }
  | { event: "raw"; connections: number; average: number }
  | { ok: false; code: string; message: string };

/** Memory that transfers go over in turns: more than caches hold. */
const memoryBytesMin = 64 * 1024 * 1024;
const limitRounds = 3;

/**
 * Runs the program to its end; rejects with its failure. `stop` is aborted: it is told to end, and its end is no
 * failure.
 */
async function runProgram(args: readonly string[], onEvent: (event: Event) => void, stop: AbortSignal): Promise<void> {
  const child = spawn(nativePath("hbmesh-bench-link"), args, { stdio: ["ignore", "pipe", "inherit"] });
  const kill = (): void => {
    child.kill("SIGTERM");
  };
  stop.addEventListener("abort", kill);
  if (stop.aborted) {
    kill();
  }
  let failure: HbmeshError | undefined;
  createInterface({ input: child.stdout }).on("line", (line) => {
    const event = JSON.parse(line) as Event;
    if ("ok" in event) {
      const code = StatusCode[event.code as keyof typeof StatusCode] ?? StatusCode.RUNTIME_ERROR;
      failure = new HbmeshError(code, event.message);
    } else {
      onEvent(event);
    }
  });
  const ended = await new Promise<string>((resolve) => {
    child.once("error", (cause) => resolve(`${cause.message}; npm run setup builds it`));
    child.once("close", (code, signal) => resolve(signal === null ? `exit code ${code}` : `signal ${signal}`));
  });
  stop.removeEventListener("abort", kill);
  if (!stop.aborted && ended !== "exit code 0") {
    throw failure ?? new HbmeshError(StatusCode.RUNTIME_ERROR, `hbmesh-bench-link ended with ${ended}`);
  }
}

/** The passive side: serves one client. */
export async function serveLink(
  port: number,
  on: { listening: (port: number) => void; client: () => void },
  stop: AbortSignal,
): Promise<void> {
  const onEvent = (event: Event): void => {
    if ("event" in event && event.event === "listening") {
      on.listening(event.port);
    } else {
      on.client();
    }
  };
  await runProgram(["serve", `port=${port}`], onEvent, stop);
}

function orderOf(verb: string, options: LinkOptions): string[] {
  const bytes = Math.max(memoryBytesMin, ...options.sizes);
  const words: Record<string, string | number> = {
    host: options.host,
    port: options.port,
    transport: options.transport,
    op: options.op,
    sizes: options.sizes.join(","),
    iterations: options.iterations,
    lanes: options.lanes,
    depth: options.depth,
    bytes,
    interval_ms: options.intervalMs,
  };
  return [verb, ...Object.entries(words).map(([name, value]) => `${name}=${value}`)];
}

/** Tells each row as it comes; resolves to the limit, unless it ran for ever. */
export async function measureBandwidth(
  options: LinkOptions,
  onRow: (row: BandwidthRow) => void,
  stop: AbortSignal,
): Promise<LinkLimit | undefined> {
  let limit: LinkLimit | undefined;
  let lanes = options.lanes;
  const onEvent = (event: Event): void => {
    if ("event" in event && event.event === "bandwidth") {
      const { event: _, ...row } = event;
      lanes = row.lanes;
      onRow(row);
    } else if ("event" in event && event.event === "raw") {
      limit = { against: "raw sockets", lanes: event.connections, average: event.average };
    }
  };
  await runProgram(orderOf("bandwidth", options), onEvent, stop);
  if (limit === undefined && options.intervalMs === 0 && !stop.aborted) {
    const pieceBytes = Math.max(...options.sizes);
    const average = await measureOneCopy({
      threads: lanes,
      bytes: Math.max(memoryBytesMin, pieceBytes),
      pieceBytes,
      rounds: limitRounds,
    });
    limit = { against: "one copy", lanes, average };
  }
  return limit;
}

/** As perftest: a write's latency is half of the round trip, a read's is all of it. */
export async function measureLatency(
  options: LinkOptions,
  onRow: (row: LatencyRow) => void,
  stop: AbortSignal,
): Promise<void> {
  const share = options.op === "write" ? 0.5 : 1;
  const onEvent = (event: Event): void => {
    if ("event" in event && event.event === "latency") {
      const times = event.latenciesUs.map((time) => time * share);
      onRow(latencyRow(event.bytes, times));
    }
  };
  await runProgram(orderOf("latency", options), onEvent, stop);
}

export function latencyRow(bytes: number, times: readonly number[]): LatencyRow {
  const average = mean(times);
  return {
    bytes,
    iterations: times.length,
    min: percentile(times, 0),
    max: percentile(times, 100),
    typical: percentile(times, 50),
    average,
    stdev: Math.sqrt(mean(times.map((time) => (time - average) ** 2))),
    p99: percentile(times, 99),
    p999: percentile(times, 99.9),
  };
}

/** The table's head, spaced as perftest's. */
export function bandwidthHead(gbits: boolean): string {
  const unit = gbits ? "Gb/sec" : "MB/sec";
  return ` #bytes     #iterations    BW peak[${unit}]    BW average[${unit}]   MsgRate[Mpps]`;
}

/** MB are 2^20 bytes, Gb 10^9 bits, as perftest's. */
export function inUnit(bytesPerSecond: number, gbits: boolean): number {
  return gbits ? (bytesPerSecond * 8) / 1e9 : bytesPerSecond / 2 ** 20;
}

export function bandwidthLine(row: BandwidthRow, gbits: boolean): string {
  const rate = (value: number, width: number): string => inUnit(value, gbits).toFixed(2).padEnd(width);
  const messages = (row.average / row.bytes / 1e6).toFixed(6);
  const head = ` ${String(row.bytes).padEnd(11)}${String(row.iterations).padEnd(15)}`;
  return `${head}${rate(row.peak, 19)}${rate(row.average, 21)}${messages}`;
}

export const latencyHead =
  " #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    t_avg[usec]    t_stdev[usec]   " +
  "99% percentile[usec]   99.9% percentile[usec]";

export function latencyLine(row: LatencyRow): string {
  const { min, max, typical, average, stdev, p99, p999 } = row;
  const widths = [15, 13, 19, 15, 16, 23, 0];
  const cells = [min, max, typical, average, stdev, p99, p999].map((value, index) =>
    value.toFixed(2).padEnd(widths[index] ?? 0),
  );
  return ` ${String(row.bytes).padEnd(7)}${String(row.iterations).padEnd(15)}${cells.join("")}`;
}
