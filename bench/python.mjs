/**
 * Python's calls beside TypeScript's: mset_d2h_from_multi_buffers and mget_h2d_from_multi_buffers of 32 keys with 61 blobs of 72 KB, and
 * the same calls of HeteroClient, in turns, against one worker on this machine. Medians over the rounds, one warm-up before them; every
 * round uses new keys and deletes them. The ratio is Python's bytes a second to TypeScript's in the same run; the goal is 95%.
 *
 *   node bench/python.mjs [--rounds N] [--json]
 *
 * Needs `npm run setup` and python3. HBMESH_PYTHON names another interpreter.
 */
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { median } from "../dist/bench/statistics.js";
import { startLocalCluster } from "../dist/cli/local-cluster.js";
import { formatTable } from "../dist/cli/table.js";
import { Blob, DeviceBlobList, HeteroClient, SimDevice } from "../dist/client/index.js";

const keyCount = 32;
const blobCount = 61;
const blobBytes = 72 * 1024;
const totalBytes = keyCount * blobCount * blobBytes;
const goal = 0.95;

const options = parseArgs({
  options: { rounds: { type: "string", default: "15" }, json: { type: "boolean", default: false } },
}).values;
const rounds = Number(options.rounds);

/** bench/python_client.py: answers a line of JSON to each line. */
class PythonClient {
  #child;
  #lines;

  constructor(workerAddress) {
    const script = fileURLToPath(new URL("python_client.py", import.meta.url));
    const packages = fileURLToPath(new URL("../python", import.meta.url));
    const shape = [String(keyCount), String(blobCount), String(blobBytes)];
    this.#child = spawn(process.env.HBMESH_PYTHON ?? "python3", [script, workerAddress, ...shape], {
      env: { ...process.env, PYTHONPATH: packages },
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }

  async ask(call, round) {
    this.#child.stdin.write(`${JSON.stringify({ call, round })}\n`);
    const { value, done } = await this.#lines.next();
    if (done) {
      throw new Error("the Python client ended: see above");
    }
    return JSON.parse(value).seconds;
  }

  close() {
    this.#child.stdin.end();
    return new Promise((resolve) => {
      this.#child.once("close", resolve);
    });
  }
}

/** The same calls by the TypeScript client, with memory of its own. */
class ScriptClient {
  #client;
  #lists = {};

  constructor(workerAddress) {
    const [host, port] = workerAddress.split(":");
    this.#client = new HeteroClient({ host, port: Number(port) });
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
  for (let round = 0; round <= rounds; round += 1) {
    // Each goes first in every other round.
    const names = round % 2 === 0 ? ["TypeScript", "Python"] : ["Python", "TypeScript"];
    for (const name of names) {
      for (const call of ["set", "get"]) {
        const took = await clients[name].ask(call, round);
        if (round > 0) {
          seconds[call][name].push(took);
        }
      }
      await clients[name].ask("delete", round);
    }
  }
} finally {
  await Promise.all(Object.values(clients).map((client) => client.close()));
  await cluster.close();
}
const rows = ["set", "get"].map((call) => {
  const rate = (name) => totalBytes / median(seconds[call][name]) / 1e9;
  return {
    name: call,
    python: rate("Python"),
    typescript: rate("TypeScript"),
    ratio: rate("Python") / rate("TypeScript"),
  };
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
