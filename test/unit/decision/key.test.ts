/**
 * Goal: exactly the keys of docs/API.md are allowed, and the first fault is named. Method: tables of every limit below,
 * at and above; all 256 bytes at several places of a key; keys of tenants; random batches against a simple model.
 */
import { describe, expect, test } from "vitest";
import {
  createDecisions,
  encodeKeys,
  type KeyBatch,
  type KeyFault,
  type KeyOrigin,
  type KeyRule,
} from "../../../src/decision/index.js";
import { keyBatchBytes } from "../../../src/decision/layout.js";
import { createRandom, makeBatch, testSeed } from "./support.js";

const decisions = createDecisions();
const STRICT = new Set(Buffer.from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_!@#%^*()+=:;"));
const ALLOWED: Record<KeyRule, Set<number>> = { strict: STRICT, extended: new Set([...STRICT, 0x2e]) };
const BYTES_MAX: Record<KeyRule, number> = { strict: 255, extended: 1024 };
const RULES: KeyRule[] = ["strict", "extended"];

/** A batch of raw bytes. */
function batchOf(keys: readonly Uint8Array[]): KeyBatch {
  const keyBytes = keys.reduce((sum, key) => sum + key.byteLength, 0);
  const batch = new Uint8Array(keyBatchBytes(keys.length, keyBytes));
  const view = new DataView(batch.buffer);
  view.setUint32(0, keys.length, true);
  view.setUint32(4, keyBytes, true);
  let end = 0;
  for (const [index, key] of keys.entries()) {
    batch.set(key, 8 + 4 * keys.length + end);
    end += key.byteLength;
    view.setUint32(8 + 4 * index, end, true);
  }
  return batch;
}

describe.each(RULES)("rule %s", (rule) => {
  test("decides about each of the 256 bytes, wherever it stands", () => {
    for (const length of [1, 2, 15, 16, 17, 33, 64]) {
      for (const place of new Set([0, length >> 1, length - 1])) {
        for (let byte = 0; byte < 256; byte += 1) {
          const key = new Uint8Array(length).fill(0x78);
          key[place] = byte;
          const fault = decisions.validateKeys(batchOf([Buffer.from("first"), key]), rule, 10);
          const expected = ALLOWED[rule].has(byte) ? undefined : { index: 1, reason: "forbidden-byte", detail: byte };
          expect(fault, `byte ${byte} at ${place} of ${length}`).toEqual(expected);
        }
      }
    }
  });

  test.each([
    ["1 byte", 1, undefined],
    ["one below the limit", BYTES_MAX[rule] - 1, undefined],
    ["the limit", BYTES_MAX[rule], undefined],
    ["one above the limit", BYTES_MAX[rule] + 1, "too-long"],
    ["far above the limit", 100_000, "too-long"],
  ])("a key of %s", (_, length, reason) => {
    const fault = decisions.validateKeys(encodeKeys(["a", "x".repeat(length)]), rule, 10);
    expect(fault).toEqual(reason === undefined ? undefined : { index: 1, reason, detail: length });
  });

  test("an empty key, first, in the middle and last", () => {
    for (const index of [0, 1, 2]) {
      const keys = ["a", "b", "c"];
      keys[index] = "";
      expect(decisions.validateKeys(encodeKeys(keys), rule, 10)).toEqual({ index, reason: "empty", detail: 0 });
    }
  });
});

describe("a batch", () => {
  test.each([
    [9_999, undefined],
    [10_000, undefined],
    [10_001, { index: -1, reason: "too-many", detail: 10_001 }],
  ])("of %i keys where 10,000 are allowed", (count, expected) => {
    expect(decisions.validateKeys(makeBatch(0, count), "strict", 10_000)).toEqual(expected);
  });

  test("of 100,000 keys where as many are allowed", () => {
    expect(decisions.validateKeys(makeBatch(0, 100_000), "strict", 100_000)).toBeUndefined();
  });

  test("of no keys", () => {
    expect(decisions.validateKeys(encodeKeys([]), "strict", 10)).toEqual({ index: -1, reason: "none", detail: 0 });
  });

  test("with a key twice names the second, and the first in detail", () => {
    const fault = decisions.validateKeys(encodeKeys(["a", "b", "c", "b", "a"]), "strict", 10);
    expect(fault).toEqual({ index: 3, reason: "duplicate", detail: 1 });
  });

  test("with keys that only begin alike has no duplicate", () => {
    const keys = ["a", "aa", "aaa", "aaaaaaaa", "aaaaaaaaa", "aaaaaaab", "baaaaaaa"];
    expect(decisions.validateKeys(encodeKeys(keys), "strict", 10)).toBeUndefined();
  });

  test.each<[string[], KeyFault]>([
    [["a", "a", "b c"], { index: 1, reason: "duplicate", detail: 0 }],
    [["a", "b c", "a"], { index: 1, reason: "forbidden-byte", detail: 0x20 }],
    [["b c", "b c"], { index: 0, reason: "forbidden-byte", detail: 0x20 }],
    [["a", "", "", "a"], { index: 1, reason: "empty", detail: 0 }],
    [["a", `${"x".repeat(300)} `], { index: 1, reason: "too-long", detail: 301 }],
  ])("with several faults tells the first: %j", (keys, expected) => {
    expect(decisions.validateKeys(encodeKeys(keys), "strict", 10)).toEqual(expected);
  });
});

const TENANT = "0123456789abcdef\x1f";
const END = { reason: "forbidden-byte", detail: 0x1f } as const;

describe.each(RULES)("keys with a tenant under rule %s", (rule) => {
  test.each<[string, string, Omit<KeyFault, "index"> | undefined]>([
    ["the shortest", `${TENANT}a`, undefined],
    ["the longest", `${TENANT}${"x".repeat(BYTES_MAX[rule])}`, undefined],
    [
      "one too long",
      `${TENANT}${"x".repeat(BYTES_MAX[rule] + 1)}`,
      { reason: "too-long", detail: BYTES_MAX[rule] + 1 },
    ],
    ["an empty one", TENANT, { reason: "empty", detail: 0 }],
    ["a forbidden byte", `${TENANT}a b`, { reason: "forbidden-byte", detail: 0x20 }],
    ["a second end", `${TENANT}\x1fa`, END],
    ["a second tenant", `${TENANT}${TENANT}a`, END],
    ["an end in the key", `${TENANT}a\x1fb`, END],
    ["15 digits", `${TENANT.slice(1)}a`, END],
    ["17 digits", `0${TENANT}a`, END],
    ["upper case", "0123456789abcdeF\x1fa", END],
    ["a letter that is no digit", "0123456789abcdeg\x1fa", END],
    ["the byte below 0", "0123456789abcde/\x1fa", { reason: "forbidden-byte", detail: 0x2f }],
    ["the byte above 9", "0123456789abcde:\x1fa", END],
    ["the byte below a", "0123456789abcde`\x1fa", { reason: "forbidden-byte", detail: 0x60 }],
    ["no tenant but the end", "\x1fa", END],
    ["only an end", "\x1f", END],
    ["digits only, which are a key", TENANT.slice(0, 16), undefined],
  ])("%s", (_, key, fault) => {
    const expected = fault === undefined ? undefined : { index: 1, ...fault };
    expect(decisions.validateKeys(encodeKeys(["first", key, "last"]), rule, 10)).toEqual(expected);
    expect(decisions.validateKeys(encodeKeys(["first", key, "last"]), rule, 10, "sidecar")).toEqual(expected);
    if (key.includes("\x1f")) {
      const refused = decisions.validateKeys(encodeKeys(["first", key, "last"]), rule, 10, "user");
      expect(refused).toMatchObject({ index: 1, reason: expect.stringMatching(/^(forbidden-byte|too-long)$/) });
    }
  });

  test("of two tenants, and of none, are different; of one tenant, the same", () => {
    const keys = ["a", `${TENANT}a`, `${TENANT.replace("0", "1")}a`];
    expect(decisions.validateKeys(encodeKeys(keys), rule, 10)).toBeUndefined();
    const fault = decisions.validateKeys(encodeKeys([...keys, `${TENANT}a`]), rule, 10);
    expect(fault).toEqual({ index: 3, reason: "duplicate", detail: 1 });
  });

  test("each of the 256 bytes at each place of the tenant", () => {
    for (let place = 0; place < 17; place += 1) {
      for (let byte = 0; byte < 256; byte += 1) {
        const key = Buffer.from(`${TENANT}key`);
        key[place] = byte;
        const isGood =
          place === 16 ? byte === 0x1f || ALLOWED[rule].has(byte) : /[0-9a-f]/.test(String.fromCharCode(byte));
        const first = ALLOWED[rule].has(byte) ? 0x1f : byte;
        const expected = isGood ? undefined : { index: 0, reason: "forbidden-byte", detail: first };
        expect(decisions.validateKeys(batchOf([key]), rule, 10), `byte ${byte} at ${place}`).toEqual(expected);
      }
    }
  });
});

function withoutTenant(key: string): string {
  return key[16] === "\x1f" && /^[0-9a-f]{16}$/.test(key.slice(0, 16)) ? key.slice(17) : key;
}

/** What validateKeys promises, said as simply as possible. */
function model(keys: readonly string[], rule: KeyRule, origin: KeyOrigin): KeyFault | undefined {
  const seen = new Map<string, number>();
  for (const [index, key] of keys.entries()) {
    const bytes = Buffer.from(origin === "user" ? key : withoutTenant(key));
    const forbidden = bytes.find((byte) => !ALLOWED[rule].has(byte));
    const before = seen.get(key);
    if (bytes.length === 0) return { index, reason: "empty", detail: 0 };
    if (bytes.length > BYTES_MAX[rule]) return { index, reason: "too-long", detail: bytes.length };
    if (forbidden !== undefined) return { index, reason: "forbidden-byte", detail: forbidden };
    if (before !== undefined) return { index, reason: "duplicate", detail: before };
    seen.set(key, index);
  }
  return undefined;
}

test("random batches agree with the model", () => {
  const random = createRandom(testSeed());
  const letters = [..."abcdefgh0123-_!@#%^*()+=:;"];
  const prefixes = [TENANT, "ffffffffffffffff\x1f", "0123456789abcdeF\x1f", "0123\x1f", "\x1f", `${TENANT}${TENANT}`];
  const found = new Map<string, number>();
  for (let round = 0; round < 5_000; round += 1) {
    const keys = Array.from({ length: 1 + random.below(40) }, () => {
      const length = random.below(200) === 0 ? random.pick([0, 1, 254, 255, 256, 1024, 1025]) : 2 + random.below(30);
      const key = Array.from({ length }, () => random.pick(letters)).join("");
      const tenant = random.below(80) === 0 ? random.pick(prefixes) : "";
      const bad = random.below(150) === 0 ? random.pick([" ", ".", "é", "\u0000", "/", "\x1f"]) : "";
      return bad === "" ? `${tenant}${key}` : `${tenant}${key}${bad}${key}`;
    });
    // Half of the rounds are one tenant's.
    const tenants = random.below(2) === 0;
    for (const [index, key] of keys.entries()) if (tenants && !key.includes("\x1f")) keys[index] = `${TENANT}${key}`;
    if (random.below(8) === 0) {
      keys.push(random.pick(keys));
    }
    const rule = random.pick(RULES);
    for (const origin of ["sidecar", "user"] as const) {
      const expected = model(keys, rule, origin);
      expect(decisions.validateKeys(encodeKeys(keys), rule, 100, origin)).toEqual(expected);
      const reason = `${tenants ? "tenant" : "plain"} ${origin} ${expected?.reason ?? "good"}`;
      found.set(reason, (found.get(reason) ?? 0) + 1);
    }
  }
  // The rounds met everything that they are meant to meet.
  for (const round of ["plain sidecar", "plain user", "tenant sidecar"]) {
    for (const reason of ["duplicate", "empty", "forbidden-byte", "good", "too-long"]) {
      expect(found.get(`${round} ${reason}`), `${round} ${reason}`).toBeGreaterThan(0);
    }
  }
});
