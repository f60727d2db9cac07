/**
 * Goal: any sequence of calls is answered as decisions.ts says. Method: random calls, compared with a Map; with and
 * without a member and a hash seed.
 */
import { expect, test } from "vitest";
import { StatusCode } from "../../../src/base/errors.js";
import {
  type CommitRecord,
  createDecisions,
  type Directory,
  decodeResults,
  type ExistenceMode,
  encodeCommits,
  encodeKeys,
  encodeResults,
  FAMILY_ANY,
  type Family,
  type ResultRecord,
} from "../../../src/decision/index.js";
import { FAIL, otherFamily, REPLACE, result, SKIP, told } from "./directory-support.js";
import { createRandom, type Random, testSeed } from "./support.js";

const { OK, NOT_FOUND, TRY_AGAIN, INVALID, NO_SPACE, KEY_ALREADY_EXISTS, DATA_INCONSISTENCY } = StatusCode;

/** The directory as a Map, by the words of decisions.ts. */
class Model {
  readonly keys = new Map<
    string,
    { generation: bigint; bytes: bigint; family: Family; locations: { member: number; slot: number }[] }
  >();
  /** Generation of the newest version that was removed; no more keys than are remembered. */
  readonly removed = new Map<string, bigint>();
  next = 1n;
  /** The directory's member; undefined: generations follow each other. */
  constructor(readonly self?: number) {
    this.next = this.above(0n);
  }

  commit(key: string, record: CommitRecord, existence: ExistenceMode, family: Family): ResultRecord {
    if (record.generation === 0n) return this.commitAtOnce(key, record, existence, family);
    this.raise(record.generation);
    const known = this.keys.get(key);
    const removed = this.removed.get(key) ?? 0n;
    const isRemoved = existence === REPLACE ? record.generation <= removed : record.generation === removed;
    const refused = { ...result(TRY_AGAIN, false), generation: removed };
    if (known === undefined) return isRemoved ? refused : this.put(key, record, family);
    if (known.family !== family) return otherFamily(known.family, known);
    const isAgain =
      known.generation === record.generation &&
      known.bytes === record.bytes &&
      known.locations.some(({ member, slot }) => member === record.member && slot === record.slot);
    if (isAgain) return this.tell(key, OK, false);
    if (existence === SKIP) return this.tell(key, OK, true);
    if (existence === FAIL) return this.tell(key, KEY_ALREADY_EXISTS, true);
    return isRemoved ? this.tell(key, TRY_AGAIN, false) : this.supersede(key, record);
  }

  /** Generation 0: the directory gives one, unless the key is there. */
  commitAtOnce(key: string, record: CommitRecord, existence: ExistenceMode, family: Family): ResultRecord {
    if (existence === REPLACE) return result(INVALID, false);
    const known = this.keys.get(key);
    if (known !== undefined && known.family !== family) return otherFamily(known.family, known);
    if (known !== undefined) {
      known.locations = known.locations.filter(({ member, slot }) => member !== record.member || slot !== record.slot);
      if (known.locations.length > 0) return this.tell(key, existence === FAIL ? KEY_ALREADY_EXISTS : OK, true);
      this.keys.delete(key);
    }
    const generation = this.next;
    this.next = this.above(generation);
    return this.put(key, { ...record, generation }, family);
  }

  announce(key: string, record: CommitRecord, family: Family): ResultRecord {
    this.raise(record.generation);
    const known = this.keys.get(key);
    const isRemoved = record.generation <= (this.removed.get(key) ?? 0n);
    if (known === undefined) return isRemoved ? result(TRY_AGAIN, false) : this.put(key, record, family);
    if (isRemoved && known.generation !== record.generation) return this.tell(key, TRY_AGAIN, false);
    if (known.family !== family) return otherFamily(known.family, known);
    if (known.generation !== record.generation) return this.supersede(key, record);
    if (known.bytes !== record.bytes) return this.tell(key, DATA_INCONSISTENCY, false);
    const same = known.locations.find(
      ({ member, slot }) => member === record.member && (family !== 2 || slot === record.slot),
    );
    if (same === undefined && known.locations.length === 4) return this.tell(key, NO_SPACE, false);
    if (same === undefined) known.locations.push({ member: record.member, slot: record.slot });
    else same.slot = record.slot;
    return this.tell(key, OK, false);
  }

  remove(key: string, family: Family): ResultRecord {
    const known = this.keys.get(key);
    if (known === undefined) return result(OK, false);
    if (known.family !== family) return otherFamily(known.family, known);
    const answer = this.tell(key, OK, true);
    const before = this.removed.get(key) ?? 0n;
    this.removed.set(key, before > known.generation ? before : known.generation);
    this.keys.delete(key);
    return answer;
  }

  reserve(key: string, existence: ExistenceMode, family: Family): ResultRecord {
    const known = this.keys.get(key);
    if (known !== undefined && known.family !== family) return otherFamily(known.family, known);
    if (this.keys.has(key) && existence === SKIP) return this.tell(key, OK, true);
    if (this.keys.has(key) && existence === FAIL) return this.tell(key, KEY_ALREADY_EXISTS, true);
    const generation = this.next;
    this.next = this.above(generation);
    return { ...result(OK, false), generation };
  }

  forget(key: string, record: CommitRecord): ResultRecord {
    const known = this.keys.get(key);
    if (known === undefined) return result(OK, false);
    const at = known.locations.findIndex(({ member, slot }) => member === record.member && slot === record.slot);
    const matches = known.generation === record.generation && at >= 0;
    if (matches) known.locations.splice(at, 1);
    const answer = this.tell(key, OK, matches);
    if (known.locations.length === 0) this.keys.delete(key);
    return answer;
  }

