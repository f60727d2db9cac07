/**
 * The tcp transport beside raw sockets and beside Mooncake's transfer_engine_bench, on this machine, in turns: each
 * round measures all three for every case, and who goes first changes from round to round, so that what slows the
 * machine down for a while slows all of them. Medians of the rounds; ratios are taken within a round.
 *
 * Mooncake's program is a user's own: it runs when it is installed, and its columns say so when it isn't.
 */
import { spawn } from "node:child_process";
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { measureBandwidth, serveLink } from "../dist/bench/link.js";
import { median } from "../dist/bench/statistics.js";
import { withBenchContext } from "../dist/cli/bench-context.js";
import { ExitError, parseSize } from "../dist/cli/options.js";
import { formatTable } from "../dist/cli/table.js";

const program = "transfer_engine_bench";
const release = "mooncake-transfer-engine-non-cuda==0.3.13.post1";
const host = "127.0.0.1";
const transfersMin = 20;
const depthMax = 256;
const connectionsMax = 16;

const help = `Usage: node bench/mooncake.mjs [options]

Measures hbmesh's tcp transport, raw sockets and Mooncake's ${program} between two processes of this machine, in turns.
Mooncake's is looked for on the PATH and in $VIRTUAL_ENV/bin; to install it outside of this repository:

  python3 -m venv /tmp/mooncake && /tmp/mooncake/bin/pip install ${release}
  apt-get install libibverbs1      (it is linked against it, for tcp too)

  --program FILE        where ${program} is
  --sizes LIST          bytes of a transfer (default 64K,256K,1M)
  --connections LIST    connections, 1 to ${connectionsMax} (default 1,4); Mooncake gets as many threads, and lanes to its peer
  --operations LIST     read, write or both (default write,read)
  --depth N             transfers under way on each connection, Mooncake's batch size (default 128, at most ${depthMax})
  --rounds N            rounds that count, after a warm-up (default 5)
  --seconds N           of a measurement of Mooncake's, whole ones (default 1)
  --megabytes N         that the other two move in a measurement (default 1024)
  --json                one JSON document instead of the table
  -h, --help            this

GB/s are 10^9 bytes a second. Needs npm run setup.

Exit codes: 0 it measured, with or without Mooncake, 1 it could not, 2 wrong arguments, 130 interrupted.
`;

/** Says what is wrong in a sentence, and how to go on. */
function usage(message) {
  return new ExitError(2, `${message}\nnode bench/mooncake.mjs --help lists the options.`);
}

function wholeNumber(option, text, least, most) {
  const value = Number(text);
  if (text.trim() === "" || !Number.isInteger(value) || value < least || value > most) {
    throw usage(`${option} ${text} must be a whole number from ${least} to ${most}`);
  }
  return value;
}

/** The items of a list, each read by `read`. */
function listOf(text, read) {
  return text.split(",").map((item) => read(item.trim()));
}

function sizeOf(text) {
  try {
    return parseSize(text);
  } catch (error) {
    throw usage(`--sizes ${text}: ${error.message}`);
  }
}

function operationOf(text) {
  if (text !== "read" && text !== "write") {
    throw usage(`--operations ${text} must be read or write`);
  }
  return text;
}

function readValues() {
  const text = (value) => ({ type: "string", default: value });
  const options = {
    program: { type: "string" },
    sizes: text("64K,256K,1M"),
    connections: text("1,4"),
    operations: text("write,read"),
    depth: text("128"),
    rounds: text("5"),
    seconds: text("1"),
    megabytes: text("1024"),
    json: { type: "boolean", default: false },
    help: { type: "boolean", short: "h", default: false },
  };
  try {
    return parseArgs({ options }).values;
  } catch (error) {
    throw usage(error.message);
  }
}

function readOptions() {
  const values = readValues();
  return {
    ...values,
    sizes: listOf(values.sizes, sizeOf),
    connections: listOf(values.connections, (item) => wholeNumber("--connections", item, 1, connectionsMax)),
    operations: listOf(values.operations, operationOf),
    depth: wholeNumber("--depth", values.depth, 1, depthMax),
    rounds: wholeNumber("--rounds", values.rounds, 1, 1_000),
    seconds: wholeNumber("--seconds", values.seconds, 1, 3_600),
    megabytes: wholeNumber("--megabytes", values.megabytes, 1, 1_000_000),
  };
}

