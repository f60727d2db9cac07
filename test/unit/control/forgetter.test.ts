/**
 * Goal: owners learn of everything that is gone, before they take up the same key anew; what waits for an owner that
 * can't be told costs the others nothing, keeps its pause, and is limited. Method: an asker and an owner with the real
 * Wasm in virtual time; the owner fails, stalls or counts as the test says. Work is counted, not timed.
 */
import { afterEach, describe, expect, it } from "vitest";
import { createDeferred } from "../../../src/base/deadline.js";
import { HbmeshError, StatusCode } from "../../../src/base/errors.js";
import type { OwnerReply } from "../../../src/control/directory-owner.js";
import { Results } from "../../../src/control/records.js";
import { type Decisions, decodeKeys, encodeKeys, keyCountOf } from "../../../src/decision/index.js";
import { EPOCH, lostObjects, OwnerPair } from "./owner-pair.js";

const RETRY_MS = 500;
const ATTEMPTS_MAX = 60;
const PENDING_MAX = 200_000;
const KEYS_PER_CALL_MAX = 10_000;
const GIVEN_UP = "an owner could not be told that objects are gone; readers will find out by themselves";

let pair: OwnerPair;
afterEach(() => pair.close());

const known = (key: string): { code: number; slots: number[] } => {
  const results = new Results(pair.ownerDecisions.directory.lookup(encodeKeys([key]), 0), 1);
  return { code: results.code(0), slots: results.locations(0).map(({ slot }) => slot) };
};

const told = (count: number): OwnerReply => ({ stale: false, epoch: EPOCH, results: Results.empty(count).bytes });
const unreachable = (): never => {
  throw new HbmeshError(StatusCode.RPC_UNAVAILABLE, "refused");
};

describe.each([{ isOwn: false }, { isOwn: true }])(
  "a key that was lost and is set anew, its own owner: $isOwn",
  (options) => {
    const begin = async (): Promise<bigint> => {
      pair = new OwnerPair(options);
      const first = await pair.drive(pair.put("a", 3));
      expect([first.code(0), first.existed(0)]).toEqual([StatusCode.OK, false]);
      pair.arrivals.length = 0;
      return first.generation(0);
    };

    const setAnew = async (): Promise<void> => {
      const second = await pair.drive(pair.put("a", 7));
      expect([second.code(0), second.existed(0), second.locations(0)]).toEqual([
        StatusCode.OK,
        false,
        [{ member: 1, slot: 7 }],
      ]);
      await pair.clock.advance(RETRY_MS * 2);
      expect(known("a")).toEqual({ code: StatusCode.OK, slots: [7] });
    };

    it("is known as the new object, told in the same turn", async () => {
      const generation = await begin();
      pair.lose([{ key: "a", generation, slot: 3 }]);
      await setAnew();
      expect(pair.arrivals).toEqual(options.isOwn ? [] : ["forgetLocations", "commit"]);
    });

    it("is known as the new object while the owner is being told", async () => {
      const generation = await begin();
      pair.lose([{ key: "a", generation, slot: 3 }]);
      await Promise.resolve();
      await setAnew();
    });

    it("asks to reserve after it, too", async () => {
      const generation = await begin();
      pair.lose([{ key: "a", generation, slot: 3 }]);
      const { results } = await pair.drive(pair.calls.ask({ method: "reserve", keys: encodeKeys(["a", "b"]) }));
      expect([results.existed(0), results.existed(1)]).toEqual([false, false]);
    });
  },
);

