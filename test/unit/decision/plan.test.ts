/**
 * Goal: a plan reads every byte once, in slices that fit, spread evenly over lanes and sources. Method: worked
 * examples, and properties that hold for random requests.
 */
import { describe, expect, test } from "vitest";
import { StatusCode } from "../../../src/base/errors.js";
import { createDecisions, decodeSlices, type PlanRequest, type SliceRecord } from "../../../src/decision/index.js";
import { createRandom, expectRaises, testSeed } from "./support.js";

const decisions = createDecisions();

interface KeyShape {
  member: number;
  blobs: number[];
}

function request(keys: readonly KeyShape[], sliceBytesMax: number, lanes: number): PlanRequest {
  const blobEnds: number[] = [];
  let end = 0;
  for (const { blobs } of keys) {
    end += blobs.length;
    blobEnds.push(end);
  }
  return {
    members: Uint32Array.from(keys, ({ member }) => member),
    blobEnds: Uint32Array.from(blobEnds),
    blobSizes: BigUint64Array.from(keys.flatMap(({ blobs }) => blobs.map(BigInt))),
    sliceBytesMax,
    lanes,
  };
}

function plan(keys: readonly KeyShape[], sliceBytesMax: number, lanes: number): SliceRecord[] {
  return decodeSlices(decisions.plan(request(keys, sliceBytesMax, lanes)));
}

/** A slice in short: key.firstBlob @offset +bytes of member / lane. `firstBlob` counts over all keys. */
function brief({ keyIndex, firstBlob, offset, bytes, member, lane }: SliceRecord): string {
  return `${keyIndex}.${firstBlob} @${offset} +${bytes} of ${member}/${lane}`;
}

describe("examples", () => {
  test("small blobs share a slice that ends at a blob's end", () => {
    expect(plan([{ member: 1, blobs: [40, 40, 40, 10, 100] }], 100, 2).map(brief)).toEqual([
      "0.0 @0 +80 of 1/0",
      "0.2 @80 +50 of 1/1",
      "0.4 @130 +100 of 1/1",
    ]);
  });

  test("a blob larger than a slice is cut into even pieces of its own", () => {
    const slices = plan([{ member: 1, blobs: [10, 3 * 65_536 + 5, 10] }], 65_536, 1);
    expect(slices.map(({ bytes }) => Number(bytes))).toEqual([10, 53_248, 53_248, 53_248, 36_869, 10]);
    expect(slices.map(({ firstBlob }) => firstBlob)).toEqual([0, 1, 1, 1, 1, 2]);
  });

  test("a blob exactly as large as a slice is one slice, one byte more makes two", () => {
    expect(plan([{ member: 1, blobs: [1000] }], 1000, 1).length).toBe(1);
    expect(plan([{ member: 1, blobs: [1001] }], 1000, 1).map(({ bytes }) => Number(bytes))).toEqual([1000, 1]);
    expect(plan([{ member: 1, blobs: [999] }], 1000, 1).length).toBe(1);
  });

  const KB = 1024;

  test.each([
    // Four slices for each of the two lanes are as many as there have to be.
    { blobs: 8, largest: 100 },
    { blobs: 9, largest: 100 },
    { blobs: 16, largest: 200 },
    { blobs: 63, largest: 700 },
    { blobs: 64, largest: 800 },
    { blobs: 200, largest: 800 },
  ])("$blobs blobs of 100 KiB over 2 lanes, slices of 100 KiB or more: up to $largest KiB", ({ blobs, largest }) => {
    const slices = plan([{ member: 1, blobs: Array<number>(blobs).fill(100 * KB) }], 100 * KB, 2);
    expect(Math.max(...slices.map(({ bytes }) => Number(bytes))) / KB).toBe(largest);
    expect(slices.reduce((sum, { bytes }) => sum + Number(bytes), 0)).toBe(blobs * 100 * KB);
  });

  test("sizes that sum up to more than a number holds make the longest slices", () => {
    const keys = Array.from({ length: 600 }, () => ({ member: 1, blobs: [2 ** 55] }));
    const slices = plan(keys, 2 ** 50, 1);
    expect(new Set(slices.map(({ bytes }) => Number(bytes)))).toEqual(new Set([2 ** 53]));
  });

  test("slices of the sources alternate", () => {
    const keys = [
      { member: 5, blobs: [10, 10, 10] },
      { member: 9, blobs: [10] },
      { member: 5, blobs: [10] },
      { member: 7, blobs: [10, 10] },
    ];
    expect(plan(keys, 10, 2).map(({ member }) => member)).toEqual([5, 9, 7, 5, 7, 5, 5]);
  });

  test("no keys, and keys without blobs, make an empty plan", () => {
    expect(plan([], 10, 1)).toEqual([]);
    expect(plan([{ member: 1, blobs: [] }], 10, 1)).toEqual([]);
  });
});

describe("properties of random requests", () => {
  const random = createRandom(testSeed());
  const shapes = Array.from({ length: 300 }, () => {
    const sizeMax = random.pick([1, 100, 5_000, 100_000, 3_000_000]);
    const sources = 1 + random.below(5);
    const sliceBytesMax = random.pick([1_000, 4_096, 65_536, 1_000_000]);
    return {
      keys: Array.from({ length: random.below(30) }, () => ({
        member: 1 + random.below(sources) * 13_107,
        blobs: Array.from({ length: random.below(20) }, () => 1 + random.below(Math.min(sizeMax, 5 * sliceBytesMax))),
      })),
      sliceBytesMax,
      lanes: 1 + random.below(8),
    };
  });

  test.each(shapes)(
    "shape %#: covers each key once, within limits, lanes balanced",
    ({ keys, sliceBytesMax, lanes }) => {
      const slices = plan(keys, sliceBytesMax, lanes);
      const total = keys.reduce((sum, { blobs }) => blobs.reduce((part, size) => part + size, sum), 0);
      const share = Math.floor(Math.floor(total / lanes) / 4);
      checkCover(keys, slices, Math.min(Math.max(share, sliceBytesMax), 8 * sliceBytesMax));
      checkLanes(slices, lanes);
      checkInterleaving(slices);
    },
  );
});