function isProgram(file) {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** Undefined: it isn't installed. */
function findProgram(given) {
  if (given !== undefined) {
    if (!isProgram(given)) {
      throw usage(`--program ${given} is no program that can be run`);
    }
    return given;
  }
  const { PATH = "", VIRTUAL_ENV } = process.env;
  const folders = PATH.split(delimiter).filter((folder) => folder !== "");
  if (VIRTUAL_ENV !== undefined) {
    folders.push(join(VIRTUAL_ENV, "bin"));
  }
  return folders.map((folder) => join(folder, program)).find(isProgram);
}

/** One process of Mooncake's; what it installs as its command is a script that starts the program proper. */
class MooncakeProcess {
  /** What it has printed. */
  output = "";
  #child;
  #waiting = [];

  constructor(file, mode, args, environment) {
    const common = ["-protocol", "tcp", "-metadata_server", "P2PHANDSHAKE", "-local_server_name", host];
    // A process group of its own, so that the script's child ends with it.
    this.#child = spawn(file, ["-mode", mode, ...common, ...args], {
      stdio: ["ignore", "pipe", "pipe"],
      detached: true,
      env: { ...process.env, ...environment },
    });
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      createInterface({ input: stream }).on("line", (line) => {
        this.output += `${line}\n`;
        this.#look();
      });
    }
    this.ended = new Promise((resolve) => {
      this.#child.once("error", (error) => resolve(error.message));
      this.#child.once("close", (code, signal) => resolve(signal ?? `exit code ${code}`));
    });
    void this.ended.then(() => this.#look(true));
  }

  /** The first group of what it prints; rejects when it ends without, or is stopped. */
  async find(pattern, signal) {
    const stop = () => this.kill();
    signal.addEventListener("abort", stop);
    try {
      return await new Promise((resolve, reject) => {
        this.#waiting.push({ pattern, resolve, reject });
        this.#look();
      });
    } finally {
      signal.removeEventListener("abort", stop);
    }
  }

  #look(over = false) {
    this.#waiting = this.#waiting.filter(({ pattern, resolve, reject }) => {
      const found = pattern.exec(this.output);
      if (found !== null) {
        resolve(found[1]);
      } else if (over) {
        reject(
          new ExitError(1, `${program} ended without a result:\n${this.output.trimEnd()}${remedyFor(this.output)}`),
        );
      }
      return found === null && !over;
    });
  }

  kill() {
    try {
      process.kill(-this.#child.pid, "SIGKILL");
    } catch {
      // It has ended, or never began.
    }
  }
}

function remedyFor(output) {
  const missing = /error while loading shared libraries: (\S+):/.exec(output)?.[1];
  return missing === undefined
    ? ""
    : `\nInstall the package that has ${missing} (Debian: apt-get install libibverbs1).`;
}

const lanesOf = (connections) => ({
  MC_TCP_ENABLE_CONNECTION_POOL: "1",
  MC_TCP_LANES_PER_PEER: String(connections),
});

/** Bytes a second. */
async function measureMooncake(file, { operation, bytes, connections }, { depth, seconds }, signal) {
  const buffer = ["-buffer_size", String(Math.max(2 ** 28, bytes * depth * connections))];
  const target = new MooncakeProcess(file, "target", buffer, lanesOf(connections));
  try {
    const segment = await target.find(/listening on (\S+:\d+)/, signal);
    // Then its memory is there.
    await target.find(/(DRAM is used)/, signal);
    const sizes = ["-block_size", String(bytes), "-batch_size", String(depth), "-threads", String(connections)];
    const how = ["-segment_id", segment, "-operation", operation, "-duration", String(seconds)];
    const unit = ["-report_unit", "GB", "-report_precision", "4"];
    const args = [...how, ...sizes, ...buffer, ...unit];
    const initiator = new MooncakeProcess(file, "initiator", args, lanesOf(connections));
    try {
      return Number(await initiator.find(/throughput ([\d.]+) GB\/s/, signal)) * 1e9;
    } finally {
      initiator.kill();
      await initiator.ended;
    }
  } finally {
    target.kill();
    await target.ended;
  }
}

