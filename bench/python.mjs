/**
 * Python's calls beside TypeScript's: mset_d2h_from_multi_buffers and mget_h2d_from_multi_buffers of 32 keys with 61
 * blobs of 72 KB, and the same calls of HeteroClient, against one worker on this machine. Each round sets, gets and
 * deletes new keys with both clients, who take turns in going first, and counts after a warm-up of two, in which each
 * has been first. The ratio is the median of Python's bytes a second to TypeScript's within a round: what slows the
 * machine down for a while slows both.
 */
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { parseAddress } from "../dist/base/address.js";
import { median } from "../dist/bench/statistics.js";
import { startLocalCluster } from "../dist/cli/local-cluster.js";
import { ExitError } from "../dist/cli/options.js";
import { formatTable } from "../dist/cli/table.js";
import { Blob, DeviceBlobList, HeteroClient, SimDevice } from "../dist/client/index.js";

const keyCount = 32;
const blobCount = 61;
const blobBytes = 72 * 1024;
const totalBytes = keyCount * blobCount * blobBytes;
const goal = 0.95;

const warmUps = 2;
const roundsMax = 10_000;

const help = `Usage: node bench/python.mjs [options]

Measures mset_d2h_from_multi_buffers and mget_h2d_from_multi_buffers of yr.datasystem (${keyCount} keys x ${blobCount} x ${blobBytes / 1024} KB) beside the same
calls of the TypeScript client, in turns, against one worker that it starts here. The ratio is to reach ${goal * 100} %.

  --rounds N  rounds that count, after a warm-up of ${warmUps} (default 30)
  --json      one JSON document instead of the table
  -h, --help  this

Needs npm run setup and python3; HBMESH_PYTHON names another interpreter.
`;

/** Ends with what is wrong in a sentence, and how to go on. */
function refuse(message) {
  process.stderr.write(`${message}\nnode bench/python.mjs --help lists the options.\n`);
  process.exit(2);
}

function readOptions() {
  const options = {
    rounds: { type: "string", default: "30" },
    json: { type: "boolean", default: false },
    help: { type: "boolean", short: "h", default: false },
  };
  try {
    return parseArgs({ options }).values;
  } catch (error) {
    return refuse(error.message);
  }
}

const options = readOptions();
if (options.help) {
  process.stdout.write(help);
  process.exit(0);
}
const rounds = Number(options.rounds);
if (!Number.isInteger(rounds) || rounds < 1 || rounds > roundsMax) {
  refuse(`--rounds ${options.rounds}: give a whole number from 1 to ${roundsMax}`);
}

/** bench/python_client.py: answers a line of JSON to each line. */
class PythonClient {
  #child;
  #closed;
  #lines;

  constructor(workerAddress) {
    const script = fileURLToPath(new URL("python_client.py", import.meta.url));
    const packages = fileURLToPath(new URL("../python", import.meta.url));
    const shape = [String(keyCount), String(blobCount), String(blobBytes)];
    this.#child = spawn(process.env.HBMESH_PYTHON ?? "python3", [script, workerAddress, ...shape], {
      env: { ...process.env, PYTHONPATH: packages },
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.#closed = new Promise((resolve) => {
      this.#child.once("close", resolve);
      this.#child.once("error", (error) => {
        process.stderr.write(`can't start ${process.env.HBMESH_PYTHON ?? "python3"}: ${error.message}\n`);
        resolve();
      });
    });
    // A client that ended is told of by what it no longer answers.
    this.#child.stdin.on("error", () => undefined);
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }

  async ask(call, round) {
    this.#child.stdin.write(`${JSON.stringify({ call, round })}\n`);
    const { value, done } = await this.#lines.next();
    if (done) {
      throw new ExitError(1, "the Python client ended: see above");
    }
    return JSON.parse(value).seconds;
  }

  close() {
    this.#child.stdin.end();
    return this.#closed;
  }
}

/** The same calls by the TypeScript client, with memory of its own. */
class ScriptClient {
  #client;
  #lists = {};

  constructor(workerAddress) {
    this.#client = new HeteroClient(parseAddress(workerAddress, "the worker address"));
    for (const [call, index] of [
      ["set", 0],
      ["get", 1],
    ]) {
      const device = new SimDevice(index);
      const start = device.allocate(totalBytes);
      const blob = (at) => new Blob(start + BigInt(at * blobBytes), BigInt(blobBytes));
      const blobs = (key) => Array.from({ length: blobCount }, (_, at) => blob(key * blobCount + at));
      this.#lists[call] = Array.from({ length: keyCount }, (_, key) => new DeviceBlobList(index, blobs(key)));
    }
  }

  init() {
    return this.#client.init();
  }

  async ask(call, round) {
    const keys = Array.from({ length: keyCount }, (_, key) => `ts-${round}-${key}`);
    const started = performance.now();
    if (call === "delete") {
      (await this.#client.delete(keys)).throwIfFailed();
    } else if (call === "set") {
      (await this.#client.mSetD2H(keys, this.#lists.set)).throwIfFailed();
    } else {
      (await this.#client.mGetH2D(keys, this.#lists.get)).throwIfFailed();
    }
    return (performance.now() - started) / 1000;
  }

  close() {
    return this.#client.close();
  }
}

const sharedMemorySizeMb = Math.ceil((2 * totalBytes) / 2 ** 20) + 128;
const cluster = await startLocalCluster({ workers: 1, sharedMemorySizeMb });
const address = cluster.workers[0].ready.workerAddress;
const clients = { TypeScript: new ScriptClient(address), Python: new PythonClient(address) };
const seconds = { set: { TypeScript: [], Python: [] }, get: { TypeScript: [], Python: [] } };
try {
  await clients.TypeScript.init();
  for (let round = 0; round < warmUps + rounds; round += 1) {
    // Each goes first in every other round.
    const names = round % 2 === 0 ? ["TypeScript", "Python"] : ["Python", "TypeScript"];
    for (const name of names) {
      for (const call of ["set", "get"]) {
        const took = await clients[name].ask(call, round);
        if (round >= warmUps) {
          seconds[call][name].push(took);
        }
      }
      await clients[name].ask("delete", round);
    }
  }
} catch (error) {
  process.stderr.write(`${error instanceof ExitError ? error.message : error.stack}\n`);
  process.exitCode = 1;
} finally {
  await Promise.all(Object.values(clients).map((client) => client.close()));
  await cluster.close();
}
if (process.exitCode === undefined) {
  report();
}

function report() {
  const rows = ["set", "get"].map((call) => {
    const { Python: python, TypeScript: typescript } = seconds[call];
    const rate = (taken) => totalBytes / median(taken) / 1e9;
    const ratio = median(python.map((taken, round) => typescript[round] / taken));
    return { name: call, python: rate(python), typescript: rate(typescript), ratio };
  });
  if (options.json) {
    process.stdout.write(`${JSON.stringify({ bytes: totalBytes, rounds, goal, rows }, null, 2)}\n`);
  } else {
    const columns = [
      { title: `${keyCount} keys x ${blobCount} x ${blobBytes / 1024} KB` },
      ...["Python GB/s", "TypeScript GB/s", "ratio", "goal"].map((title) => ({ title, right: true })),
    ];
    const percent = (value) => `${(value * 100).toFixed(0)}%`;
    const cells = rows.map((row) => [
      row.name,
      row.python.toFixed(2),
      row.typescript.toFixed(2),
      percent(row.ratio),
      percent(goal),
    ]);
    process.stdout.write(formatTable(columns, cells));
  }
}