describe("what an owner can't be told before a set", () => {
  it("fails the set as the owner's failure; the set after it goes through", async () => {
    pair = new OwnerPair();
    const serve = pair.serve;
    const generation = (await pair.drive(pair.put("a", 3))).generation(0);
    pair.serve = unreachable;
    pair.lose([{ key: "a", generation, slot: 3 }]);
    const failed = await pair.drive(pair.put("a", 7));
    expect(failed.code(0)).toBe(StatusCode.RPC_UNAVAILABLE);
    pair.serve = serve;
    const second = await pair.drive(pair.put("a", 7));
    expect([second.code(0), second.existed(0)]).toEqual([StatusCode.OK, false]);
    await pair.clock.advance(RETRY_MS * 2);
    expect(known("a")).toEqual({ code: StatusCode.OK, slots: [7] });
  });

  it("costs no attempt, however many sets try", async () => {
    pair = new OwnerPair();
    const serve = pair.serve;
    const generation = (await pair.drive(pair.put("a", 3))).generation(0);
    pair.serve = unreachable;
    pair.lose([{ key: "a", generation, slot: 3 }]);
    for (let set = 0; set < ATTEMPTS_MAX * 2; set++) {
      await pair.put("a", 7);
    }
    pair.serve = serve;
    await pair.clock.advance(RETRY_MS * 2);
    expect(known("a").code).toBe(StatusCode.NOT_FOUND);
    expect(pair.warnings).toEqual([]);
  });

  it("holds up no set of other keys", async () => {
    pair = new OwnerPair();
    const serve = pair.serve;
    const held = createDeferred<OwnerReply>();
    pair.serve = (method, request, signal, owner) =>
      method === "forgetLocations" ? held.promise : serve(method, request, signal, owner);
    pair.lose(lostObjects(3));
    await pair.clock.settle();
    const other = await pair.drive(pair.put("b", 1));
    expect(other.code(0)).toBe(StatusCode.OK);
    held.resolve(told(3));
  });

  it("is not waited for by who has given up", async () => {
    pair = new OwnerPair();
    pair.serve = () => new Promise(() => {});
    pair.lose(lostObjects(1));
    const ending = new AbortController();
    const keys = encodeKeys([lostObjects(1)[0]?.key ?? ""]);
    const asking = pair.calls.ask({ method: "reserve", keys, signal: ending.signal });
    ending.abort(new HbmeshError(StatusCode.RPC_PEER_DEAD, "the sidecar ended"));
    await expect(asking).rejects.toMatchObject({ code: StatusCode.RPC_PEER_DEAD, message: "the sidecar ended" });
  });
});

describe("many objects", () => {
  it("waiting for a busy owner aren't looked at again when more come", async () => {
    let looked = 0;
    pair = new OwnerPair({
      decisions: (real) =>
        new Proxy(real, {
          get: (of, name: keyof Decisions) => {
            if (name !== "ownersOf" && name !== "groupByOwner") {
              return of[name];
            }
            return (keys: Uint8Array) => {
              looked += keyCountOf(keys);
              return of[name](keys);
            };
          },
        }),
    });
    pair.serve = () => new Promise(() => {});
    pair.forgetter.add(lostObjects(50_000));
    await pair.clock.settle();
    looked = 0;
    for (let one = 0; one < 100; one++) {
      pair.forgetter.add(lostObjects(1, 50_000 + one));
      await pair.clock.settle();
    }
    expect(looked).toBe(100);
  });

  it("are all told, each once, in questions of as many keys as one may have", async () => {
    pair = new OwnerPair();
    const seen = new Set<string>();
    const sizes: number[] = [];
    let again = 0;
    pair.serve = async (_, { keys }) => {
      for (const key of decodeKeys(keys)) {
        again += seen.has(key) ? 1 : 0;
        seen.add(key);
      }
      sizes.push(keyCountOf(keys));
      return told(keyCountOf(keys));
    };
    pair.forgetter.add(lostObjects(150_001));
    for (let turn = 0; turn < 100 && seen.size < 150_001; turn++) {
      await pair.clock.settle();
    }
    expect([seen.size, again, Math.max(...sizes), sizes.at(-1)]).toEqual([150_001, 0, KEYS_PER_CALL_MAX, 1]);
    expect(pair.warnings).toEqual([]);
  });

  it("of one owner are limited; another owner's stay", async () => {
    pair = new OwnerPair();
    pair.decisions.setRing([
      { id: 2, weight: 255, name: "h2" },
      { id: 3, weight: 1, name: "h3" },
    ]);
    const few = lostObjects(1_000, 1_000_000);
    const owners = pair.decisions.ownersOf(encodeKeys(few.map(({ key }) => key)));
    const ofThree = few.filter((_, at) => owners[at] === 3).slice(0, 2);
    expect(ofThree.length).toBeGreaterThan(0);
    pair.serve = unreachable;
    pair.forgetter.add(ofThree);
    pair.forgetter.add(lostObjects(PENDING_MAX - ofThree.length));
    expect(pair.warnings).toEqual([]);
    pair.forgetter.add(lostObjects(1, PENDING_MAX));
    expect(pair.warnings).toEqual([
      {
        text: "too many objects are gone that owners can't be told of; forgot the oldest",
        objects: 1,
        cause: undefined,
      },
    ]);
    const heard = new Set<string>();
    pair.serve = async (_method, { keys }, _signal, owner) => {
      if (owner === 3) {
        for (const key of decodeKeys(keys)) {
          heard.add(key);
        }
      }
      return told(keyCountOf(keys));
    };
    await pair.clock.advance(RETRY_MS * 2);
    expect(ofThree.every(({ key }) => heard.has(key))).toBe(true);
  });

  it("of one key are told in one question each", async () => {
    pair = new OwnerPair();
    const sizes: number[] = [];
    pair.serve = async (_, { keys }) => {
      sizes.push(keyCountOf(keys));
      return told(keyCountOf(keys));
    };
    pair.forgetter.add([1n, 2n, 3n].map((generation) => ({ key: "a", generation, slot: Number(generation) })));
    pair.forgetter.add([{ key: "b", generation: 9n, slot: 9 }]);
    await pair.clock.settle();
    expect(sizes).toEqual([2, 1, 1]);
  });
});