/** Our transport, and raw sockets with as many connections, in bytes a second. */
async function measureOurs({ operation, bytes, connections }, { depth, megabytes }, signal) {
  const done = new AbortController();
  let serving = Promise.resolve();
  const port = await new Promise((resolve, reject) => {
    serving = serveLink(0, { listening: resolve, client: () => undefined }, done.signal);
    serving.catch(reject);
  });
  const iterations = Math.max(transfersMin, Math.ceil((megabytes * 2 ** 20) / bytes));
  const link = { host, port, transport: "tcp", op: operation, sizes: [bytes], iterations, intervalMs: 0 };
  let ours = Number.NaN;
  try {
    const onRow = (row) => {
      ours = row.average;
    };
    const limit = await measureBandwidth({ ...link, lanes: connections, depth }, onRow, signal);
    signal.throwIfAborted();
    return { ours, raw: limit.average };
  } catch (error) {
    done.abort();
    throw error;
  } finally {
    await serving;
  }
}

async function measureCase(one, options, file, round, signal) {
  const steps = [
    () => measureOurs(one, options, signal),
    async () => (file === undefined ? {} : { mooncake: await measureMooncake(file, one, options, signal) }),
  ];
  const results = {};
  for (const step of round % 2 === 0 ? steps : steps.reverse()) {
    Object.assign(results, await step());
  }
  return results;
}

function rowOf(one, rounds) {
  const middle = (pick) => median(rounds.map(pick));
  const row = {
    ...one,
    hbmesh: middle(({ ours }) => ours),
    raw: middle(({ raw }) => raw),
    ofRaw: middle(({ ours, raw }) => ours / raw),
  };
  if (rounds[0].mooncake === undefined) {
    return row;
  }
  const mooncake = middle((round) => round.mooncake);
  return { ...row, mooncake, ofMooncake: middle((round) => round.ours / round.mooncake) };
}

async function measure(options, file) {
  return await withBenchContext(async ({ progress, signal }) => {
    const cases = options.operations.flatMap((operation) =>
      options.connections.flatMap((connections) => options.sizes.map((bytes) => ({ operation, connections, bytes }))),
    );
    const results = cases.map(() => []);
    for (let round = 0; round <= options.rounds; round++) {
      progress(round === 0 ? "warm-up" : `round ${round} of ${options.rounds}`);
      for (const [at, one] of cases.entries()) {
        const result = await measureCase(one, options, file, round, signal);
        if (round > 0) {
          results[at].push(result);
        }
      }
    }
    return cases.map((one, at) => rowOf(one, results[at]));
  });
}

function print(rows, missing) {
  const gbps = (rate) => (rate === undefined ? "-" : (rate / 1e9).toFixed(2));
  const right = ["connections", "hbmesh GB/s", "raw sockets GB/s", "of raw", "Mooncake GB/s", "of Mooncake"];
  const columns = [{ title: "transfer" }, ...right.map((title) => ({ title, right: true }))];
  const lines = rows.map((row) => [
    `${row.operation} ${row.bytes / 1024} KiB`,
    String(row.connections),
    gbps(row.hbmesh),
    gbps(row.raw),
    `${(row.ofRaw * 100).toFixed(0)} %`,
    gbps(row.mooncake),
    row.ofMooncake === undefined ? "-" : `${(row.ofMooncake * 100).toFixed(0)} %`,
  ]);
  process.stdout.write(`${formatTable(columns, lines)}${missing === "" ? "" : `\n${missing}\n`}`);
}

async function main() {
  const options = readOptions();
  if (options.help) {
    process.stdout.write(help);
    return;
  }
  const file = findProgram(options.program);
  const missing =
    file === undefined
      ? `Mooncake's ${program} is not measured: it is neither on the PATH nor in $VIRTUAL_ENV/bin. Install it ` +
        `(pip install ${release}), or name it with --program FILE.`
      : "";
  const rows = await measure(options, file);
  if (options.json) {
    const { depth, rounds, seconds } = options;
    process.stdout.write(
      `${JSON.stringify({ depth, rounds, seconds, program: file ?? null, missing, rows }, null, 2)}\n`,
    );
  } else {
    print(rows, missing);
  }
}

try {
  await main();
} catch (error) {
  process.stderr.write(`${error instanceof ExitError ? error.message : error.stack}\n`);
  process.exitCode = error instanceof ExitError ? error.exitCode : 1;
}
