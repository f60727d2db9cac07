/**
 * Goal: records are written and read as layout.h draws them. Method: worked examples in bytes, round trips, each limit.
 */
import { describe, expect, test } from "vitest";
import { StatusCode } from "../../../src/base/errors.js";
import * as layout from "../../../src/decision/layout.js";
import { expectRaises } from "./support.js";

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");

describe("KeyBatch", () => {
  test("the example of the file's head", () => {
    expect(hex(layout.encodeKeys(["a", "bcd"]))).toBe("0200000004000000" + "0100000004000000" + "6162636400000000");
  });

  test.each([
    ["none", []],
    ["one", ["key"]],
    ["an empty one", ["", "a", ""]],
    ["characters of 1, 2, 3 and 4 bytes", ["a", "é", "€", "𝄞", "aé€𝄞"]],
    ["a last one that needs more bytes than units", ["aaaaaaaaaa", "€€€€€€€€€€"]],
  ])("keeps keys: %s", (_, keys) => {
    const batch = layout.encodeKeys(keys);
    expect(batch.byteLength % 8).toBe(0);
    expect(layout.decodeKeys(batch)).toEqual(keys);
    const exact = 8 + 4 * keys.length + Buffer.byteLength(keys.join(""));
    expect(batch.byteLength).toBe(Math.ceil(exact / 8) * 8);
    expect([...batch.subarray(exact)].every((byte) => byte === 0)).toBe(true);
  });

  test("selects keys in the order given", () => {
    const batch = layout.encodeKeys(["zero", "one", "", "three"]);
    expect(layout.selectKeys(batch, [3, 0, 2])).toEqual(layout.encodeKeys(["three", "zero", ""]));
    expect(layout.selectKeys(batch, [])).toEqual(layout.encodeKeys([]));
  });

  test("that is damaged is refused by the reader", () => {
    const batch = layout.encodeKeys(["first", "second"]);
    expectRaises(() => layout.decodeKeys(batch.subarray(0, 7)), StatusCode.INVALID, /7 bytes, less than its header/);
    expectRaises(() => layout.decodeKeys(batch.subarray(0, 12)), StatusCode.INVALID, /tells of 2 keys/);
    expectRaises(() => layout.decodeKey(batch, 2), StatusCode.INVALID, /2 keys and key 2 was asked for/);
    const broken = batch.slice();
    layout.viewOf(broken).setUint32(12, 1000, true);
    expectRaises(() => layout.decodeKeys(broken), StatusCode.INVALID, /key 1 lies outside/);
  });
});

test.each<[string, string | undefined, string]>([
  ["key", undefined, "key"],
  ["", undefined, ""],
  ["0123456789abcdef", undefined, "0123456789abcdef"],
  ["0123456789abcdef\x1fkey", "0123456789abcdef", "key"],
  ["0123456789abcdef\x1f", "0123456789abcdef", ""],
  ["0123456789abcdef\x1fa\x1fb", "0123456789abcdef", "a\x1fb"],
  ["0123456789abcdeF\x1fkey", undefined, "0123456789abcdeF\x1fkey"],
  ["0123456789abcde\x1fkeykey", undefined, "0123456789abcde\x1fkeykey"],
  ["00123456789abcdef\x1fkey", undefined, "00123456789abcdef\x1fkey"],
])("splitTenant(%j)", (whole, tenant, key) => {
  expect(layout.splitTenant(whole)).toEqual({ tenant, key });
});

const LARGE = 0xfedcba9876543210n;

describe("records", () => {
  test("ResultRecord: every field where layout.h puts it", () => {
    const record = {
      code: StatusCode.TRY_AGAIN,
      existed: true,
      otherFamily: true,
      generation: LARGE,
      bytes: 3n,
      family: 2,
      locations: [
        { member: 1, slot: 2 },
        { member: 65535, slot: 0xffffffff },
      ],
    };
    const bytes = layout.encodeResults([record]);
    expect(hex(bytes)).toBe(
      "13000000" +
        "03000000" +
        "1032547698badcfe" +
        "0300000000000000" +
        "02000000" +
        "02000000" +
        "01000000" +
        "02000000" +
        "ffff0000" +
        "ffffffff" +
        "00".repeat(16),
    );
    expect(layout.decodeResults(bytes)).toEqual([record]);
  });

  test("CommitRecord", () => {
    const record = { generation: LARGE, bytes: 3n, slot: 0xffffffff, member: 7 };
    const bytes = layout.encodeCommits([record, record]);
    expect(hex(bytes.subarray(24))).toBe("1032547698badcfe" + "0300000000000000" + "ffffffff" + "07000000");
    expect(layout.decodeCommits(bytes)).toEqual([record, record]);
    layout.fillMember(bytes, 9);
    expect(layout.decodeCommits(bytes).map(({ member }) => member)).toEqual([9, 9]);
  });

  test("SliceRecord", () => {
    const record = { keyIndex: 1, member: 2, lane: 3, firstBlob: 4, offset: LARGE, bytes: 5n };
    const bytes = new Uint8Array(32);
    layout.writeSlice(bytes, 0, record);
    expect(hex(bytes)).toBe(
      "01000000" + "02000000" + "03000000" + "04000000" + "1032547698badcfe" + "0500000000000000",
    );
    expect(layout.decodeSlices(bytes)).toEqual([record]);
  });

  test("HeldObject", () => {
    const bytes = layout.encodeHeld([{ generation: LARGE, slot: 6 }]);
    expect(hex(bytes)).toBe("1032547698badcfe" + "06000000" + "00000000");
    expect(layout.decodeHeld(bytes)).toEqual([{ generation: LARGE, slot: 6 }]);
  });

  test("read from a view that does not begin at 0", () => {
    const inner = layout.encodeHeld([{ generation: 1n, slot: 2 }]);
    const outer = new Uint8Array(40);
    outer.set(inner, 5);
    expect(layout.readHeld(outer.subarray(5, 21), 0)).toEqual({ generation: 1n, slot: 2 });
  });

  test("that are not whole, or not there", () => {
    expectRaises(
      () => layout.decodeResults(new Uint8Array(65)),
      StatusCode.INVALID,
      /65 bytes are no whole number of 64-byte records/,
    );
    expectRaises(
      () => layout.readCommit(new Uint8Array(24), 1),
      StatusCode.OUT_OF_RANGE,
      /Record 1 was asked for, and there are 1/,
    );
    const five = {
      code: 0,
      existed: false,
      otherFamily: false,
      generation: 1n,
      bytes: 1n,
      family: 0,
      locations: Array.from({ length: 5 }, () => ({ member: 1, slot: 1 })),
    };
    expectRaises(() => layout.encodeResults([five]), StatusCode.OUT_OF_RANGE, /at most 4 locations, not 5/);
  });
});
