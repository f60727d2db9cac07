/**
 * Device to device in numbers: publish and subscribe, the device cache, layers pushed by ticket, from a device at
 * worker 1 to one at worker 2; and one source of the cache to several readers, each of which serves further ones.
 * Devices are simulated: their memory is shared memory, so a transfer within a host is one copy by the processor.
 *
 * Rounds count after one warm-up. In each the limit is measured too, so that both sides meet the machine in the same
 * state; every round uses new keys, and what arrives is compared after the last.
 */
import type { BenchContext } from "./cluster.js";
import { withClosers } from "./cluster.js";
import { limitOf, measureLimit } from "./limits.js";
import { BenchClient, type KeyedRun, type RunTimes, startTogether } from "./native-client.js";
import { type RateRow, RateSamples } from "./rows.js";
import { warmUp } from "./warm-up.js";

export interface DeviceCaseOptions {
  transport: "tcp" | "shm";
  /** Blobs of an object or layer, and their size. */
  blobs: number;
  blobBytes: number;
  /** Objects of a call, or layers of a ticket. */
  objects: number;
  /** Rounds that count. */
  rounds: number;
}

export interface FanOutOptions extends DeviceCaseOptions {
  /** Numbers of readers, rising; the first one is what the others are compared with. */
  readers: readonly number[];
  /**
   * One worker whose simulated devices each take this many megabytes (10^6) a second, as cards with a link each do,
   * instead of two workers as fast as the machine. The limit is then that of all readers' devices together.
   */
  deviceMbPerSecond?: number;
}

const devicesEach = 8;
const fill = 7;

const secondsOf = (run: RunTimes): number => (run.endNs - run.beginNs) / 1e9;
const shapeName = (options: DeviceCaseOptions): string => `${options.blobs} x ${options.blobBytes / 1024} KB`;
const bytesOf = (options: DeviceCaseOptions): number => options.objects * options.blobs * options.blobBytes;

async function openClient(
  name: string,
  address: string,
  device: number,
  options: DeviceCaseOptions,
  bytesFill: number,
) {
  const client = await BenchClient.start(name, address);
  const { objects: keys, blobs, blobBytes: bytes } = options;
  await client.allocate("m", { device, threads: 1, keys, blobs, bytes }, bytesFill);
  return client;
}

interface Ends {
  source: BenchClient;
  reader: BenchClient;
}

const runOf = (prefix: string): KeyedRun => ({ memory: "m", prefix, suffixes: ["k"], iterations: 1 });

/** One round of each; resolves to seconds. */
const ways = {
  async subscribe({ source, reader }: Ends, prefix: string): Promise<{ seconds: number; lanes: number }> {
    await source.publish(runOf(prefix));
    const run = await reader.run("subscribe", runOf(prefix));
    await source.settle();
    return { seconds: secondsOf(run), lanes: lanesOf(run.paths) };
  },
  async devMGet({ source, reader }: Ends, prefix: string): Promise<{ seconds: number; lanes: number }> {
    await source.run("devmset", runOf(prefix));
    const run = await reader.run("devmget", runOf(prefix));
    await source.run("devdelete", runOf(prefix));
    return { seconds: secondsOf(run), lanes: lanesOf(run.paths) };
  },
  async push({ source, reader }: Ends): Promise<{ seconds: number; lanes: number }> {
    return await pushLayers(source, reader, 1);
  },
  async pushTwo({ source, reader }: Ends): Promise<{ seconds: number; lanes: number }> {
    return await pushLayers(source, reader, 2);
  },
};

/** From the first push to the moment at which the decode side has been told of the last layer. */
async function pushLayers(source: BenchClient, reader: BenchClient, inFlight: number) {
  const ticket = await reader.reserve("m");
  const arrived = reader.awaitLayers();
  const pushed = await source.push("m", ticket, inFlight);
  return { seconds: ((await arrived) - pushed.beginNs) / 1e9, lanes: 0 };
}

function lanesOf(paths: readonly { lanes: number }[]): number {
  return Math.max(1, ...paths.map((path) => path.lanes));
}

const titles: Record<keyof typeof ways, string> = {
  subscribe: "publish, subscribe",
  devMGet: "devMSet, devMGet",
  push: "layers, one by one",
  pushTwo: "layers, two under way",
};

/** Between worker 1 and worker 2 over `transport`. */
export async function measureDeviceCases(options: DeviceCaseOptions, context: BenchContext): Promise<RateRow[]> {
  return await withClosers(async (defer) => {
    const cluster = await openDeviceCluster(options, context, defer);
    const [first = "", second = ""] = cluster;
    const source = await openClient("source", first, 0, options, fill);
    defer(() => source.end());
    const reader = await openClient("reader", second, 1, options, 0);
    defer(() => reader.end());
    const samples = new Map(
      (Object.keys(ways) as (keyof typeof ways)[]).map((way) => {
        const name = `${titles[way]} ${options.transport} ${shapeName(options)}`;
        return [way, new RateSamples(name, bytesOf(options), limitOf(options.transport))];
      }),
    );
    let lanes = 1;
    for (let round = 0; round <= options.rounds; round += 1) {
      context.signal.throwIfAborted();
      for (const [way, into] of samples) {
        const done = await ways[way]({ source, reader }, `${way}${round}_`);
        lanes = Math.max(lanes, done.lanes);
        if (round > 0) {
          into.lanes = lanes;
          into.add(done.seconds, await limitFor(options, lanes));
        }
      }
    }
    await reader.expectBytes("m", fill);
    return [...samples.values()].map((each) => each.row());
  });
}

