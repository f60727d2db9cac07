/**
 * Goal: what a leaving worker holds is placed where there is room, evenly, and is left over only where no target has
 * room beside larger objects; the same input gives the same places. Method: the compiled module against a model that
 * scans all targets for each object, over random sizes and rooms; the edges by hand. A failing run prints its seed,
 * HBMESH_SEED replays it.
 */
import { describe, expect, it } from "vitest";
import { createSeededRandom } from "../../../src/base/random.js";
import { createDecisions } from "../../../src/decision/index.js";

const seed = Number(process.env["HBMESH_SEED"] ?? Date.now() % 1_000_000);
const decisions = createDecisions();

function place(sizes: readonly number[], rooms: readonly number[]): number[] {
  return [...decisions.placeMoves(BigUint64Array.from(sizes, BigInt), BigUint64Array.from(rooms, BigInt))];
}

/** The largest first, each to the target with the most room left; of equal ones the first. */
function modelOf(sizes: readonly number[], rooms: readonly number[]): number[] {
  const left = [...rooms];
  const places = sizes.map(() => 0);
  const order = sizes.map((_, index) => index).sort((a, b) => (sizes[b] ?? 0) - (sizes[a] ?? 0) || a - b);
  for (const object of order) {
    const target = left.indexOf(Math.max(...left));
    if (target >= 0 && (left[target] ?? 0) >= (sizes[object] ?? 0)) {
      left[target] = (left[target] ?? 0) - (sizes[object] ?? 0);
      places[object] = target + 1;
    }
  }
  return places;
}

describe("placing what a worker leaves", () => {
  it("nothing, no targets, targets without room", () => {
    expect(place([], [])).toEqual([]);
    expect(place([], [10])).toEqual([]);
    expect(place([1, 2], [])).toEqual([0, 0]);
    expect(place([1, 2], [0, 0])).toEqual([0, 0]);
  });

  it("an object that is as large as the room fits, one that is a byte larger doesn't", () => {
    expect(place([100], [99])).toEqual([0]);
    expect(place([100], [100])).toEqual([1]);
    expect(place([100], [101])).toEqual([1]);
    expect(place([100, 1], [100])).toEqual([1, 0]);
  });

  it("sizes above 4 GiB, up to the largest that there is", () => {
    const most = 2n ** 63n;
    expect([
      ...decisions.placeMoves(BigUint64Array.from([most, 2n ** 40n]), BigUint64Array.from([2n ** 40n, most])),
    ]).toEqual([2, 1]);
  });

  it("targets fill up evenly", () => {
    const places = place(new Array<number>(300).fill(10), [1_000, 1_000, 1_000]);
    expect([1, 2, 3].map((target) => places.filter((each) => each === target).length)).toEqual([100, 100, 100]);
  });

  it(`as the model has it, over random sizes and rooms (HBMESH_SEED=${seed})`, () => {
    const random = createSeededRandom(seed);
    for (let round = 0; round < 200; round++) {
      const sizes = Array.from({ length: random.nextBelow(60) }, () => 1 + random.nextBelow(1 + random.nextBelow(200)));
      const rooms = Array.from({ length: random.nextBelow(8) }, () => random.nextBelow(1_500));
      expect(place(sizes, rooms), `round ${round}, seed ${seed}`).toEqual(modelOf(sizes, rooms));
    }
  });

  it("a million objects in one call, and one more is refused by name", () => {
    const sizes = new BigUint64Array(2 ** 20).fill(1n);
    const places = decisions.placeMoves(sizes, BigUint64Array.from([2n ** 19n, 2n ** 19n]));
    expect(places.every((each) => each === 1 || each === 2)).toBe(true);
    expect(() => decisions.placeMoves(new BigUint64Array(2 ** 20 + 1), new BigUint64Array(1))).toThrow(
      /placing what a worker leaves is outside of its range/,
    );
  });
});