  forgetMember(gone: number): number {
    let lost = 0;
    for (const [key, known] of this.keys) {
      known.locations = known.locations.filter(({ member }) => member !== gone);
      if (known.locations.length === 0) {
        this.keys.delete(key);
        lost += 1;
      }
    }
    return lost;
  }

  lookup(key: string, family: Family | typeof FAMILY_ANY): ResultRecord {
    const known = this.keys.get(key);
    if (known === undefined) return result(NOT_FOUND, false);
    if (family !== FAMILY_ANY && known.family !== family) return otherFamily(known.family, known);
    return this.tell(key, OK, false);
  }

  private raise(generation: bigint): void {
    if (generation >= this.next) this.next = this.above(generation);
  }

  private above(floor: bigint): bigint {
    if (this.self === undefined) return floor + 1n;
    const sameCount = ((floor >> 16n) << 16n) + BigInt(this.self);
    return sameCount > floor ? sameCount : sameCount + 0x1_0000n;
  }

  private put(key: string, { generation, bytes, member, slot }: CommitRecord, family: Family): ResultRecord {
    this.keys.set(key, { generation, bytes, family, locations: [{ member, slot }] });
    return this.tell(key, OK, false);
  }

  private supersede(key: string, record: CommitRecord): ResultRecord {
    const known = this.keys.get(key);
    if (known !== undefined && record.generation <= known.generation) return this.tell(key, TRY_AGAIN, false);
    const answer = this.tell(key, OK, true);
    this.put(key, record, answer.family as Family);
    return answer;
  }

  private tell(key: string, code: StatusCode, existed: boolean): ResultRecord {
    const known = this.keys.get(key);
    if (known === undefined) throw new Error("the model told of an absent key");
    return {
      code,
      existed,
      otherFamily: false,
      generation: known.generation,
      bytes: known.bytes,
      family: known.family,
      locations: known.locations.map((each) => ({ ...each })),
    };
  }
}

function randomStep(random: Random, directory: Directory, model: Model, keySpace: number, oldest: number): Uint8Array {
  const names = Array.from({ length: 1 + random.below(60) }, () => {
    const number = random.below(keySpace);
    return `${number}${"+".repeat((number * 37) % (number % 11 === 0 ? 900 : 60))}`;
  });
  const keys = encodeKeys(names);
  const records = names.map(() =>
    told(oldest + random.below(random.pick([1, 3, 40])), 1 + random.below(6), random.below(3), 1 + random.below(2)),
  );
  const existence = random.pick<ExistenceMode>([SKIP, FAIL, REPLACE]);
  const family = random.pick<Family>([0, 0, 0, 0, 1, 2]);
  const asked = random.pick<Family | typeof FAMILY_ANY>([family, FAMILY_ANY]);
  const at = (index: number): CommitRecord => records[index] as CommitRecord;
  const agree = (results: Uint8Array, expected: ResultRecord[]): Uint8Array => {
    expect(decodeResults(results)).toEqual(expected);
    return results;
  };
  const step = random.below(20);
  if (step < 6) {
    if (step < 2) for (const record of records) record.generation = 0n;
    const expected = names.map((name, index) => model.commit(name, at(index), existence, family));
    return agree(directory.commit(keys, encodeCommits(records), existence, family), expected);
  } else if (step < 10) {
    const expected = names.map((name, index) => model.announce(name, at(index), family));
    return agree(directory.announce(keys, encodeCommits(records), family), expected);
  } else if (step < 13) {
    const expected = names.map((name) => model.remove(name, family));
    return agree(directory.remove(keys, family), expected);
  } else if (step < 15) {
    const expected = names.map((name) => model.reserve(name, existence, family));
    return agree(directory.reserve(keys, existence, family), expected);
  } else if (step < 17) {
    const stale = encodeResults(records.map((record) => result(OK, false, record)));
    const expected = names.map((name, index) => model.forget(name, at(index)));
    return agree(directory.forgetLocations(keys, stale), expected);
  } else if (step === 17 && random.below(20) === 0) {
    const gone = 1 + random.below(6);
    expect(directory.forgetMember(gone)).toBe(model.forgetMember(gone));
    return new Uint8Array(0);
  }
  const expected = names.map((name) => model.lookup(name, asked));
  return agree(directory.lookup(keys, asked), expected);
}

test.each<[number, number | undefined, bigint]>([
  [20, undefined, 0n],
  [500, 3, 0xfedcba9876543210n],
  [20_000, undefined, 1n],
])("random calls over %i keys of member %s, hash seed %s, agree with the model", (keySpace, self, hashSeed) => {
  const random = createRandom(testSeed());
  const { directory } = createDecisions({ hashSeed });
  const met = new Set<StatusCode>();
  const model = new Model(self);
  directory.raiseGeneration(0n, self);
  for (let step = 0; step < 1_500; step += 1) {
    // Generations rise slowly, so that keys come back after they were removed.
    const results = randomStep(random, directory, model, keySpace, 1 + (step >> 2));
    for (const { code } of decodeResults(results)) met.add(code);
    const bytes =
      step % 100 === 0 ? [...model.keys.values()].reduce((sum, known) => sum + Number(known.bytes), 0) : undefined;
    const { size: tombstones } = model.removed;
    expect(directory.stats()).toMatchObject({
      keys: model.keys.size,
      tombstones,
      ...(bytes === undefined ? {} : { bytes }),
    });
  }
  const left = [...model.keys.keys()];
  expect(decodeResults(directory.lookup(encodeKeys(left), FAMILY_ANY))).toEqual(
    left.map((name) => model.lookup(name, FAMILY_ANY)),
  );
  for (const code of [OK, INVALID, NOT_FOUND, TRY_AGAIN, KEY_ALREADY_EXISTS]) expect([...met]).toContain(code);
});
