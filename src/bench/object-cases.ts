/**
 * Set and get as a host with eight cards has them: eight client processes at once, each on a device of its own, call
 * after call. Rows are the rates of all of them together: sets at worker 1, gets at worker 2, gets at worker 1. Devices
 * are simulated.
 *
 * Rounds count after one warm-up. In each the limit is measured too, so that both sides meet the machine in the same
 * state; every round uses new keys, and what arrives is compared after the last.
 */
import { type BenchContext, withClosers } from "./cluster.js";
import { durationOf, lanesOf } from "./hetero-rows.js";
import { type LimitKind, limitOf, measureLimit } from "./limits.js";
import { BenchClient, type RunAnswer, startTogether } from "./native-client.js";
import { type RateRow, RateSamples } from "./rows.js";
import { warmUp } from "./warm-up.js";

export interface ObjectCaseOptions {
  transport: "tcp" | "shm";
  /** Blobs of an object, and their size. */
  blobs: number;
  blobBytes: number;
  /** Objects of a call. */
  objects: number;
  /** Rounds that count. */
  rounds: number;
}

const processes = 8;
/** Calls of each process in a round, one after the other. */
const callsEach = 3;
const MB = 2 ** 20;
/** Watermarks keep a part of the arena free. */
const arenaShare = 1.3;
const keptMb = 64;
const limitBytesMax = 256 * MB;

const callBytes = (options: ObjectCaseOptions): number => options.objects * options.blobs * options.blobBytes;
const roundBytes = (options: ObjectCaseOptions): number => processes * callsEach * callBytes(options);

export async function measureObjectCases(options: ObjectCaseOptions, context: BenchContext): Promise<RateRow[]> {
  return await withClosers(async (defer) => {
    const { transport } = options;
    const cluster = await context.openCluster({
      workers: 2,
      devices: processes,
      transport,
      sharedMemorySizeMb: Math.ceil((roundBytes(options) * arenaShare) / MB) + keptMb,
      // Worker 2 holds nothing; the last of two equal options counts.
      workerArgs: (index) => (index === 0 ? [] : ["--shared_memory_size_mb", String(keptMb)]),
    });
    defer(() => cluster.close());
    const [first = "", second = ""] = cluster.addresses;
    await warmUp(cluster.addresses, context);
    const [near, far] = [await openClients(first, 1, options, defer), await openClients(second, 0, options, defer)];
    const sampled = samplesOf(options);
    for (let round = 0; round <= options.rounds; round += 1) {
      context.signal.throwIfAborted();
      const steps = [
        [sampled.set, near, "set"],
        // The remote get comes first, while nothing of the round is in any cache.
        [sampled.remote, far, "get"],
        [sampled.local, near, "get"],
      ] as const;
      for (const [into, clients, op] of steps) {
        const runs = await runAll(clients, op, round);
        if (round > 0) {
          into.lanes = lanesOf(runs);
          into.add(
            durationOf(runs),
            await limitFor(options, into === sampled.remote ? transport : "local", into.lanes),
          );
        }
      }
      await runAll(near, "delete", round);
    }
    await Promise.all(far.map((client, number) => client.expectBytes("m", number + 1)));
    return [sampled.set.row(), sampled.local.row(), sampled.remote.row()];
  });
}

function samplesOf(options: ObjectCaseOptions) {
  const { transport, blobs, blobBytes } = options;
  const sampled = (name: string, against: LimitKind): RateSamples =>
    new RateSamples(`${name} ${blobs}x${blobBytes / 1024}KB, ${processes} processes`, roundBytes(options), against);
  return {
    set: sampled(`local set beside ${transport}`, "one copy"),
    local: sampled(`local get beside ${transport}`, "one copy"),
    remote: sampled(`remote get ${transport}`, limitOf(transport)),
  };
}

/** `firstFill` 0: zeros; else what tells the processes' bytes apart. */
async function openClients(
  address: string,
  firstFill: number,
  options: ObjectCaseOptions,
  defer: (close: () => Promise<void>) => void,
): Promise<BenchClient[]> {
  const { objects: keys, blobs, blobBytes: bytes } = options;
  return await Promise.all(
    Array.from({ length: processes }, async (_, device) => {
      const client = await BenchClient.start(`client ${device + 1} of ${address}`, address);
      defer(() => client.end());
      await client.allocate("m", { device, threads: 1, keys, blobs, bytes }, firstFill === 0 ? 0 : device + firstFill);
      return client;
    }),
  );
}

/** Each process has keys of its own, the same at both workers. */
async function runAll(
  clients: readonly BenchClient[],
  op: "set" | "get" | "delete",
  round: number,
): Promise<RunAnswer[]> {
  const at = startTogether();
  return await Promise.all(
    clients.map((client, number) => {
      const prefix = `round${round}_`;
      return client.run(op, { memory: "m", prefix, suffixes: [`p${number}`], iterations: callsEach, at });
    }),
  );
}

async function limitFor(options: ObjectCaseOptions, transport: string, lanes: number): Promise<number> {
  const bytes = Math.min(limitBytesMax, roundBytes(options));
  return await measureLimit({ transport, lanes, bytes, pieceBytes: options.blobBytes, rounds: 1 });
}
