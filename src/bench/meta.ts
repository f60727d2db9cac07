/**
 * Metadata in numbers: keys a second and latency of set, exist, getMetaInfo, get and delete of 4 KB objects, by batch
 * size; with one worker, that owns and holds all keys (local), and at a worker whose keys all belong to another one
 * (remote). Beside them what the machine takes for a round trip without hbmesh, and the Wasm functions on their own.
 */
import { type BenchContext, withClosers } from "./cluster.js";
import { type DecisionRow, measureDecisions } from "./decision-rates.js";
import { type BatchOp, BenchClient, startTogether } from "./native-client.js";
import { median, percentile } from "./statistics.js";

export interface MetaOptions {
  /** Keys of a call. */
  batches: readonly number[];
  /** Calls of each thread; fewer where they would be more than `keysMax` keys. */
  calls: number;
  /** Threads that share a client, for the rate; latency is that of one thread. */
  threads: number;
  /** How long sidecars poll before they sleep, in microseconds. */
  spinMicros: number;
  /** Measuring time of each Wasm row, in milliseconds. */
  wasmMs: number;
}

export interface MetaRow {
  op: string;
  place: "local" | "remote";
  batch: number;
  /** Latency of a call of one thread, and its rate. */
  p50Us: number;
  p99Us: number;
  keysPerSecond: number;
  /** Rate of all threads together. */
  threadsKeysPerSecond: number;
  /** p50 by the round trip that belongs to the place: an eventfd's to the sidecar, a TCP echo's between two workers. */
  timesRoundTrip: number;
}

export interface RoundTrip {
  kind: "spin" | "eventfd" | "tcp";
  p50Us: number;
  p99Us: number;
}

export interface MetaResult {
  threads: number;
  spinMicros: number;
  rows: MetaRow[];
  roundTrips: RoundTrip[];
  decisions: DecisionRow[];
}

const objectBytes = 4_096;
/** So that none is evicted: 4 KB of each are 160 MB. */
const keysMax = 40_000;
const sharedMemorySizeMb = 1_024;
const roundTripRounds = 5_000;
/** In this order: what is set is asked for, and then deleted. */
const operations: readonly { op: BatchOp; title: string }[] = [
  { op: "set", title: "set" },
  { op: "exist", title: "exist" },
  { op: "meta", title: "getMetaInfo" },
  { op: "get", title: "get" },
  { op: "delete", title: "delete" },
];

export async function measureMeta(options: MetaOptions, context: BenchContext): Promise<MetaResult> {
  context.progress("round trips of this machine");
  const roundTrips = await measureRoundTrips();
  const rows: MetaRow[] = [];
  for (const place of ["local", "remote"] as const) {
    rows.push(...(await measurePlace(place, options, roundTrips, context)));
  }
  context.progress("Wasm functions");
  const decisions = options.batches.flatMap((batch) => measureDecisions(batch, options.wasmMs));
  return { threads: options.threads, spinMicros: options.spinMicros, rows, roundTrips, decisions };
}

async function measureRoundTrips(): Promise<RoundTrip[]> {
  return await withClosers(async (defer) => {
    const client = await BenchClient.start("round trips", "-");
    defer(() => client.end());
    const trips: RoundTrip[] = [];
    for (const kind of ["spin", "eventfd", "tcp"] as const) {
      const times = await client.roundTrips(kind, roundTripRounds);
      trips.push({ kind, p50Us: median(times), p99Us: percentile(times, 99) });
    }
    return trips;
  });
}

async function measurePlace(
  place: "local" | "remote",
  options: MetaOptions,
  roundTrips: readonly RoundTrip[],
  context: BenchContext,
): Promise<MetaRow[]> {
  return await withClosers(async (defer) => {
    const cluster = await context.openCluster({
      workers: place === "local" ? 1 : 2,
      devices: 1,
      transport: "tcp",
      sharedMemorySizeMb,
      // Worker 1 owns all keys; of two, worker 2 is asked.
      workerArgs: (index) => ["--spin_us", String(options.spinMicros), ...(index === 0 ? [] : ["--weight", "0"])],
    });
    defer(() => cluster.close());
    const holder = await BenchClient.start("client of worker 1", cluster.addresses[0] ?? "");
    defer(() => holder.end());
    let asker = holder;
    if (place === "remote") {
      asker = await BenchClient.start("client of worker 2", cluster.addresses[1] ?? "");
      const other = asker;
      defer(() => other.end());
    }
    const trip = roundTrips.find(({ kind }) => kind === (place === "local" ? "eventfd" : "tcp"))?.p50Us ?? Number.NaN;
    const rows: MetaRow[] = [];
    for (const batch of options.batches) {
      context.signal.throwIfAborted();
      context.progress(`${place}, ${batch} keys a call`);
      const one = await measureOperations(holder, asker, options, batch, 1);
      const many = await measureOperations(holder, asker, options, batch, options.threads);
      for (const [index, { title }] of operations.entries()) {
        const alone = one[index];
        const together = many[index];
        if (alone !== undefined && together !== undefined) {
          const { keysPerSecond, p50Us, p99Us } = alone;
          const rates = { keysPerSecond, threadsKeysPerSecond: together.keysPerSecond };
          rows.push({ op: title, place, batch, p50Us, p99Us, ...rates, timesRoundTrip: p50Us / trip });
        }
      }
    }
    return rows;
  });
}

interface Measured {
  keysPerSecond: number;
  p50Us: number;
  p99Us: number;
}

/**
 * One after the other, on the same keys. What is asked about lies at the holder: when that is another one, the asker's
 * own set is measured on keys of its own, which it deletes again.
 */
async function measureOperations(
  holder: BenchClient,
  asker: BenchClient,
  options: MetaOptions,
  batch: number,
  threads: number,
): Promise<Measured[]> {
  const calls = Math.max(2, Math.min(options.calls, Math.floor(keysMax / (batch * threads))));
  const shape = { device: 0, threads, keys: batch, blobs: 1, bytes: objectBytes };
  const suffixes = Array.from({ length: threads }, (_, thread) => `t${thread}`);
  const clients = new Set([holder, asker]);
  for (const client of clients) {
    await client.allocate("m", shape, 1);
  }
  const run = (client: BenchClient, op: BatchOp, prefix: string) =>
    client.run(op, { memory: "m", prefix, suffixes, iterations: calls, at: startTogether() });
  const held = `meta${batch}_${threads}_`;
  const own = `own${batch}_${threads}_`;
  if (asker !== holder) {
    await run(holder, "set", held);
  }
  const measured: Measured[] = [];
  for (const { op } of operations) {
    const answer = await run(asker, op, op === "set" && asker !== holder ? own : held);
    const seconds = (answer.endNs - answer.beginNs) / 1e9;
    measured.push({
      keysPerSecond: (answer.latenciesUs.length * batch) / seconds,
      p50Us: median(answer.latenciesUs),
      p99Us: percentile(answer.latenciesUs, 99),
    });
  }
  if (asker !== holder) {
    await run(asker, "delete", own);
  }
  return measured;
}
