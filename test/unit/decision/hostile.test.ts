/**
 * Goal: whatever bytes come into the Wasm module, each call ends with a code of its own: it never traps, never points
 * outside of its memory, and never changes what it was not asked to. Method: random records, near to good ones, into
 * every export, from a seed. Keys that no call names must stay as they were, byte for byte. An export that is in none
 * of the tables fails.
 */
import { beforeAll, describe, expect, it } from "vitest";
import { createSeededRandom } from "../../../src/base/random.js";
import { COMMIT_RECORD_BYTES, encodeCommits, encodeKeys, RESULT_RECORD_BYTES } from "../../../src/decision/index.js";
import { type DecisionExports, instantiateDecisions, loadDecisionModule } from "../../../src/decision/module.js";

const seed = Number(process.env["HBMESH_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
const { nextBelow } = createSeededRandom(seed);
const ROUNDS = 4_000;
const MEMORY_BYTES_MAX = 64 * 2 ** 20;
/** ok, malformed batch, malformed records, out of memory, bad argument: asm/layout.ts. */
const CALL_CODES_MAX = 4;
const CANARIES = Array.from({ length: 20 }, (_, index) => `canary-${index}`);
const CANARY_MEMBER = 60_000;

beforeAll(() => {
  console.log(`HBMESH_SEED=${seed}`);
});

type Call = (wasm: DecisionExports, put: Put) => number;
/** Places bytes in the input of a call, and returns where. */
type Put = (...inputs: Uint8Array[]) => number[];

/** Often small, sometimes at an edge, sometimes anything. */
function number(): number {
  const edges = [0, 1, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 8, 2 ** 32 - 1];
  return [
    () => nextBelow(8),
    () => nextBelow(100),
    () => edges[nextBelow(edges.length)] ?? 0,
    () => nextBelow(2 ** 32),
  ][nextBelow(4)]?.() as number;
}
const big = (): bigint => (BigInt(number()) << 32n) | BigInt(number());

/** With some bytes changed, cut off or added. */
function damaged(bytes: Uint8Array): Uint8Array {
  const copy = Uint8Array.from(bytes);
  for (let times = nextBelow(4); times > 0 && copy.byteLength > 0; times -= 1) {
    const view = new DataView(copy.buffer);
    if (nextBelow(2) === 0 && copy.byteLength >= 4) {
      view.setUint32(4 * nextBelow(Math.floor(copy.byteLength / 4)), number(), true);
    } else {
      copy[nextBelow(copy.byteLength)] = nextBelow(256);
    }
  }
  switch (nextBelow(8)) {
    case 0:
      return copy.subarray(0, nextBelow(copy.byteLength + 1));
    case 1:
      return Uint8Array.from([...copy, ...new Uint8Array(8 * nextBelow(3))]);
    default:
      return copy;
  }
}

const names = (): string[] => Array.from({ length: 1 + nextBelow(6) }, () => `key-${nextBelow(30)}`);
const keys = (): Uint8Array => damaged(encodeKeys([...new Set(names())]));
function commits(): Uint8Array {
  const record = () => ({ generation: big(), bytes: big(), slot: number(), member: 1 + nextBelow(9) });
  return damaged(encodeCommits(Array.from({ length: 1 + nextBelow(6) }, record)));
}
const noise = (bytes: number): Uint8Array => Uint8Array.from({ length: bytes }, () => nextBelow(256));
const results = (): Uint8Array => damaged(noise(RESULT_RECORD_BYTES * (1 + nextBelow(6))));
const family = (): number => nextBelow(5);

/** Calls that take bytes, and answer with a code. */
const calls: Record<string, Call> = {
  validateBatch: (wasm, put) => {
    const batch = keys();
    const [at] = put(batch) as [number];
    const reason = wasm.validateBatch(at, batch.byteLength, nextBelow(2), number(), nextBelow(2));
    expect(reason).toBeLessThanOrEqual(8);
    return 0;
  },
  reserve: (wasm, put) => {
    const batch = keys();
    const [at] = put(batch) as [number];
    return wasm.reserve(at, batch.byteLength, nextBelow(4), family());
  },
  lookup: (wasm, put) => {
    const batch = keys();
    const [at] = put(batch) as [number];
    return wasm.lookup(at, batch.byteLength, number(), number());
  },
  remove: (wasm, put) => {
    const batch = keys();
    const [at] = put(batch) as [number];
    return wasm.remove(at, batch.byteLength, family());
  },
  commit: (wasm, put) => {
    const [batch, records] = [keys(), commits()];
    const [at, recordsAt] = put(batch, records) as [number, number];
    return wasm.commit(at, batch.byteLength, recordsAt, records.byteLength, nextBelow(4), family());
  },
  announce: (wasm, put) => {
    const [batch, records] = [keys(), commits()];
    const [at, recordsAt] = put(batch, records) as [number, number];
    return wasm.announce(at, batch.byteLength, recordsAt, records.byteLength, family());
  },
  forgetLocations: (wasm, put) => {
    const [batch, records] = [keys(), results()];
    const [at, recordsAt] = put(batch, records) as [number, number];
    return wasm.forgetLocations(at, batch.byteLength, recordsAt, records.byteLength);
  },
  entomb: (wasm, put) => {
    const [batch, records] = [keys(), results()];
    const [at, recordsAt] = put(batch, records) as [number, number];
    return wasm.entomb(at, batch.byteLength, recordsAt, records.byteLength);
  },
  makePlan: (wasm, put) => {
    const counts = { keys: 1 + nextBelow(4), blobs: 1 + nextBelow(6) };
    const shape = new Uint8Array(8 * (counts.keys + counts.blobs));
    const view = new DataView(shape.buffer);
    for (let blob = 0; blob < counts.blobs; blob += 1) {
      view.setBigUint64(8 * blob, BigInt(1 + nextBelow(1_000_000)), true);
    }
    for (let key = 0; key < counts.keys; key += 1) {
      view.setUint32(8 * counts.blobs + 4 * key, 1 + nextBelow(5), true);
      const end = Math.floor(((key + 1) * counts.blobs) / counts.keys);
      view.setUint32(8 * counts.blobs + 4 * counts.keys + 4 * key, end, true);
    }
    const input = damaged(shape);
    const [at] = put(input) as [number];
    const sliceBytes = nextBelow(4) === 0 ? big() : BigInt(1_000 + nextBelow(1_000_000));
    return wasm.makePlan(at, input.byteLength, counts.keys, counts.blobs, sliceBytes, number());
  },
  setRing: (wasm, put) => {
    const count = nextBelow(6);
    const ring = new Uint8Array(24 * count);
    const view = new DataView(ring.buffer);
    for (let member = 0; member < count; member += 1) {
      // As in asm/hash-ring.ts: id, tokens, and where its name is.
      view.setUint32(16 * member, 1 + nextBelow(9), true);
      view.setUint32(16 * member + 4, nextBelow(2_000), true);
      view.setUint32(16 * member + 8, 8 * member, true);
      view.setUint32(16 * member + 12, 8, true);
    }
    const input = damaged(ring);
    const [at] = put(input) as [number];
    return wasm.setRing(at, input.byteLength, nextBelow(8) === 0 ? number() : count);
  },
  ...Object.fromEntries(
    (["ownersOfBatch", "keptOwnersOfBatch", "groupBatch"] as const).map((name): [string, Call] => [
      name,
      (wasm, put) => {
        const batch = keys();
        const [at] = put(batch) as [number];
        return wasm[name](at, batch.byteLength);
      },
    ]),
  ),
  placeMoves: (wasm, put) => {
    const counts = { objects: nextBelow(9), targets: nextBelow(4) };
    const input = damaged(noise(8 * (counts.objects + counts.targets)));
    const [at] = put(input) as [number];
    const place = (wasm as unknown as Record<string, (...args: number[]) => number>)["placeMoves"];
    return place?.(at, input.byteLength, nextBelow(9) === 0 ? number() : counts.objects, counts.targets) ?? 0;
  },
};

/** Calls with numbers alone. */
const numbers: Record<string, (wasm: DecisionExports) => unknown> = {
  isByteAllowed: (wasm) => wasm.isByteAllowed(nextBelow(2), number()),
  bytesMaxOf: (wasm) => wasm.bytesMaxOf(number()),
  forgetMember: (wasm) => wasm.forgetMember(nextBelow(4) === 0 ? 2 ** 31 + number() : nextBelow(10)),
  raiseGenerationTo: (wasm) => wasm.raiseGenerationTo(big()),
  setGenerationMember: (wasm) => wasm.setGenerationMember(number()),
};

/** Those that change all of the directory by the ring: not while there are canaries. */
const byRing: Record<string, (wasm: DecisionExports) => unknown> = {
  keepRing: (wasm) => wasm.keepRing(),
  forgetForeign: (wasm) => wasm.forgetForeign(1 + nextBelow(9)),
};

/** What the host alone decides, and results. */
const notForeign = new Set([
  ...["begin", "limitMemory", "setHashSeed", "hash", "memory", "tokensPerWeight"],
  ...["validateFaultIndex", "validateFaultDetail", "ringResult", "ringResultBytes", "ringGroupCount", "ringTokenCount"],
  ...["ringEntries", "planRecords", "planRecordCount", "planFault", "movesPlaces", "directoryResults", "directoryKeys"],
  ...["highestGeneration", "directoryObjectBytes", "directoryMemoryBytes", "directoryTombstones"],
]);

function putInto(wasm: DecisionExports): Put {
  return (...inputs) => {
    const padded = inputs.map((input) => (input.byteLength + 15) & ~15);
    let at = wasm.begin(padded.reduce((sum, bytes) => sum + bytes, 0)) >>> 0;
    expect(at).toBeGreaterThan(0);
    return inputs.map((input, index) => {
      new Uint8Array(wasm.memory.buffer).set(input, at);
      const placed = at;
      at += padded[index] ?? 0;
      return placed;
    });
  };
}

/** The results' places lie inside of the module's memory. */
function expectResultsInside(wasm: DecisionExports): void {
  const size = wasm.memory.buffer.byteLength;
  expect(size).toBeLessThanOrEqual(MEMORY_BYTES_MAX);
  expect((wasm.ringResult() >>> 0) + (wasm.ringResultBytes() >>> 0)).toBeLessThanOrEqual(size);
  expect(wasm.directoryResults() >>> 0).toBeLessThanOrEqual(size);
}

function lookUpCanaries(wasm: DecisionExports): string {
  const batch = encodeKeys(CANARIES);
  const [at] = putInto(wasm)(batch) as [number];
  expect(wasm.lookup(at, batch.byteLength, 0, 0)).toBe(0);
  const from = wasm.directoryResults() >>> 0;
  return Buffer.from(wasm.memory.buffer, from, CANARIES.length * RESULT_RECORD_BYTES).toString("hex");
}

function setCanaries(wasm: DecisionExports): string {
  const batch = encodeKeys(CANARIES);
  const member = (slot: number) => ({ generation: BigInt(1_000 + slot), bytes: 64n, slot, member: CANARY_MEMBER });
  const records = encodeCommits(CANARIES.map((_, index) => member(index)));
  expect(records.byteLength).toBe(CANARIES.length * COMMIT_RECORD_BYTES);
  const [at, recordsAt] = putInto(wasm)(batch, records) as [number, number];
  expect(wasm.announce(at, batch.byteLength, recordsAt, records.byteLength, 0)).toBe(0);
  return lookUpCanaries(wasm);
}

const pick = <Value>(table: Record<string, Value>): [string, Value] =>
  Object.entries(table)[nextBelow(Object.keys(table).length)] as [string, Value];

function attack(wasm: DecisionExports, round: number, ringToo: boolean): void {
  const [name, call] = pick(calls);
  const code = call(wasm, putInto(wasm));
  expect(code, `${name} in round ${round}, HBMESH_SEED=${seed}`).toBeLessThanOrEqual(CALL_CODES_MAX);
  expect(code).toBeGreaterThanOrEqual(0);
  if (nextBelow(8) === 0) {
    const [, other] = pick(ringToo && nextBelow(2) === 0 ? byRing : numbers);
    other(wasm);
  }
  expectResultsInside(wasm);
}

describe(`records that are not what they should be (HBMESH_SEED=${seed})`, () => {
  it("every export is in a table", () => {
    const known = new Set([...Object.keys(calls), ...Object.keys(numbers), ...Object.keys(byRing), ...notForeign]);
    const exports = WebAssembly.Module.exports(loadDecisionModule()).map(({ name }) => name);
    expect(exports.filter((name) => !known.has(name))).toEqual([]);
  });

  it("end with a code, and touch no key that they don't name", () => {
    const wasm = instantiateDecisions();
    wasm.limitMemory(BigInt(MEMORY_BYTES_MAX));
    const canaries = setCanaries(wasm);
    for (let round = 0; round < ROUNDS; round += 1) {
      attack(wasm, round, false);
      if (round % 50 === 0) {
        expect(lookUpCanaries(wasm), `round ${round}, HBMESH_SEED=${seed}`).toBe(canaries);
      }
    }
    expect(lookUpCanaries(wasm)).toBe(canaries);
  });

  it("nor with rings that come and go", () => {
    const wasm = instantiateDecisions();
    wasm.limitMemory(BigInt(MEMORY_BYTES_MAX));
    for (let round = 0; round < ROUNDS; round += 1) {
      attack(wasm, round, true);
    }
    expect(wasm.directoryKeys()).toBeLessThanOrEqual(ROUNDS * 6);
  });
});
