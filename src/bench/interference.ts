/**
 * How much incoming KV cache slows decoding down: a process at worker 2 runs a loop that is bound by the memory of its
 * device, while another process of that worker reserves layers in the same device's memory, and one at worker 1 pushes
 * them, some requests a second. The relative change of the loop's min, avg and max against no requests is what counts.
 *
 * Devices are simulated: their memory is the machine's, and what moves bytes is its processors, which the loop shares.
 * A real card's memory is written by the NIC, so this is the worst case.
 */
import { setTimeout as delay } from "node:timers/promises";
import { type BenchContext, withClosers } from "./cluster.js";
import { BenchClient } from "./native-client.js";
import { mean, percentile } from "./statistics.js";

export interface InterferenceOptions {
  /** Requests a second; 0 comes first, in each repeat, and is what the others are compared with. */
  rates: readonly number[];
  /** Of each rate in each repeat. */
  seconds: number;
  /** All rates in turns, so many times over, so that a change of the machine meets all of them. */
  repeats: number;
  /** What a round of the loop reads. */
  loopBytes: number;
  /** Of a request: layers, blobs of each, their size. */
  layers: number;
  blobs: number;
  blobBytes: number;
  transport: "tcp" | "shm";
}

export interface InterferenceRow {
  requestsPerSecond: number;
  /** Requests that were done, and bytes a second of a request while it was under way. */
  requests: number;
  requestGbps: number;
  rounds: number;
  /** Milliseconds of a round of the loop. */
  minMs: number;
  avgMs: number;
  maxMs: number;
  /** Against no requests, in percent. */
  minChange: number;
  avgChange: number;
  maxChange: number;
}

interface Samples {
  roundsMs: number[];
  requestSeconds: number[];
}

const fill = 11;
/** The simulated device that decodes and receives. */
const device = 0;
const sharedMemorySizeMb = 64;

interface Parties {
  decode: BenchClient;
  receiver: BenchClient;
  prefill: BenchClient;
}

export async function measureInterference(
  options: InterferenceOptions,
  context: BenchContext,
): Promise<InterferenceRow[]> {
  return await withClosers(async (defer) => {
    const { transport } = options;
    const cluster = await context.openCluster({ workers: 2, devices: 2, transport, sharedMemorySizeMb });
    defer(() => cluster.close());
    const [first = "", second = ""] = cluster.addresses;
    const open = async (name: string, address: string): Promise<BenchClient> => {
      const client = await BenchClient.start(name, address);
      defer(() => client.end());
      return client;
    };
    const parties: Parties = {
      decode: await open("decoding process", second),
      receiver: await open("receiving process", second),
      prefill: await open("prefill process", first),
    };
    await allocate(parties, options);
    await request(parties, options);
    await parties.receiver.expectBytes("m", fill);
    const samples = new Map(options.rates.map((rate) => [rate, { roundsMs: [], requestSeconds: [] } as Samples]));
    for (let repeat = 1; repeat <= options.repeats; repeat += 1) {
      for (const [rate, into] of samples) {
        context.signal.throwIfAborted();
        context.progress(`repeat ${repeat} of ${options.repeats}: ${rate} requests a second for ${options.seconds} s`);
        await measureRate(parties, options, rate, into);
      }
    }
    return rowsOf(options, samples);
  });
}

async function allocate({ decode, receiver, prefill }: Parties, options: InterferenceOptions): Promise<void> {
  const shape = { device, threads: 1, keys: options.layers, blobs: options.blobs, bytes: options.blobBytes };
  await decode.allocate("weights", { device, threads: 1, keys: 1, blobs: 1, bytes: options.loopBytes }, 1);
  await receiver.allocate("m", shape, 0);
  await prefill.allocate("m", { ...shape, device: 1 }, fill);
}

/** One request: seconds from the first push until the decode side knows of all layers. */
async function request({ receiver, prefill }: Parties, options: InterferenceOptions): Promise<number> {
  const ticket = await receiver.reserve("m");
  const arrived = receiver.awaitLayers();
  const pushed = await prefill.push("m", ticket, Math.min(2, options.layers));
  return ((await arrived) - pushed.beginNs) / 1e9;
}

async function measureRate(parties: Parties, options: InterferenceOptions, rate: number, into: Samples): Promise<void> {
  let isOver = false;
  const loop = parties.decode.loop("weights", options.seconds * 1000).finally(() => {
    isOver = true;
  });
  const started = performance.now();
  // The first request comes in the middle of its interval, so that each rate has whole intervals.
  for (let number = 0.5; rate > 0; number += 1) {
    const dueMs = started + (number / rate) * 1000 - performance.now();
    if (dueMs > 0) {
      await Promise.race([delay(dueMs), loop]);
    }
    if (isOver || number / rate >= options.seconds) {
      break;
    }
    into.requestSeconds.push(await request(parties, options));
  }
  into.roundsMs.push(...(await loop).map((micros) => micros / 1000));
}

function rowsOf(options: InterferenceOptions, samples: ReadonlyMap<number, Samples>): InterferenceRow[] {
  const figures = (each: Samples | undefined): [number, number, number] => {
    const rounds = each?.roundsMs ?? [];
    return [percentile(rounds, 0), mean(rounds), percentile(rounds, 100)];
  };
  const bytes = options.layers * options.blobs * options.blobBytes;
  const [minAlone, avgAlone, maxAlone] = figures(samples.get(0));
  const change = (value: number, alone: number): number => (value / alone - 1) * 100;
  return [...samples].map(([rate, each]) => {
    const [minMs, avgMs, maxMs] = figures(each);
    return {
      requestsPerSecond: rate,
      requests: each.requestSeconds.length,
      requestGbps: each.requestSeconds.length === 0 ? 0 : bytes / mean(each.requestSeconds) / 1e9,
      rounds: each.roundsMs.length,
      minMs,
      avgMs,
      maxMs,
      minChange: change(minMs, minAlone),
      avgChange: change(avgMs, avgAlone),
      maxChange: change(maxMs, maxAlone),
    };
  });
}
