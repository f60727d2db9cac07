/**
 * Goal: what ended while somebody was away is told to two others at once and to the keys' owners after a change of the
 * ring, deleted and outdated versions apart, each kind with its own limit; who is told refuses them, and drops what was
 * announced before. Method: one member's graves with the real Wasm, and peers that note what they are told.
 */
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createVirtualClock, type VirtualClock } from "../../../src/base/clock.js";
import { StatusCode } from "../../../src/base/errors.js";
import { createSilentLogger } from "../../../src/base/log.js";
import { Graves } from "../../../src/control/graves.js";
import type { DroppedVersion, Holders } from "../../../src/control/holders.js";
import type { MembershipView } from "../../../src/control/membership.js";
import type { Peers } from "../../../src/control/peers.js";
import {
  createDecisions,
  type Decisions,
  decodeKeys,
  decodeResults,
  encodeCommits,
  encodeKeys,
  encodeResults,
} from "../../../src/decision/index.js";

const SELF = 1;
const OTHERS = [2, 3, 4];
const LIMIT = 65_536;
const HOST = 0;

interface Told {
  member: number;
  keys: string[];
  generations: bigint[];
  areOutdated: boolean;
}

let clock: VirtualClock;
let decisions: Decisions;
let graves: Graves;
let told: Told[];
let dropped: DroppedVersion[];

const setOwner = (owner: number): void => {
  decisions.setRing([{ id: owner, weight: 1, name: `${owner}:1` }]);
};

const view = (): MembershipView =>
  ({
    selfId: SELF,
    epoch: 1n,
    members: new Map([SELF, ...OTHERS].map((id) => [id, { member: { id } }])),
  }) as unknown as MembershipView;

const version = (key: string, generation: bigint): DroppedVersion => ({ key, generation, locations: [] });

beforeEach(async () => {
  clock = createVirtualClock();
  decisions = createDecisions();
  told = [];
  dropped = [];
  graves = new Graves({
    decisions,
    clock,
    log: createSilentLogger(),
    peers: {
      get: (member: number) => ({
        directory: {
          entomb: async ({ keys, records }: { keys: Uint8Array; records: Uint8Array }) => {
            const results = decodeResults(records);
            const flags = new Set(results.map(({ existed }) => existed));
            expect(flags.size, "a question is of one kind").toBe(1);
            const generations = results.map(({ generation }) => generation);
            told.push({ member, keys: decodeKeys(keys), generations, areOutdated: flags.has(true) });
            return { results: new Uint8Array(0) };
          },
        },
      }),
    } as unknown as Peers,
    holders: {
      dropEverywhere: async (versions: readonly DroppedVersion[]) => {
        dropped.push(...versions);
        return [];
      },
    } as unknown as Holders,
    checkKeys: () => {},
    requestTimeoutMs: 5_000,
  });
  setOwner(SELF);
  await graves.setView(view());
});

afterEach(() => graves.close());

describe("graves", () => {
  it("go to two others at once, deleted and outdated ones apart, and later to the owner of the keys", async () => {
    await graves.bury([version("deleted", 7n)]);
    await graves.outdate([version("outdated", 8n)], true);
    expect(told.map(({ member, keys, areOutdated }) => [member, keys, areOutdated])).toEqual([
      [2, ["deleted"], false],
      [3, ["deleted"], false],
      [2, ["outdated"], true],
      [3, ["outdated"], true],
    ]);
    told.length = 0;
    setOwner(4);
    await graves.setView(view());
    expect(told).toEqual([
      { member: 4, keys: ["deleted"], generations: [7n], areOutdated: false },
      { member: 4, keys: ["outdated"], generations: [8n], areOutdated: true },
    ]);
  });

  it("of outdated versions stay here while nobody is away, until the keys have another owner", async () => {
    await graves.outdate([version("outdated", 8n)], false);
    expect(told).toEqual([]);
    setOwner(4);
    await graves.setView(view());
    expect(told.map(({ member, keys }) => [member, keys])).toEqual([[4, ["outdated"]]]);
  });

  it("tell which versions are outdated: that one, and older ones", async () => {
    await graves.outdate([version("k", 8n)], false);
    const keys = encodeKeys(["other", "k"]);
    expect([7n, 8n, 9n].map((generation) => graves.isOutdated(keys, 1, generation))).toEqual([true, true, false]);
    expect(graves.isOutdated(keys, 0, 7n)).toBe(false);
  });

  it("have a limit for each kind: evictions make no delete forgotten", async () => {
    await graves.bury([version("deleted", 7n)]);
    const many = Array.from({ length: LIMIT + 1 }, (_, index) => version(`key-${index}`, 8n));
    await graves.outdate(many, false);
    expect(graves.count).toBe(1 + LIMIT);
    const keys = encodeKeys(["key-0", "key-1", `key-${LIMIT}`]);
    expect([0, 1, 2].map((index) => graves.isOutdated(keys, index, 8n))).toEqual([false, true, true]);
  });

  it.each([false, true])(
    "that others tell are refused, and what was announced before is dropped (outdated %s)",
    (existed) => {
      const announce = (generation: bigint): StatusCode | undefined => {
        const records = encodeCommits([{ generation, bytes: 1n, member: 2, slot: 5 }]);
        return decodeResults(decisions.directory.announce(encodeKeys(["k"]), records, HOST))[0]?.code;
      };
      expect(announce(7n)).toBe(StatusCode.OK);
      const grave = { code: StatusCode.OK, existed, otherFamily: false, bytes: 0n, family: 0, locations: [] };
      graves.take({ keys: encodeKeys(["k"]), records: encodeResults([{ ...grave, generation: 7n }]) });
      expect(dropped).toContainEqual({ key: "k", generation: 7n, locations: [{ member: 2, slot: 5 }] });
      const [known] = decodeResults(decisions.directory.lookup(encodeKeys(["k"]), HOST));
      expect(known?.code).toBe(StatusCode.NOT_FOUND);
      expect(announce(7n), "it has a tombstone").toBe(StatusCode.TRY_AGAIN);
      expect(graves.isOutdated(encodeKeys(["k"]), 0, 7n)).toBe(existed);
      // A newer one is another matter.
      expect(announce(8n)).toBe(StatusCode.OK);
      graves.take({ keys: encodeKeys(["k"]), records: encodeResults([{ ...grave, generation: 7n }]) });
      expect(decodeResults(decisions.directory.lookup(encodeKeys(["k"]), HOST))[0]?.generation).toBe(8n);
    },
  );
});
