/**
 * The main job in numbers: local set and get, remote get over tcp and over shm, at 1 MiB and at 72 KB blobs, each beside what
 * this machine can do in the same run: one copy with the same number of threads and pieces, or raw sockets with as many
 * connections. Medians over the rounds, one warm-up before them; every round uses new keys and deletes them.
 *
 *   npm run bench -- [--rounds N] [--json] [--compare FILE] [--only NAME]
 *
 * --compare reads what an earlier --json printed and shows the change of each ratio. Ratios compare over runs and machines;
 * GB/s do not.
 */
import { readFileSync, statSync } from "node:fs";
import { parseArgs } from "node:util";
import { ClientProcess } from "../dist/cli/demo-process.js";
import { startLocalCluster } from "../dist/cli/local-cluster.js";
import { median } from "../dist/cli/main-job.js";
import { parseShape } from "../dist/cli/options.js";
import { measureRawSockets } from "../dist/cli/raw-sockets.js";
import { formatTable } from "../dist/cli/table.js";

const shapes = ["28x1024KB", "61x72KB"];
const file = process.execPath;
const totalBytes = statSync(file).size;

const help = `Usage: npm run bench -- [options]

Measures the main job on this machine: local set and get, remote get over tcp and over shm, at 1 MiB and at 72 KB blobs, each
beside its limit, measured in the same rounds: one copy with as many threads, or raw sockets with as many connections.

  --rounds N      rounds that count, after one warm-up; the table has medians (default 9)
  --only TEXT     only cases whose name has this text, as in --only tcp
  --json          one JSON document instead of the table, also to keep for --compare
  --compare FILE  the change of each ratio against an earlier run's JSON
  -h, --help      this

Ratios compare over runs and machines; GB/s do not.
`;

/** Says what is wrong in a sentence, and how to go on. */
function fail(message) {
  process.stderr.write(`${message}\nnpm run bench -- --help lists the options.\n`);
  process.exit(2);
}

function readOptions() {
  try {
    return parseArgs({
      options: {
        rounds: { type: "string", default: "9" },
        json: { type: "boolean", default: false },
        compare: { type: "string" },
        only: { type: "string", default: "" },
        help: { type: "boolean", short: "h", default: false },
      },
    }).values;
  } catch (error) {
    return fail(error.message);
  }
}

const options = readOptions();
if (options.help) {
  process.stdout.write(help);
  process.exit(0);
}
const rounds = Number(options.rounds);
if (!Number.isInteger(rounds) || rounds < 1) {
  fail(`--rounds ${options.rounds} must be a whole number from 1 on`);
}

function progress(text) {
  process.stderr.write(`${text}\n`);
}

const lanesOf = (paths) => Math.max(1, ...paths.map((path) => path.lanes));

/** One shape over one transport: times of set, local get and remote get, and their limits. */
async function measure(transport, shapeName) {
  const shape = parseShape(shapeName);
  const sharedMemorySizeMb = Math.ceil(totalBytes / 2 ** 20) + 128;
  const cluster = await startLocalCluster({ transport, sharedMemorySizeMb });
  const clients = [];
  try {
    const [first, second] = cluster.workers.map((worker) => worker.ready.workerAddress);
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
    return await measureRounds({ transport, shapeName, shape, setter, local, remote });
  } finally {
    await Promise.all(clients.map((client) => client.end()));
    await cluster.close();
  }
}

async function measureRounds({ transport, shapeName, shape, setter, local, remote }) {
  const samples = { set: [], local: [], remote: [], copy: [], wire: [] };
  let lanes = { set: 1, local: 1, remote: 1 };
  const copyOf = async (threads) =>
    (await setter.ask({ t: "limit", threads, pieceBytes: shape.blobBytes }, "limited")).bytesPerSecond;
  for (let round = 0; round <= rounds; round += 1) {
    const set = await setter.ask({ t: "run", round }, "ran");
    // The remote get comes first: it may not be served from what the local one left in the cache.
    const far = await remote.ask({ t: "run", round }, "ran");
    const near = await local.ask({ t: "run", round }, "ran");
    await setter.ask({ t: "delete", round }, "deleted");
    lanes = { set: lanesOf(set.paths), local: lanesOf(near.paths), remote: lanesOf(far.paths) };
    if (round === 0) {
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

/** What a case is to reach, as shares of its limit; where there are two, the first is the floor today. */
function goalOf(name) {
  if (name.startsWith("local") && name.includes("1024KB")) {
    return "70% now, 90%";
  }
  return name.startsWith("local") ? "85%" : name.includes("tcp") ? "90%" : "85%";
}

function print(rows, earlier) {
  const percent = (value) => `${(value * 100).toFixed(0)}%`;
  const columns = [
    { title: "case" },
    { title: "GB/s", right: true },
    { title: "limit GB/s", right: true },
    { title: "against" },
    { title: "lanes", right: true },
    { title: "ratio", right: true },
    { title: "goal" },
    ...(earlier === undefined ? [] : [{ title: "before", right: true }]),
  ];
  const cells = rows.map((row) => {
    const before = earlier?.find((each) => each.name === row.name);
    const base = [
      row.name,
      row.gbps.toFixed(2),
      row.limitGbps.toFixed(2),
      row.against,
      String(row.lanes),
      percent(row.ratio),
    ];
    return [...base, goalOf(row.name), ...(before === undefined ? [] : [percent(before.ratio)])];
  });
  process.stdout.write(formatTable(columns, cells));
}

const rows = [];
for (const transport of ["tcp", "shm"]) {
  for (const shapeName of shapes) {
    if (`${transport} ${shapeName}`.includes(options.only)) {
      progress(`${shapeName} over ${transport}, ${rounds} rounds of ${totalBytes} bytes`);
      rows.push(...(await measure(transport, shapeName)));
    }
  }
}
if (options.json) {
  process.stdout.write(`${JSON.stringify({ bytes: totalBytes, rounds, rows }, null, 2)}\n`);
} else {
  const earlier = options.compare === undefined ? undefined : JSON.parse(readFileSync(options.compare, "utf8")).rows;
  print(rows, earlier);
}
