/**
 * Benchmark of the decision module on one core, through the same TypeScript calls that the control process makes, so
 * the copies into and out of the module are part of every figure.
 *
 * Usage: node bench/wasm.mjs [--json] [--directory-keys N] [--seconds S]
 *   --directory-keys   keys put into the directory; default 10000000
 *   --seconds          measuring time of each row; default 1
 *
 * Targets: 10 M keys/s validated and placed, 3 M blobs/s planned, at most 64 bytes a key beyond the key itself.
 * Needs `npm run build`.
 */
import { parseArgs } from "node:util";
import { KEY_BYTES, makeBatch, makeCommits, makeRing, rate as rateFor } from "../dist/bench/decision-rates.js";
import { createDecisions, RESULT_RECORD_BYTES } from "../dist/decision/index.js";

const { values: options } = parseArgs({
  options: {
    json: { type: "boolean", default: false },
    "directory-keys": { type: "string", default: "10000000" },
    seconds: { type: "string", default: "1" },
  },
});
const MEASURE_MS = Number(options.seconds) * 1000;
const DIRECTORY_KEYS = Number(options["directory-keys"]);
const rows = [];

function addRow(name, value, unit, target) {
  rows.push({ name, value, unit, ...(target === undefined ? {} : { target }) });
}

const rate = (unitsPerStep, step) => rateFor(unitsPerStep, MEASURE_MS, step);

function benchKeys(batchKeys, members, target) {
  const decisions = createDecisions();
  decisions.setRing(makeRing(members));
  const batches = Array.from({ length: Math.max(2, Math.ceil(200_000 / batchKeys)) }, (_, index) =>
    makeBatch(index * batchKeys, batchKeys),
  );
  const pick = (step) => batches[step % batches.length];
  const shape = `${batchKeys} keys a batch, ${members} members`;
  const validate = (step) => {
    if (decisions.validateKeys(pick(step), "strict", 10_000) !== undefined) {
      throw new Error("a good key was refused");
    }
  };
  addRow(`keys validated, ${batchKeys} a batch`, rate(batchKeys, validate), "keys/s");
  addRow(
    `keys placed, ${shape}`,
    rate(batchKeys, (step) => decisions.ownersOf(pick(step))),
    "keys/s",
  );
  const both = (step) => {
    validate(step);
    decisions.ownersOf(pick(step));
  };
  addRow(`keys validated and placed, ${shape}`, rate(batchKeys, both), "keys/s", target);
  addRow(
    `keys grouped by owner, ${shape}`,
    rate(batchKeys, (step) => decisions.groupByOwner(pick(step))),
    "keys/s",
  );
}

function benchPlan(keys, blobsPerKey, blobBytes, sources) {
  const decisions = createDecisions();
  const request = {
    members: Uint32Array.from({ length: keys }, (_, index) => 1 + (index % sources)),
    blobEnds: Uint32Array.from({ length: keys }, (_, index) => (index + 1) * blobsPerKey),
    blobSizes: new BigUint64Array(keys * blobsPerKey).fill(BigInt(blobBytes)),
    sliceBytesMax: 1 << 20,
    lanes: 8,
  };
  const blobs = keys * blobsPerKey;
  addRow(
    `blobs planned, ${keys} x ${blobsPerKey} x ${blobBytes / 1024} KiB`,
    rate(blobs, () => decisions.plan(request)),
    "blobs/s",
    3e6,
  );
}

function benchDirectory(batchKeys) {
  const { directory } = createDecisions();
  const batches = Math.floor(DIRECTORY_KEYS / batchKeys);
  const records = makeCommits(batchKeys);
  let worstBytes = 0;
  // Committed in sequence and later asked with a stride, so that neighbours in a batch are none in the directory's
  // memory.
  const inSequence = (number) => makeBatch(number * batchKeys, batchKeys);
  const spread = (number) => makeBatch(number, batchKeys, batches);
  const pass = (name, batchOf, call) => {
    let elapsedMs = 0;
    let longestMs = 0;
    for (let number = 0; number < batches; number += 1) {
      const batch = batchOf(number);
      const start = performance.now();
      const results = call(batch);
      const took = performance.now() - start;
      elapsedMs += took;
      longestMs = Math.max(longestMs, took);
      if (results.byteLength !== batchKeys * RESULT_RECORD_BYTES || results[0] !== 0) {
        throw new Error(`${name}: code ${results[0]}`);
      }
      const { keys, memoryBytes } = directory.stats();
      if (keys > 1_000_000) {
        worstBytes = Math.max(worstBytes, memoryBytes / keys - KEY_BYTES);
      }
    }
    addRow(`directory ${name}, ${batchKeys} keys a batch`, (batches * batchKeys * 1000) / elapsedMs, "keys/s");
    addRow(`directory ${name}, longest batch`, longestMs, "ms");
  };
  const size = `${batches * batchKeys} keys`;
  pass(`commit up to ${size}`, inSequence, (batch) => directory.commit(batch, records, 0));
  const { keys, memoryBytes } = directory.stats();
  addRow(`directory memory a key beyond the key, ${size}`, memoryBytes / keys - KEY_BYTES, "bytes", 64);
  if (worstBytes > 0) {
    addRow("directory memory a key beyond the key, worst above 1 M keys", worstBytes, "bytes", 64);
  }
  pass(`reserve at ${size}`, spread, (batch) => directory.reserve(batch, 0));
  pass(`lookup at ${size}`, spread, (batch) => directory.lookup(batch));
  worstBytes = 0;
  const start = performance.now();
  directory.forgetMember(2);
  addRow(`directory forgetMember at ${size}`, performance.now() - start, "ms");
  pass(`remove from ${size}`, spread, (batch) => directory.remove(batch));
}

for (const members of [8, 1000]) {
  benchKeys(10_000, members, 10e6);
}
benchKeys(1000, 1000, 10e6);
benchKeys(32, 8);
benchPlan(32, 61, 72 * 1024, 1);
benchPlan(32, 28, 1024 * 1024, 4);
benchPlan(1, 512, 256 * 1024, 1);
benchPlan(10_000, 61, 72 * 1024, 4);
benchDirectory(256);

if (options.json) {
  process.stdout.write(`${JSON.stringify({ node: process.version, rows }, undefined, 2)}\n`);
} else {
  const width = Math.max(...rows.map((row) => row.name.length));
  for (const { name, value, unit, target } of rows) {
    const text = value >= 1e5 ? `${(value / 1e6).toFixed(2)} M` : value.toFixed(2);
    const goal = target === undefined ? "" : `   target ${target >= 1e5 ? `${target / 1e6} M` : target}`;
    process.stdout.write(`${name.padEnd(width)}  ${text.padStart(9)} ${unit}${goal}\n`);
  }
}