async function limitFor(options: DeviceCaseOptions, lanes: number): Promise<number> {
  const { transport, blobBytes: pieceBytes } = options;
  return await measureLimit({ transport, lanes, bytes: bytesOf(options), pieceBytes, rounds: 1 });
}

async function openDeviceCluster(
  options: DeviceCaseOptions,
  context: BenchContext,
  defer: (close: () => Promise<void>) => void,
): Promise<readonly string[]> {
  const { transport } = options;
  const cluster = await context.openCluster({ workers: 2, devices: devicesEach, transport, sharedMemorySizeMb: 64 });
  defer(() => cluster.close());
  await warmUp(cluster.addresses, context);
  return cluster.addresses;
}

/**
 * One source to as many readers at once, all with shareReplica. Without a speed of the devices: readers on devices of
 * worker 2 and worker 1 in turns; the ratio is that of all bytes that arrive to the limit, since readers share the
 * machine's processors and memory, as cards do not.
 */
export async function measureFanOut(options: FanOutOptions, context: BenchContext): Promise<RateRow[]> {
  return await withClosers(async (defer) => {
    const places = await openPlaces(options, context, defer);
    const [source, ...readers] = await Promise.all(
      places.map(async ({ address, device }, number) => {
        const name = number === 0 ? "source" : `reader ${number}`;
        const client = await openClient(name, address, device, options, number === 0 ? fill : 0);
        defer(() => client.end());
        return client;
      }),
    );
    const { deviceMbPerSecond } = options;
    const where = deviceMbPerSecond === undefined ? options.transport : `devices of ${deviceMbPerSecond} MB/s`;
    const against = deviceMbPerSecond === undefined ? limitOf(options.transport) : "the devices";
    const samples = new Map(
      options.readers.map((count) => {
        const name = `1 source to ${count} ${where} ${shapeName(options)}`;
        return [count, new RateSamples(name, count * bytesOf(options), against)];
      }),
    );
    for (let round = 0; source !== undefined && round <= options.rounds; round += 1) {
      for (const [count, into] of samples) {
        context.signal.throwIfAborted();
        const seconds = await fanOut(source, readers.slice(0, count), `fan${round}_${count}_`, into);
        if (round > 0) {
          const limit = deviceMbPerSecond === undefined ? await limitFor(options, into.lanes) : undefined;
          into.add(seconds, limit ?? count * (deviceMbPerSecond ?? 0) * 1e6);
        }
      }
    }
    await Promise.all(readers.map((reader) => reader.expectBytes("m", fill)));
    return fanOutRows(options, samples);
  });
}

/** The source's place, then those of the readers. */
async function openPlaces(
  options: FanOutOptions,
  context: BenchContext,
  defer: (close: () => Promise<void>) => void,
): Promise<{ address: string; device: number }[]> {
  const count = 1 + Math.max(...options.readers);
  const { deviceMbPerSecond, transport } = options;
  if (deviceMbPerSecond === undefined) {
    const addresses = await openDeviceCluster(options, context, defer);
    return Array.from({ length: count }, (_, number) => {
      return { address: addresses[number % 2] ?? "", device: Math.floor(number / 2) };
    });
  }
  const workerArgs = (): string[] => ["--sim_bandwidth_mb_per_s", String(deviceMbPerSecond)];
  const cluster = await context.openCluster({
    workers: 1,
    devices: count,
    transport,
    sharedMemorySizeMb: 64,
    workerArgs,
  });
  defer(() => cluster.close());
  return Array.from({ length: count }, (_, device) => ({ address: cluster.addresses[0] ?? "", device }));
}

/** Seconds from the common start to the last reader's end. */
async function fanOut(
  source: BenchClient,
  readers: readonly BenchClient[],
  prefix: string,
  into: RateSamples,
): Promise<number> {
  await source.run("devmset", runOf(prefix));
  const at = startTogether();
  const runs = await Promise.all(
    readers.map((reader) => reader.run("devmget", { ...runOf(prefix), shareReplica: true, at })),
  );
  await Promise.all(readers.map((reader) => reader.run("devlocaldelete", runOf(prefix))));
  await source.run("devdelete", runOf(prefix));
  into.lanes = Math.max(...runs.map((run) => lanesOf(run.paths)));
  return (Math.max(...runs.map((run) => run.endNs)) - Math.min(...runs.map((run) => run.beginNs))) / 1e9;
}

function fanOutRows(options: FanOutOptions, samples: ReadonlyMap<number, RateSamples>): RateRow[] {
  const one = samples.get(options.readers[0] ?? 1)?.medianSeconds() ?? Number.NaN;
  return [...samples.values()].map((each) => ({ ...each.row(), timesOne: each.medianSeconds() / one }));
}