describe("an owner that can't be reached", () => {
  it("is tried again after the pause, whatever is added meanwhile", async () => {
    pair = new OwnerPair();
    pair.serve = unreachable;
    for (let ms = 0; ms < RETRY_MS; ms += 5) {
      pair.forgetter.add(lostObjects(1, ms));
      await pair.clock.advance(5);
    }
    // At 0 and, with what came since, at the pause's end.
    expect(pair.arrivals.length).toBe(2);
    await pair.clock.advance(RETRY_MS - 1);
    expect(pair.arrivals.length).toBe(2);
    await pair.clock.advance(1);
    expect(pair.arrivals.length).toBe(3);
    expect(pair.warnings).toEqual([]);
  });

  it("is given up after as many attempts as are allowed, and not before", async () => {
    pair = new OwnerPair();
    pair.serve = unreachable;
    pair.forgetter.add(lostObjects(2));
    await pair.clock.advance(RETRY_MS * (ATTEMPTS_MAX - 1) - 1);
    expect([pair.arrivals.length, pair.warnings]).toEqual([ATTEMPTS_MAX - 1, []]);
    await pair.clock.advance(1);
    expect(pair.arrivals.length).toBe(ATTEMPTS_MAX);
    expect(pair.warnings).toEqual([{ text: GIVEN_UP, objects: 2, cause: "refused" }]);
    await pair.clock.advance(RETRY_MS * 2);
    expect(pair.arrivals.length).toBe(ATTEMPTS_MAX);
  });

  it("loses its keys to another one: that is told of what waits", async () => {
    pair = new OwnerPair();
    const heard: [number, string[]][] = [];
    pair.serve = async (_method, { keys }, _signal, owner) => {
      heard.push([owner, decodeKeys(keys)]);
      return owner === 3 ? told(keyCountOf(keys)) : unreachable();
    };
    pair.forgetter.add(lostObjects(2));
    await pair.clock.settle();
    pair.setRing(EPOCH + 1n, 3);
    await pair.clock.advance(RETRY_MS);
    expect(heard).toEqual([
      [2, ["lost-0", "lost-1"]],
      [3, ["lost-0", "lost-1"]],
    ]);
  });

  it("finds fault with a question: it is not asked again", async () => {
    pair = new OwnerPair();
    pair.serve = () => Promise.reject(new HbmeshError(StatusCode.INVALID, "what is this"));
    pair.forgetter.add(lostObjects(2));
    await pair.clock.advance(RETRY_MS * 2);
    expect(pair.arrivals.length).toBe(1);
    expect(pair.warnings).toEqual([{ text: GIVEN_UP, objects: 2, cause: "what is this" }]);
  });
});
