/**
 * What a worker costs over time: its processors while nobody asks it anything, and its memory over a million
 * operations.
 *
 *   node bench/steady.mjs [--operations N] [--idle SECONDS] [--json]
 *
 * Two workers on this machine. Operations are of keys: set at one worker, get at the other, exist at both, delete, in
 * batches of 16 keys of 4 KB, three batches at once; every byte that was read is compared. Memory is that of each
 * process, looked at ten times on the way: the growth is that of its own in the last half, after caches and compilers
 * have warmed up in the first; shared memory has a fixed size, of which more and more has been touched.
 *
 * Needs `npm run setup`. A million operations take some minutes.
 */
import { readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { parseArgs } from "node:util";
import { parseAddress } from "../dist/base/address.js";
import { startLocalCluster } from "../dist/cli/local-cluster.js";
import { formatTable } from "../dist/cli/table.js";
import { Blob, DeviceBlobList, HeteroClient, SimDevice } from "../dist/client/index.js";

const keysPerCall = 16;
const blobBytes = 4_096;
const streams = 3;
/** A batch is set, read, asked for at both workers, and deleted. */
const operationsPerBatch = 5 * keysPerCall;
const looks = 10;
const ticksPerSecond = 100;
const goalOfIdle = 0.01;

const help = `Usage: node bench/steady.mjs [options]

An idle worker's share of a core, and the memory of all processes over many operations.

  --operations N   of keys, in all (default 1000000)
  --idle SECONDS   how long the idle workers are watched (default 30)
  --json           one JSON document instead of the tables
`;

function readOptions() {
  const { values } = parseArgs({
    options: {
      operations: { type: "string", default: "1000000" },
      idle: { type: "string", default: "30" },
      json: { type: "boolean", default: false },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  const operations = Number(values.operations);
  const idle = Number(values.idle);
  const least = operationsPerBatch * streams * looks;
  if (!Number.isInteger(operations) || operations < least) {
    throw new Error(`--operations ${values.operations} must be a whole number from ${least} on`);
  }
  if (!(idle >= 1)) {
    throw new Error(`--idle ${values.idle} must be at least 1 second`);
  }
  return { ...values, operations, idle };
}

/** Of all its threads, since it began. */
function processorSeconds(pid) {
  const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
}

/**
 * Its own memory, and what it has touched of memory that it shares: arena, queues, simulated devices, all of fixed
 * size.
 */
function memoryOf(pid) {
  const status = readFileSync(`/proc/${pid}/status`, "latin1");
  const mb = (field) => Number(new RegExp(`^${field}:\\s+(\\d+) kB$`, "m").exec(status)?.[1] ?? 0) / 1_024;
  return { ownMb: mb("RssAnon"), sharedMb: mb("RssShmem") };
}

async function measureIdle(processes, seconds) {
  const before = processes.map(({ pid }) => processorSeconds(pid));
  await delay(seconds * 1_000);
  return processes.map(({ name, pid }, at) => ({ name, share: (processorSeconds(pid) - before[at]) / seconds }));
}

/** One caller's memory: what it sets from, and what it reads into. */
class Stream {
  #writer;
  #reader;
  #name;
  #source = new SimDevice(0);
  #target = new SimDevice(1);
  #sourceAt;
  #targetAt;
  #batch = 0;

  constructor(writer, reader, name) {
    this.#writer = writer;
    this.#reader = reader;
    this.#name = name;
    this.#sourceAt = this.#source.allocate(keysPerCall * blobBytes);
    this.#targetAt = this.#target.allocate(keysPerCall * blobBytes);
  }

  async runBatch() {
    this.#batch += 1;
    const keys = Array.from({ length: keysPerCall }, (_, at) => `${this.#name}-${this.#batch}-${at}`);
    const bytes = Buffer.alloc(keysPerCall * blobBytes, this.#batch % 251);
    this.#source.copyIn(this.#sourceAt, bytes);
    const blobsAt = (device, base) =>
      keys.map((_, at) => new DeviceBlobList(device, [new Blob(base + BigInt(at * blobBytes), BigInt(blobBytes))]));
    check(await this.#writer.mSetD2H(keys, blobsAt(0, this.#sourceAt), { ttlSeconds: 600 }));
    check(await this.#reader.mGetH2D(keys, blobsAt(1, this.#targetAt)));
    if (!bytes.equals(this.#target.copyOut(this.#targetAt, bytes.byteLength))) {
      throw new Error(`batch ${this.#batch} of ${this.#name} was read with other bytes than it was set with`);
    }
    check(await this.#writer.exist(keys));
    check(await this.#reader.exist(keys));
    check(await this.#writer.delete(keys));
  }
}

function check(result) {
  if (result.failedKeys.length > 0) {
    const first = result.statuses.find(({ code }) => code !== 0);
    throw new Error(`${result.failedKeys.length} keys failed, the first with ${first?.message}`);
  }
}

async function measureMemory(processes, addresses, operations, progress) {
  const [writer, reader] = addresses.map(
    (workerAddress) => new HeteroClient(parseAddress(workerAddress, "a worker address")),
  );
  const look = () => processes.map(({ pid }) => memoryOf(pid));
  const samples = [];
  try {
    await Promise.all([writer.init(), reader.init()]);
    const callers = Array.from({ length: streams }, (_, at) => new Stream(writer, reader, `steady${at}`));
    const batchesPerLook = Math.ceil(operations / looks / streams / operationsPerBatch);
    let done = 0;
    for (let at = 0; at < looks; at += 1) {
      await Promise.all(
        callers.map(async (caller) => {
          for (let batch = 0; batch < batchesPerLook; batch += 1) {
            await caller.runBatch();
          }
        }),
      );
      done += batchesPerLook * streams * operationsPerBatch;
      samples.push({ operations: done, memory: look() });
      progress(`${done} operations of ${operations}`);
    }
  } finally {
    await Promise.all([writer.close(), reader.close()]);
  }
  const half = samples[looks / 2 - 1];
  const last = samples[looks - 1];
  return processes.map(({ name }, at) => ({
    name,
    operations: last.operations,
    half: half.memory[at],
    end: last.memory[at],
    growthMbPerMillion: ((last.memory[at].ownMb - half.memory[at].ownMb) * 1e6) / (last.operations - half.operations),
  }));
}

function print({ idle, memory }) {
  const idleRows = idle.map(({ name, share }) => [name, `${(share * 100).toFixed(2)}%`]);
  process.stdout.write(formatTable([{ title: "idle" }, { title: "of a core", right: true }], idleRows));
  process.stdout.write(`goal: a worker's two processes under ${goalOfIdle * 100}%\n\n`);
  const titles = ["MB at half", "at the end", "growth, MB a million", "shared at half", "at the end"];
  const rows = memory.map(({ name, half, end, growthMbPerMillion }) => [
    name,
    ...[half.ownMb, end.ownMb, growthMbPerMillion, half.sharedMb, end.sharedMb].map((value) => value.toFixed(1)),
  ]);
  const columns = titles.map((title) => ({ title, right: true }));
  process.stdout.write(formatTable([{ title: `memory, ${memory[0].operations} operations` }, ...columns], rows));
}

async function main() {
  const options = readOptions();
  if (options.help) {
    process.stdout.write(help);
    return;
  }
  const progress = (text) => process.stderr.write(`${text}\n`);
  const cluster = await startLocalCluster({ sharedMemorySizeMb: 256 });
  try {
    const workers = cluster.workers.flatMap(({ index, process: child, ready }) => [
      { name: `worker ${index + 1}, control process`, pid: child.pid },
      { name: `worker ${index + 1}, sidecar`, pid: ready.sidecarPid },
    ]);
    progress(`idle for ${options.idle} s`);
    const idle = await measureIdle(workers, options.idle);
    const everybody = [...workers, { name: "client and store", pid: process.pid }];
    const addresses = cluster.workers.map(({ ready }) => ready.workerAddress);
    const memory = await measureMemory(everybody, addresses, options.operations, progress);
    const result = { devices: "simulated", idle, memory };
    if (options.json) {
      process.stdout.write(`${JSON.stringify(result, null, 2)}\n`);
    } else {
      print(result);
    }
  } finally {
    await cluster.close();
  }
}

try {
  await main();
} catch (error) {
  process.stderr.write(`bench/steady.mjs: ${error.message}\n`);
  process.exitCode = 1;
}
