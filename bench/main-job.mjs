/**
 * The main job in numbers: local set and get, remote get over tcp and over shm, each beside what this machine can do in
 * the same run: one copy with the same number of threads and pieces, or raw sockets with as many connections. Medians
 * over the rounds, after a warm-up; every round uses new keys and deletes them. `npm run bench` runs it
 * (bench/run.mjs).
 */
import { statSync } from "node:fs";
import { measureRawSockets } from "../dist/bench/limits.js";
import { median } from "../dist/bench/statistics.js";
import { warmUp } from "../dist/bench/warm-up.js";
import { ClientProcess } from "../dist/cli/demo-process.js";
import { startLocalCluster } from "../dist/cli/local-cluster.js";
import { parseShape } from "../dist/cli/options.js";

const file = process.execPath;
const totalBytes = statSync(file).size;

/** The clients are JavaScript too. */
const warmUpRounds = 5;

const lanesOf = (paths) => Math.max(1, ...paths.map((path) => path.lanes));

/**
 * One shape over one transport: times of set, local get and remote get, and their limits. Rows as those of
 * src/bench/rows.ts.
 */
export async function measureMainJob(transport, shapeName, rounds, context) {
  const shape = parseShape(shapeName);
  const sharedMemorySizeMb = Math.ceil(totalBytes / 2 ** 20) + 128;
  const cluster = await startLocalCluster({ transport, sharedMemorySizeMb });
  const clients = [];
  try {
    const [first, second] = cluster.workers.map((worker) => worker.ready.workerAddress);
    await warmUp([first, second], context);
    const open = async (role, workerAddress, deviceIndex) => {
      const client = new ClientProcess(`${role} client`);
      clients.push(client);
      const settings = {
        role,
        workerAddress,
        deviceIndex,
        file,
        shape,
        totalBytes,
        keyPrefix: "bench",
        timeoutMs: 60_000,
      };
      await client.ask({ t: "open", settings }, "opened");
      return client;
    };
    const setter = await open("set", first, 0);
    const local = await open("get", first, 1);
    const remote = await open("get", second, 2);
    return await measureRounds({ transport, shapeName, shape, rounds, setter, local, remote });
  } finally {
    await Promise.all(clients.map((client) => client.end()));
    await cluster.close();
  }
}

async function measureRounds({ transport, shapeName, shape, rounds, setter, local, remote }) {
  const samples = { set: [], local: [], remote: [], copy: [], wire: [] };
  let lanes = { set: 1, local: 1, remote: 1 };
  const copyOf = async (threads) =>
    (await setter.ask({ t: "limit", threads, pieceBytes: shape.blobBytes }, "limited")).bytesPerSecond;
  for (let round = 1 - warmUpRounds; round <= rounds; round += 1) {
    const set = await setter.ask({ t: "run", round }, "ran");
    // The remote get comes first: it may not be served from what the local one left in the cache.
    const far = await remote.ask({ t: "run", round }, "ran");
    const near = await local.ask({ t: "run", round }, "ran");
    await setter.ask({ t: "delete", round }, "deleted");
    lanes = { set: lanesOf(set.paths), local: lanesOf(near.paths), remote: lanesOf(far.paths) };
    if (round <= 0) {
      continue;
    }
    samples.set.push(totalBytes / set.seconds);
    samples.local.push(totalBytes / near.seconds);
    samples.remote.push(totalBytes / far.seconds);
    // In each round, so that both sides meet the machine in the same state.
    samples.copy.push(await copyOf(lanes.set));
    samples.wire.push(
      transport === "tcp"
        ? await measureRawSockets({ connections: lanes.remote, bytes: totalBytes, rounds: 1 })
        : await copyOf(lanes.remote),
    );
  }
  return rowsOf({ transport, shapeName, samples, lanes });
}

function rowsOf({ transport, shapeName, samples, lanes }) {
  const row = (name, values, limits, against, count) => {
    const rate = median(values);
    const limit = median(limits);
    const figures = { gbps: rate / 1e9, limitGbps: limit / 1e9, ratio: rate / limit };
    return { name: `${name} ${shapeName}`, ...figures, against, lanes: count };
  };
  const isTcp = transport === "tcp";
  const against = isTcp ? "raw sockets" : "one copy";
  const remoteRow = row(`remote get ${transport}`, samples.remote, samples.wire, against, lanes.remote);
  if (!isTcp) {
    return [remoteRow];
  }
  return [
    row("local set", samples.set, samples.copy, "one copy", lanes.set),
    row("local get", samples.local, samples.copy, "one copy", lanes.local),
    remoteRow,
  ];
}
