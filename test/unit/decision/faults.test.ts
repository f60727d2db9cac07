/**
 * Goal: a refused key is explained with key, cause and remedy. Method: a table of each fault and its exact sentence.
 */
import { expect, test } from "vitest";
import { createDecisions, describeKeyFault, encodeKeys, faultyKey, type KeyRule } from "../../../src/decision/index.js";

const decisions = createDecisions();
const STRICT_TEXT = "letters, digits and - _ ! @ # % ^ * ( ) + = : ;";

const table: [string[], KeyRule, number, string][] = [
  [["a", ""], "strict", 10, "Key number 2 of the call is empty. A key has at least 1 byte."],
  [
    ["a b"],
    "strict",
    10,
    `Key "a b" (number 1 of the call) contains a space (byte 0x20). The key rule "strict" allows ${STRICT_TEXT}. Replace or encode it.`,
  ],
  [
    ["ok", "model.layer"],
    "strict",
    10,
    `Key "model.layer" (number 2 of the call) contains "." (byte 0x2e). The key rule "strict" allows ${STRICT_TEXT}. To use ".", start the cluster with the key rule "extended".`,
  ],
  [
    ["a/b"],
    "extended",
    10,
    `Key "a/b" (number 1 of the call) contains "/" (byte 0x2f). The key rule "extended" allows letters, digits and . - _ ! @ # % ^ * ( ) + = : ;. Replace or encode it.`,
  ],
  [
    ["a\nb"],
    "strict",
    10,
    `Key "a\\nb" (number 1 of the call) contains the control byte 0x0a. The key rule "strict" allows ${STRICT_TEXT}. Replace or encode it.`,
  ],
  [
    ["é"],
    "strict",
    10,
    `Key "é" (number 1 of the call) contains the byte 0xc3, which is not ASCII. The key rule "strict" allows ${STRICT_TEXT}. Replace or encode it.`,
  ],
  [
    ["x".repeat(256)],
    "strict",
    10,
    `Key "${"x".repeat(64)}..." (number 1 of the call) has 256 bytes. The key rule "strict" allows at most 255: shorten the key, or start the cluster with the key rule "extended", which allows 1024.`,
  ],
  [
    ["x".repeat(1025)],
    "extended",
    10,
    `Key "${"x".repeat(64)}..." (number 1 of the call) has 1025 bytes. The key rule "extended" allows at most 1024: shorten the key.`,
  ],
  [
    ["a", "b", "a"],
    "strict",
    10,
    'Key "a" (number 3 of the call) is the same as key number 1. Name each key once in a call.',
  ],
  [["a", "b", "c"], "strict", 2, "The call has 3 keys, more than one call may have. Split it into smaller calls."],
  [[], "strict", 10, "The call has no keys. Give at least one."],
];

test.each(table)("%j under %s", (keys, rule, keysMax, sentence) => {
  const batch = encodeKeys(keys);
  const fault = decisions.validateKeys(batch, rule, keysMax);
  if (fault === undefined) {
    throw new Error("a fault was expected");
  }
  expect(describeKeyFault(fault, keys, rule)).toBe(sentence);
  expect(describeKeyFault(fault, batch, rule)).toBe(sentence);
  expect(faultyKey(fault, keys)).toBe(fault.index < 0 ? undefined : keys[fault.index]);
});

test("a tenant is not shown, nor counted in the length", () => {
  const tenant = "0123456789abcdef\x1f";
  const cases: [string, string, RegExp][] = [
    [`${tenant}a b`, "a b", /^Key "a b" \(number 1 of the call\) contains a space/],
    [`${tenant}${"x".repeat(256)}`, "x".repeat(256), /^Key "x+\.\.\." \(number 1 of the call\) has 256 bytes/],
    [tenant, "", /^Key number 1 of the call is empty/],
    [`${tenant}a\x1fb`, "a\x1fb", /^Key "a\\u001fb" \(number 1 of the call\) contains the control byte 0x1f/],
  ];
  for (const [whole, key, sentence] of cases) {
    const batch = encodeKeys([whole]);
    const fault = decisions.validateKeys(batch, "strict", 10);
    if (fault === undefined) {
      throw new Error("a fault was expected");
    }
    expect(describeKeyFault(fault, batch, "strict")).toMatch(sentence);
    expect(describeKeyFault(fault, [whole], "strict")).toMatch(sentence);
    expect(faultyKey(fault, batch)).toBe(key);
  }
});

test("a damaged batch", () => {
  const fault = decisions.validateKeys(new Uint8Array(3), "strict", 10);
  expect(fault).toMatchObject({ reason: "malformed-batch" });
  expect(fault && describeKeyFault(fault, [], "strict")).toMatch(
    /^The key batch is damaged: .* same version of hbmesh\.$/,
  );
});
