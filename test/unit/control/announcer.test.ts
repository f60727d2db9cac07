/**
 * Goal: one object at fault does not keep an owner from hearing of all others; a holder's two versions of a key are
 * both told of; a run that can't end remembers no more than it needs. Method: an announcer with a sidecar that lists
 * what the test says, and an owner of all keys that checks as a real one does, in virtual time.
 */
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createVirtualClock, type VirtualClock } from "../../../src/base/clock.js";
import { createDeferred, type Deferred } from "../../../src/base/deadline.js";
import { HbmeshError, StatusCode } from "../../../src/base/errors.js";
import type { Logger } from "../../../src/base/log.js";
import { Announcer } from "../../../src/control/announcer.js";
import type { Concluder } from "../../../src/control/collector.js";
import { Departed, type DepartureWatch } from "../../../src/control/departed.js";
import type { DroppedObject } from "../../../src/control/holders.js";
import { createKeyCheck } from "../../../src/control/key-check.js";
import type { MembershipView } from "../../../src/control/membership.js";
import type { Answer, OwnerAnswer, OwnerCalls } from "../../../src/control/owner-calls.js";
import { COMMIT_RECORD_BYTES, Results } from "../../../src/control/records.js";
import type { SidecarLink } from "../../../src/control/sidecar-link.js";
import {
  createDecisions,
  type Decisions,
  decodeKeys,
  encodeKeys,
  type HeldObject,
  type KeyBatch,
  keyCountOf,
  readCommit,
  writeCommit,
} from "../../../src/decision/index.js";

const EPOCH = 5n;
const OWNER = 2;
const RETRY_MS = 200;

interface Held extends HeldObject {
  key: string;
}

const members = new Map(
  [1, OWNER].map((id) => [id, { member: { id, weight: 1, workerAddress: `h${id}` }, revision: 1n }]),
);
const view = { epoch: EPOCH, selfId: 1, members, left: new Set(), passed: false } as unknown as MembershipView;

class WatchedDepartures extends Departed {
  readonly begun: DepartureWatch[] = [];

  override watch(): DepartureWatch {
    const watch = super.watch();
    this.begun.push(watch);
    return watch;
  }
}

let clock: VirtualClock;
let departed: WatchedDepartures;
let announcer: Announcer;
let held: Held[];
let refused: string;
let reachable: boolean;
let asked: number;
let told: string[];
let isLast: boolean;
let gone: DroppedObject[];
let dropped: HeldObject[];
let areCopies: boolean;
/** The owner can't decide about copies. */
let isUndecided: boolean;
/** All have announced; by default that never happens. */
let concluded: Deferred<object | undefined>;
/** What is done when copies are offered. */
let offered: Deferred<void>;
let warnings: { text: string; key?: string; cause?: string; objects?: number; node?: string }[];

const nameOf = ({ key, generation, slot }: Held): string => `${key} ${generation} ${slot}`;
const objects = (count: number): Held[] =>
  Array.from({ length: count }, (_, at) => ({ key: `k${at}`, generation: BigInt(at + 1), slot: at }));

/** Refuses what a real one refuses, and `refused`. */
function createOwner(decisions: Decisions): OwnerCalls["askOwner"] {
  const checkKeys = createKeyCheck(decisions, "strict");
  const directory = createDecisions().directory;
  return async (_owner, _epoch, { keys, records, last }): Promise<OwnerAnswer> => {
    asked++;
    const fail = (code: StatusCode, message: string): OwnerAnswer => ({
      t: "failed",
      error: new HbmeshError(code, message),
    });
    if (!reachable) {
      return fail(StatusCode.RPC_UNAVAILABLE, "unreachable");
    }
    const names = decodeKeys(keys);
    if (names.includes(refused)) {
      return fail(StatusCode.INVALID, `${refused} is refused`);
    }
    try {
      if (names.length > 0) {
        checkKeys(keys, 10_000);
      }
    } catch (reason) {
      return { t: "failed", error: HbmeshError.from(reason) };
    }
    names.forEach((key, at) => {
      told.push(nameOf({ key, ...readCommit(records, at) }));
    });
    isLast ||= last;
    const bytes = keyCountOf(keys) === 0 ? new Uint8Array(0) : directory.announce(keys, records, 0);
    const results = new Results(bytes, names.length);
    names.forEach((_, at) => {
      results.setCode(at, isUndecided ? StatusCode.NOT_READY : results.code(at));
    });
    return { t: "results", results };
  };
}

/** Lists what is `held`. */
function createSidecar(): Pick<SidecarLink, "listHeld" | "drop"> {
  const records = (of: readonly Held[]): Uint8Array => {
    const bytes = new Uint8Array(of.length * COMMIT_RECORD_BYTES);
    of.forEach(({ generation, slot }, at) => {
      writeCommit(bytes, at, { generation, bytes: 8n, slot, member: 0 });
    });
    return bytes;
  };
  return {
    listHeld: async (onChunk) =>
      onChunk({ family: 0, areCopies, keys: encodeKeys(held.map(({ key }) => key)), records: records(held) }),
    drop: async (those) => {
      dropped.push(...those);
      return those.map(() => StatusCode.OK);
    },
  };
}