/** As `expect(...).toBe(true)`, without its cost a call: the properties are checked some hundred thousand times. */
function check(holds: boolean): void {
  if (!holds) {
    expect.fail("the property does not hold; the stack tells which");
  }
}

/** Each key's slices follow each other without gap, know their blob, and end where a slice may end. */
function checkCover(keys: readonly KeyShape[], slices: readonly SliceRecord[], sliceBytesMax: number): void {
  let blobsBefore = 0;
  for (const [keyIndex, { member, blobs }] of keys.entries()) {
    const ends = new Set<number>();
    const large = new Set<number>();
    let end = 0;
    for (const [blob, size] of blobs.entries()) {
      end += size;
      ends.add(end);
      if (size > sliceBytesMax) large.add(blobsBefore + blob);
    }
    let at = 0;
    for (const slice of slices.filter((candidate) => candidate.keyIndex === keyIndex)) {
      const blob = slice.firstBlob - blobsBefore;
      const blobStart = blobs.slice(0, blob).reduce((sum, size) => sum + size, 0);
      check(slice.member === member);
      check(Number(slice.offset) === at);
      check(at >= blobStart);
      check(at < blobStart + (blobs[blob] as number));
      at += Number(slice.bytes);
      check(Number(slice.bytes) > 0);
      check(Number(slice.bytes) <= sliceBytesMax);
      check(ends.has(at) || large.has(slice.firstBlob));
      if (large.has(slice.firstBlob)) {
        check(at <= blobStart + (blobs[blob] as number));
      }
    }
    check(at === end);
    blobsBefore += blobs.length;
  }
}

/** Lanes of one source differ by no more than the largest slice. */
function checkLanes(slices: readonly SliceRecord[], lanes: number): void {
  for (const member of new Set(slices.map((slice) => slice.member))) {
    const loads = new Array<number>(lanes).fill(0);
    let largest = 0;
    for (const slice of slices) {
      if (slice.member === member) {
        check(slice.lane < lanes);
        loads[slice.lane] = (loads[slice.lane] as number) + Number(slice.bytes);
        largest = Math.max(largest, Number(slice.bytes));
      }
    }
    check(Math.max(...loads) - Math.min(...loads) <= largest);
  }
}

/** As long as a source has slices left, no other source gets two in a row ahead of it. */
function checkInterleaving(slices: readonly SliceRecord[]): void {
  const left = new Map<number, number>();
  for (const { member } of slices) {
    left.set(member, (left.get(member) ?? 0) + 1);
  }
  const started = new Map<number, number>();
  for (const { member } of slices) {
    const rank = (started.get(member) ?? 0) + 1;
    started.set(member, rank);
    for (const [other, total] of left) {
      check((started.get(other) ?? 0) >= Math.min(total, rank - 1));
    }
  }
}

describe("a request that is refused", () => {
  const good = request(
    [
      { member: 1, blobs: [10, 20] },
      { member: 2, blobs: [30] },
    ],
    100,
    2,
  );
  const table: [string, Partial<PlanRequest>, StatusCode, RegExp][] = [
    ["more sources than keys", { members: Uint32Array.of(1, 2, 3) }, StatusCode.INVALID, /3 sources for 2 keys/],
    ["ends that fall", { blobEnds: Uint32Array.of(3, 2) }, StatusCode.INVALID, /breaks off at key 1/],
    ["ends above the blobs", { blobEnds: Uint32Array.of(2, 4) }, StatusCode.INVALID, /breaks off at key 1/],
    ["blobs of no key", { blobEnds: Uint32Array.of(1, 2) }, StatusCode.INVALID, /breaks off at key 2/],
    ["member 0", { members: Uint32Array.of(0, 1) }, StatusCode.INVALID, /breaks off at key 0/],
    ["member 65,536", { members: Uint32Array.of(1, 65_536) }, StatusCode.INVALID, /breaks off at key 1/],
    ["a blob of 0 bytes", { blobSizes: BigUint64Array.of(10n, 0n, 5n) }, StatusCode.INVALID, /breaks off at key 0/],
    [
      "a sum that overflows",
      { blobSizes: BigUint64Array.of(1n << 63n, 1n << 63n, 5n) },
      StatusCode.INVALID,
      /breaks off at key 0/,
    ],
    ["too many slices", { blobSizes: BigUint64Array.of(1n, 1n << 55n, 5n) }, StatusCode.OUT_OF_RANGE, /slices/],
    ["slices of 0 bytes", { sliceBytesMax: 0 }, StatusCode.INVALID, /Slices of 0 bytes over 2 lanes/],
    ["no lanes", { lanes: 0 }, StatusCode.INVALID, /over 0 lanes/],
    ["more lanes than there may be", { lanes: 257 }, StatusCode.OUT_OF_RANGE, /lanes/],
  ];
  test.each(table)("for %s", (_, change, code, message) => {
    expectRaises(() => decisions.plan({ ...good, ...change }), code, message);
    expect(decodeSlices(decisions.plan(good)).length).toBe(2);
  });
});
