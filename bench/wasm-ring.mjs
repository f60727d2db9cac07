/**
 * Measures how evenly a ring is shared for several numbers of tokens a member, exactly, from the tokens themselves. The
 * number that asm/hash-ring.ts uses (TOKENS_PER_WEIGHT) was chosen with it.
 *
 * Usage: node bench/wasm-ring.mjs [--json] [--rings R] [TOKENS...]      default: 12 rings each, 512 1024 2048 3072 4096
 *
 * Columns: the largest member's share as a multiple of the mean (average and worst of all rings), time to build a ring.
 */
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: { json: { type: "boolean", default: false }, rings: { type: "string", default: "12" } },
});
const tokenCounts = positionals.length > 0 ? positionals.map(Number) : [512, 1024, 2048, 3072, 4096];
const module = new WebAssembly.Module(readFileSync(new URL("../dist/decisions.wasm", import.meta.url)));

/** Members of one ring: MemberRecords, then names. Each ring has other addresses. */
function encodeMembers(count, tokens, ring) {
  const names = Array.from({ length: count }, (_, index) =>
    Buffer.from(`10.${ring}.${index >> 8}.${index & 255}:31501`),
  );
  const records = Buffer.alloc(16 * count);
  let nameOffset = 0;
  for (const [index, name] of names.entries()) {
    for (const [word, value] of [index + 1, tokens, nameOffset, name.length].entries()) {
      records.writeUInt32LE(value, 16 * index + 4 * word);
    }
    nameOffset += name.length;
  }
  return Buffer.concat([records, ...names]);
}

/** The largest share of the hash space, as a multiple of the mean, and the milliseconds that the ring took. */
function measureRing(count, tokens, ring) {
  const { exports: wasm } = new WebAssembly.Instance(module, {});
  const input = encodeMembers(count, tokens, ring);
  const pointer = wasm.begin(input.length) >>> 0;
  new Uint8Array(wasm.memory.buffer).set(input, pointer);
  const start = performance.now();
  if (wasm.setRing(pointer, input.length, count) !== 0) {
    throw new Error(`a ring of ${count} x ${tokens} tokens was refused`);
  }
  const buildMs = performance.now() - start;
  const total = wasm.ringTokenCount() >>> 0;
  const words = new Uint32Array(wasm.memory.buffer, wasm.ringEntries() >>> 0, 2 * total);
  const tokenAt = (index) => (words[2 * index + 1] * 65536 + (words[2 * index] >>> 16)) / 2 ** 48;
  const shares = new Float64Array(count + 1);
  let before = tokenAt(total - 1) - 1;
  for (let index = 0; index < total; index += 1) {
    const token = tokenAt(index);
    shares[words[2 * index] & 0xffff] += token - before;
    before = token;
  }
  return { largest: Math.max(...shares) * count, buildMs };
}

const rows = [];
for (const tokens of tokenCounts) {
  for (const members of [3, 8, 64, 1000]) {
    const rings = Array.from({ length: Number(options.rings) }, (_, ring) => measureRing(members, tokens, ring));
    const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
    const largest = rings.map((ring) => ring.largest);
    rows.push({
      tokens,
      members,
      largestMean: mean(largest),
      largestWorst: Math.max(...largest),
      buildMs: mean(rings.map((ring) => ring.buildMs)),
    });
  }
}

if (options.json) {
  process.stdout.write(`${JSON.stringify({ rows }, undefined, 2)}\n`);
} else {
  process.stdout.write("tokens  members  largest share  worst    build ms\n");
  for (const { tokens, members, largestMean, largestWorst, buildMs } of rows) {
    const cells = [String(tokens).padStart(6), String(members).padStart(7), largestMean.toFixed(4).padStart(13)];
    process.stdout.write(
      `${[...cells, largestWorst.toFixed(4).padStart(6), buildMs.toFixed(1).padStart(9)].join("  ")}\n`,
    );
  }
}