beforeEach(() => {
  clock = createVirtualClock();
  departed = new WatchedDepartures();
  held = [];
  refused = "";
  reachable = true;
  asked = 0;
  told = [];
  isLast = false;
  gone = [];
  dropped = [];
  warnings = [];
  areCopies = false;
  isUndecided = false;
  concluded = createDeferred();
  concluded.resolve(undefined);
  offered = createDeferred();
  const decisions = createDecisions();
  decisions.setRing([{ id: OWNER, weight: 1, name: "h2" }]);
  const askOwner = createOwner(decisions);
  const sidecar = createSidecar();
  const nothing = (): void => {};
  const addLocations = async ({ keys }: { keys: KeyBatch }): Promise<Answer> => {
    await offered.promise;
    return { results: Results.empty(keyCountOf(keys)), errors: new Map(), undecided: new Set() };
  };
  announcer = new Announcer({
    decisions,
    clock,
    log: {
      warn: (facts: object, text: string) => void warnings.push({ ...facts, text }),
      info: nothing,
      debug: nothing,
      error: nothing,
    } as unknown as Logger,
    calls: { view, askOwner, addLocations } as unknown as OwnerCalls,
    sidecar: () => sidecar as SidecarLink,
    requestTimeoutMs: 1_000,
    departed,
    onGone: (those) => void gone.push(...those),
    isHung: () => false,
    deadAfterMs: 0,
    doubtMs: () => 0,
    concluder: { conclude: () => concluded.promise } as unknown as Concluder,
    onConcluded: nothing,
  });
});

afterEach(() => announcer.close());

const announce = async (forMs: number): Promise<void> => {
  announcer.setView(view);
  await clock.advance(forMs);
};

describe("an object that an owner refuses", () => {
  it("is named in the log and left out; the owner hears of all others and that this was all", async () => {
    held = objects(9);
    refused = "k6";
    await announce(0);
    expect(told.sort()).toEqual(held.filter(({ key }) => key !== refused).map(nameOf));
    expect(isLast).toBe(true);
    const texts = {
      whole: "an owner refuses to be told of these objects at once; telling it of fewer at a time",
      one: "an owner refuses to be told of an object that this worker holds; readers will not find it here",
    };
    expect(warnings).toContainEqual(expect.objectContaining({ text: texts.whole, node: "h2", objects: 9 }));
    const [single] = warnings.filter(({ text }) => text === texts.one);
    expect(single).toMatchObject({ node: "h2", objects: 1, key: refused });
    expect(single?.cause).toContain("k6 is refused");
    const before = asked;
    await clock.advance(RETRY_MS * 5);
    expect([asked, dropped]).toEqual([before, []]);
  });

  it("may be the only one", async () => {
    held = objects(1);
    refused = "k0";
    await announce(0);
    expect([told, isLast, asked]).toEqual([[], true, 3]);
  });
});

describe("one key listed twice", () => {
  it("is told in questions that an owner takes; it decides which version stays", async () => {
    held = [
      { key: "a", generation: 9n, slot: 1 },
      { key: "b", generation: 3n, slot: 2 },
      { key: "a", generation: 5n, slot: 3 },
    ];
    await announce(0);
    expect(told).toEqual(["a 9 1", "b 3 2", "a 5 3"]);
    expect(warnings).toEqual([]);
    expect(dropped).toEqual([expect.objectContaining({ generation: 5n, slot: 3 })]);
  });
});

describe("objects that go while an owner can't be reached", () => {
  it("are remembered only if it is still to be told of them", async () => {
    held = objects(20);
    reachable = false;
    await announce(RETRY_MS);
    const [watch] = departed.begun;
    departed.note(held.slice(0, 3));
    for (let at = 0; at < 1_000; at++) {
      departed.note([{ slot: 100 + (at % 7), generation: BigInt(1_000 + at) }]);
    }
    expect(watch?.size).toBe(3);
    reachable = true;
    await clock.advance(RETRY_MS * 2);
    expect(told.length).toBe(20);
    expect(gone.map(({ key }) => key)).toEqual(["k0", "k1", "k2"]);
    departed.note(held);
    expect(watch?.size).toBe(0);
  });

  it("are forgotten with the run", async () => {
    held = objects(2);
    reachable = false;
    await announce(RETRY_MS);
    departed.note(held);
    await announcer.close();
    departed.note(held);
    expect(departed.begun.map(({ size }) => size)).toEqual([0]);
  });
});

describe("copies about which an owner can't decide yet", () => {
  it.each([0, RETRY_MS])("are unconfirmed until they were offered; the owner is away for %i ms", async (awayMs) => {
    held = objects(3);
    areCopies = true;
    isUndecided = true;
    concluded = createDeferred();
    reachable = awayMs === 0;
    await announce(awayMs);
    expect(announcer.unconfirmed).toBe(3);
    reachable = true;
    await clock.advance(RETRY_MS * 2);
    expect([told.length, announcer.unconfirmed]).toEqual([3, 3]);
    concluded.resolve({ missing: [], doubtMs: 0, highestGeneration: 9n });
    await clock.advance(0);
    expect(announcer.unconfirmed).toBe(3);
    offered.resolve();
    await clock.advance(0);
    expect([announcer.unconfirmed, dropped]).toEqual([0, []]);
  });
});
