/**
 * Goal: the module is pure and safe to feed. Method: look at its imports, repeat a whole history on two instances and
 * compare bytes, and give every call damaged input.
 */
import { createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import { StatusCode } from "../../../src/base/errors.js";
import { createDecisions, encodeCommits, encodeKeys, type KeyBatch } from "../../../src/decision/index.js";
import { instantiateDecisions, loadDecisionModule } from "../../../src/decision/module.js";
import { createRandom, expectRaises, makeBatch, testSeed } from "./support.js";

describe("module", () => {
  test("imports nothing", () => {
    expect(WebAssembly.Module.imports(loadDecisionModule())).toEqual([]);
  });

  test("hashes as XXH64 does", () => {
    const wasm = instantiateDecisions();
    const known: [string, bigint][] = [
      ["", 0xef46db3751d8e999n],
      ["a", 0xd24ec4f1a98c6e5bn],
      ["abc", 0x44bc2cf5ad770999n],
      ["Nobody inspects the spammish repetition", 0xfbcea83c8a378bf1n],
    ];
    for (const [text, expected] of known) {
      const bytes = Buffer.from(text);
      const pointer = wasm.begin(bytes.byteLength) >>> 0;
      new Uint8Array(wasm.memory.buffer).set(bytes, pointer);
      expect(BigInt.asUintN(64, wasm.hash(pointer, bytes.byteLength)), JSON.stringify(text)).toBe(expected);
    }
  });

  test("hashes as XXH64 does with a seed", () => {
    // Of the C library: XXH64(text, bytes, seed).
    const known: [string, bigint, bigint][] = [
      ["", 1n, 0xd5afba1336a3be4bn],
      ["abc", 1n, 0xbea9ca8199328908n],
      ["abc", (1n << 64n) - 1n, 0x28306e589cc02176n],
      ["Nobody inspects the spammish repetition", 0xfedcba9876543210n, 0x1f388689baf899c2n],
    ];
    for (const [text, seed, expected] of known) {
      const wasm = instantiateDecisions();
      wasm.setHashSeed(seed);
      const bytes = Buffer.from(text);
      const pointer = wasm.begin(bytes.byteLength) >>> 0;
      new Uint8Array(wasm.memory.buffer).set(bytes, pointer);
      expect(BigInt.asUintN(64, wasm.hash(pointer, bytes.byteLength)), JSON.stringify(text)).toBe(expected);
    }
  });

  test("answers do not depend on the hash seed, and the ring does not either", () => {
    const keys = makeBatch(0, 5_000);
    const records = encodeCommits(
      Array.from({ length: 5_000 }, (_, slot) => ({ generation: 1n, bytes: 1n, slot, member: 1 })),
    );
    const answers = [undefined, 0n, 1n, (1n << 64n) - 1n].map((hashSeed) => {
      const decisions = createDecisions(hashSeed === undefined ? {} : { hashSeed });
      decisions.setRing([1, 2, 3].map((id) => ({ id, weight: 1, name: `member-${id}` })));
      const { directory } = decisions;
      const fault = decisions.validateKeys(encodeKeys(["a", "b", "a"]), "strict", 10);
      const commit = directory.commit(keys, records, 0);
      const foreign = directory.forgetForeign(2);
      return { fault, commit, foreign, owners: decisions.ownersOf(keys), lookup: directory.lookup(keys) };
    });
    expect(answers[0]?.fault).toEqual({ index: 2, reason: "duplicate", detail: 0 });
    expect(answers[0]?.foreign).toBeGreaterThan(2_000);
    for (const answer of answers) expect(answer).toEqual(answers[0]);
  });

  test("the hash seed is refused once keys are in the directory", () => {
    const wasm = instantiateDecisions();
    const key = encodeKeys(["a"]);
    const at = wasm.begin(64) >>> 0;
    const memory = new Uint8Array(wasm.memory.buffer);
    memory.set(key, at);
    memory.set(encodeCommits([{ generation: 1n, bytes: 1n, slot: 0, member: 1 }]), at + 32);
    expect(wasm.commit(at, key.byteLength, at + 32, 24, 0, 0)).toBe(0);
    expect(() => wasm.setHashSeed(1n)).toThrow(/unreachable/);
  });

  test("the same calls give the same bytes", () => {
    const seed = testSeed();
    const history = (): string => {
      const random = createRandom(seed);
      const decisions = createDecisions();
      const digest = createHash("sha256");
      const output = { push: (...results: Uint8Array[]) => results.forEach((result) => void digest.update(result)) };
      for (let step = 0; step < 200; step += 1) {
        const count = 1 + random.below(50);
        const keys = makeBatch(random.below(500), count);
        const commits = Array.from({ length: count }, () => ({
          generation: BigInt(1 + random.below(100)),
          bytes: BigInt(random.below(1000)),
          slot: random.below(100),
          member: 1 + random.below(4),
        }));
        const { directory } = decisions;
        decisions.setRing([1, 2, 3].map((id) => ({ id, weight: random.below(3), name: `member-${id}` })));
        output.push(directory.reserve(keys, 0), directory.commit(keys, encodeCommits(commits), random.pick([0, 1, 2])));
        output.push(directory.lookup(keys), new Uint8Array(decisions.ownersOf(keys).buffer));
        output.push(
          directory.announce(keys, encodeCommits(commits)),
          directory.remove(makeBatch(random.below(500), 10)),
        );
      }
      return digest.digest("hex");
    };
    expect(history()).toBe(history());
  });

  test("views survive growing memory, and results stay valid afterwards", () => {
    const decisions = createDecisions();
    decisions.setRing([{ id: 7, weight: 1, name: "only" }]);
    const small = decisions.ownersOf(encodeKeys(["a"]));
    const large = decisions.ownersOf(makeBatch(0, 100_000, 200));
    expect(small).toEqual(Uint32Array.of(7));
    expect(large.length).toBe(100_000);
    expect(new Set(large)).toEqual(new Set([7]));
  });
});

/** Every call that takes a KeyBatch; each has to refuse a damaged one and stay usable. */
const calls: [string, (keys: KeyBatch) => unknown][] = [];
{
  const decisions = createDecisions();
  const { directory } = decisions;
  const records = (keys: KeyBatch, bytes: number): Uint8Array =>
    new Uint8Array(
      bytes *
        Math.min(1000, new DataView(keys.buffer).byteLength >= 4 ? new DataView(keys.buffer).getUint32(0, true) : 0),
    );
  calls.push(["ownersOf", (keys) => decisions.ownersOf(keys)]);
  calls.push(["groupByOwner", (keys) => decisions.groupByOwner(keys)]);
  calls.push(["reserve", (keys) => directory.reserve(keys, 0)]);
  calls.push(["commit", (keys) => directory.commit(keys, records(keys, 24), 0)]);
  calls.push(["lookup", (keys) => directory.lookup(keys)]);
  calls.push(["remove", (keys) => directory.remove(keys)]);
  calls.push(["announce", (keys) => directory.announce(keys, records(keys, 24))]);
  calls.push(["forgetLocations", (keys) => directory.forgetLocations(keys, records(keys, 64))]);
}

/** A good batch of three keys with one u32 overwritten. */
function damaged(offset: number, value: number): KeyBatch {
  const batch = encodeKeys(["first", "second", "third"]);
  new DataView(batch.buffer).setUint32(offset, value, true);
  return batch;
}

const damagedBatches: [string, KeyBatch][] = [
  ["no bytes", new Uint8Array(0)],
  ["half a header", new Uint8Array(4)],
  ["count too high", damaged(0, 4)],
  ["count too low", damaged(0, 2)],
  ["count that overflows", damaged(0, 0x40000000)],
  ["largest count", damaged(0, 0xffffffff)],
  ["key bytes too many", damaged(4, 17)],
  ["key bytes that overflow", damaged(4, 0xfffffff0)],
  ["end below the one before", damaged(12, 4)],
  ["end above the bytes", damaged(12, 17)],
  ["last end below the bytes", damaged(16, 15)],
  ["last end above the bytes", damaged(16, 0xffffffff)],
  ["cut off", encodeKeys(["first", "second"]).slice(0, -8)],
  ["bytes behind its end", new Uint8Array([...encodeKeys(["first"]), 0, 0, 0, 0, 0, 0, 0, 0])],
  ["padding missing", encodeKeys(["first"]).slice(0, -3)],
];

describe.each(damagedBatches)("a batch with %s", (_, batch) => {
  test.each(calls)("is refused by %s", (_name, call) => {
    expectRaises(() => call(batch), StatusCode.INVALID, /^The key batch is damaged: .* Check that all processes/);
  });

  test("is a fault of validateKeys", () => {
    const fault = createDecisions().validateKeys(batch, "strict", 10_000);
    expect(fault).toEqual({ index: -1, reason: "malformed-batch", detail: batch.byteLength });
  });
});

test("random bytes never trap", () => {
  const random = createRandom(testSeed());
  let refused = 0;
  for (let round = 0; round < 20_000; round += 1) {
    const batch = encodeKeys(
      Array.from({ length: random.below(6) }, (_, index) => `key-${index}`.repeat(random.below(4))),
    );
    for (let changes = random.below(4); changes > 0; changes -= 1) {
      batch[random.below(batch.byteLength)] = random.pick([0, 1, 4, 127, 128, 255]);
    }
    const fault = createDecisionsOnce().validateKeys(batch, "extended", 100);
    refused += fault?.reason === "malformed-batch" ? 1 : 0;
    if (fault?.reason !== "malformed-batch") {
      expect(createDecisionsOnce().ownersOf(batch).length).toBe(new DataView(batch.buffer).getUint32(0, true));
    }
  }
  expect(refused).toBeGreaterThan(1000);
});

let once: ReturnType<typeof createDecisions> | undefined;
function createDecisionsOnce(): ReturnType<typeof createDecisions> {
  once ??= createDecisions();
  return once;
}

test("records that are not one a key are refused, and nothing is done", () => {
  const { directory } = createDecisions();
  const keys = encodeKeys(["a", "b"]);
  for (const bytes of [0, 24, 47, 49, 72]) {
    const records = new Uint8Array(bytes);
    expectRaises(() => directory.commit(keys, records, 0), StatusCode.INVALID, /not one for each key/);
    expectRaises(() => directory.announce(keys, records), StatusCode.INVALID, /not one for each key/);
  }
  expectRaises(() => directory.forgetLocations(keys, new Uint8Array(64)), StatusCode.INVALID, /not one for each key/);
  expect(directory.stats().keys).toBe(0);
});
