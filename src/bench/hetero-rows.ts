/**
 * One line of the hetero benchmark as its users know it: their columns first, in their order, their throughput (size of
 * a request by mean latency, the first request left out, times the processes); then what is true on the wall clock, and
 * the limit.
 */
import { callBytes, type HeteroCase } from "./hetero-cases.js";
import type { Carried, RunTimes } from "./native-client.js";
import { mean, type Spread, spreadOf, sum } from "./statistics.js";

/** mget_h2d_local: from the worker's own memory, at the worker where the set was. */
export type HeteroOperation = "mset_d2h" | "mget_h2d" | "mget_h2d_local";

export interface HeteroRow {
  test: string;
  operate: HeteroOperation;
  /** Calls of all processes and threads. */
  ops: number;
  /** Megabytes are 2^20 bytes here. */
  totalMb: number;
  /** Of all threads of one process, as its users count. */
  requestMb: number;
  durationSeconds: number;
  latencyPerRequestSeconds: number;
  throughputMbPerSecond: number;
  /** Of single calls. */
  latencyMs: Spread;
  tps: number;
  /** All bytes by the time from the first start to the last end. */
  wallMbPerSecond: number;
  limitMbPerSecond: number;
  /** Wall clock against the limit. */
  ratio: number;
  /** "one copy", "raw sockets". */
  against: string;
  lanes: number;
  /** What carried the bytes: "tcp", "shm", "local". */
  path: string;
  /** Of each call; where it was asked for. */
  allLatenciesMs?: number[];
}

export interface RowParts {
  test: HeteroCase;
  operate: HeteroOperation;
  /** One a process. */
  runs: readonly (RunTimes & { paths: readonly Carried[] })[];
  limitBytesPerSecond: number;
  against: string;
  withAllLatencies: boolean;
}

const MB = 1024 * 1024;

export function heteroRow(parts: RowParts): HeteroRow {
  const { test, runs } = parts;
  const latenciesMs = runs.flatMap((run) => run.latenciesUs.map((latency) => latency / 1000));
  const durationSeconds = durationOf(runs);
  const totalBytes = latenciesMs.length * callBytes(test);
  const requestMb = (callBytes(test) * test.threads) / MB;
  const known = latenciesMs.length > 1 ? latenciesMs.slice(1) : latenciesMs;
  const latencyPerRequestSeconds = mean(known) / 1000;
  const wallMbPerSecond = totalBytes / MB / durationSeconds;
  const limitMbPerSecond = parts.limitBytesPerSecond / MB;
  return {
    test: test.name,
    operate: parts.operate,
    ops: latenciesMs.length,
    totalMb: totalBytes / MB,
    requestMb,
    durationSeconds,
    latencyPerRequestSeconds,
    throughputMbPerSecond: (requestMb / latencyPerRequestSeconds) * test.processes,
    latencyMs: spreadOf(latenciesMs),
    tps: latenciesMs.length / durationSeconds,
    wallMbPerSecond,
    limitMbPerSecond,
    ratio: wallMbPerSecond / limitMbPerSecond,
    against: parts.against,
    lanes: lanesOf(runs),
    path: pathOf(runs),
    ...(parts.withAllLatencies ? { allLatenciesMs: latenciesMs } : {}),
  };
}

/** From the first start to the last end of all processes. */
export function durationOf(runs: readonly RunTimes[]): number {
  const begin = Math.min(...runs.map((run) => run.beginNs));
  return (Math.max(...runs.map((run) => run.endNs)) - begin) / 1e9;
}

export function lanesOf(runs: readonly { paths: readonly Carried[] }[]): number {
  return Math.max(1, ...runs.flatMap((run) => run.paths.map((path) => path.lanes)));
}

/** "tcp"; "tcp+shm" when both carried bytes, most bytes first; with "(fallback)" or "(staged)" when any was. */
export function pathOf(runs: readonly { paths: readonly Carried[] }[]): string {
  const paths = runs.flatMap((run) => run.paths);
  const names = [...new Set(paths.map((path) => path.transport))];
  const bytesOf = (name: string): number =>
    sum(paths.filter((path) => path.transport === name).map((path) => path.bytes));
  const notes = [
    ...(paths.some((path) => path.fallback) ? ["fallback"] : []),
    ...(paths.some((path) => path.staged) ? ["staged"] : []),
  ];
  const text = names.sort((a, b) => bytesOf(b) - bytesOf(a)).join("+");
  return notes.length === 0 ? text : `${text} (${notes.join(", ")})`;
}

/** The columns that users know, then ours. */
export const csvHead =
  "operate,ops,total_MB,request_MB,duration_s,latency_per_req_s,throughput_MB/s,min,max,mean,p90,p95,p99,tps," +
  "wall_MB/s,limit_MB/s,ratio,against,lanes,path,test";

export function csvLine(row: HeteroRow): string {
  const { latencyMs: ms } = row;
  return [
    row.operate,
    row.ops,
    row.totalMb.toFixed(2),
    row.requestMb,
    row.durationSeconds.toFixed(3),
    row.latencyPerRequestSeconds.toFixed(5),
    row.throughputMbPerSecond.toFixed(2),
    ...[ms.min, ms.max, ms.mean, ms.p90, ms.p95, ms.p99].map((value) => value.toFixed(3)),
    row.tps.toFixed(2),
    row.wallMbPerSecond.toFixed(2),
    row.limitMbPerSecond.toFixed(2),
    row.ratio.toFixed(3),
    row.against,
    row.lanes,
    row.path,
    row.test,
  ].join(",");
}
