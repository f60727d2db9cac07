/**
 * Checks of what members ask an owner, and the small changes that an owner makes to results of the directory before it
 * sends them.
 */
import { HbmeshError, StatusCode } from "../base/errors.js";
import {
  decodeKey,
  decodeKeys,
  type ExistenceMode,
  FAMILY_DEVICE_CACHE,
  type KeyBatch,
  keyCountOf,
  LOCATIONS_MAX,
  memberOfCommit,
  readCommit,
} from "../decision/index.js";
import type { DirectoryRequest } from "../gen/hbmesh/v1/directory_pb.js";
import type { DroppedVersion } from "./holders.js";
import { COMMIT_RECORD_BYTES, checkRecordCount, RESULT_RECORD_BYTES, Results } from "./records.js";
import type { SupersededVersion } from "./superseded.js";

export const EXISTENCE_REPLACE = 2;

/** Of Announce: what is told are copies of other members' objects, and this member was away since it had them. */
export const ANNOUNCES_COPIES = 1;

/** Of AddLocation: the member takes the object over for good; else it offers a copy. */
export const LOCATION_STAYS = 1;
/**
 * Locations from which on no further copy is taken up: the last place is for the object itself, whose worker may be
 * away.
 */
const COPIES_MAX = LOCATIONS_MAX - 1;

export function checkExistence(value: number): ExistenceMode {
  if (value !== 0 && value !== 1 && value !== EXISTENCE_REPLACE) {
    throw new HbmeshError(StatusCode.INVALID, `existence ${value} is none of 0 (skip), 1 (fail), 2 (replace)`);
  }
  return value;
}

type Spoken = Pick<DirectoryRequest, "keys" | "records" | "memberId">;

/** CommitRecords: a member speaks only for itself. */
export function checkOwnRecords(request: Spoken): void {
  checkRecordCount(request.records, COMMIT_RECORD_BYTES, request.keys);
  for (let index = 0; index < keyCountOf(request.keys); index++) {
    refuseForeign(request.memberId, memberOfCommit(request.records, index));
  }
}

/** ResultRecords whose first location is the member's own. */
export function checkOwnLocations(request: Spoken): Results {
  checkRecordCount(request.records, RESULT_RECORD_BYTES, request.keys);
  const results = new Results(request.records, keyCountOf(request.keys));
  for (let index = 0; index < results.count; index++) {
    refuseForeign(request.memberId, results.locations(index)[0]?.member ?? 0);
  }
  return results;
}

function refuseForeign(speaker: number, member: number): void {
  if (member !== speaker) {
    throw new HbmeshError(StatusCode.INVALID, `member ${speaker} spoke for objects of member ${member}`);
  }
}

export function countCode(results: Results, code: StatusCode): number {
  let found = 0;
  for (let index = 0; index < results.count; index++) {
    found += results.code(index) === code ? 1 : 0;
  }
  return found;
}

export function replaceCode(results: Results, from: StatusCode, to: StatusCode): Results {
  for (let index = 0; index < results.count; index++) {
    if (results.code(index) === from) {
      results.setCode(index, to);
    }
  }
  return results;
}

/** What was not found may be where nobody can look. */
export function doubtMisses(results: Results): Results {
  for (let index = 0; index < results.count; index++) {
    if (results.code(index) === StatusCode.NOT_FOUND) {
      results.setInDoubt(index);
    }
  }
  return results;
}

/** What was not there to be removed may come back with a member that vanished. */
export function doubtRemovals(results: Results): Results {
  for (let index = 0; index < results.count; index++) {
    if (results.code(index) === StatusCode.OK && !results.existed(index)) {
      results.setInDoubt(index);
    }
  }
  return results;
}

/**
 * Positions of the versions that are there, and of which the asker may be a further location. `results` tell what is
 * known of the keys; why others are refused is entered there.
 */
export function admitLocations(
  { records, existence, family }: Pick<DirectoryRequest, "records" | "existence" | "family">,
  results: Results,
): number[] {
  const stays = checkExistence(existence) === LOCATION_STAYS;
  const admitted: number[] = [];
  for (let index = 0; index < results.count; index++) {
    if (results.code(index) !== StatusCode.OK) {
      continue;
    }
    if (results.generation(index) !== readCommit(records, index).generation) {
      results.fail(index, StatusCode.NOT_FOUND);
    } else if (isAdmitted({ records, family }, index, results, stays)) {
      admitted.push(index);
    }
  }
  return admitted;
}

/** May the member be a further location of the version that is there? Why not is entered. */
function isAdmitted(
  { records, family }: Pick<DirectoryRequest, "records" | "family">,
  index: number,
  results: Results,
  stays: boolean,
): boolean {
  const isHost = family !== FAMILY_DEVICE_CACHE;
  const { member, slot } = readCommit(records, index);
  const locations = results.locations(index);
  const known = locations.filter((location) => location.member === member);
  if (isHost && known.some((location) => location.slot !== slot)) {
    // A member holds a host object once: a second copy would push out the first, which nobody would tell to drop its
    // bytes.
    results.fail(index, StatusCode.KEY_ALREADY_EXISTS);
    return false;
  }
  if (isHost && !stays && known.length === 0 && locations.length >= COPIES_MAX) {
    results.fail(index, StatusCode.NO_SPACE);
    return false;
  }
  return true;
}

/**
 * Positions of the copies that a member announces, and that may be taken up now. `results` tell what is known of the
 * keys; why others are not is entered there: NOT_READY means that the member is to offer them when all have announced.
 *
 * Where that version is, a copy is a further location. Where nothing is, or an older version, the copy is all that is
 * left, but only if this owner would know of what ended it meanwhile (`isInTime`).
 */
export function admitCopies(
  { records, family }: Pick<DirectoryRequest, "records" | "family">,
  results: Results,
  isInTime: boolean,
): number[] {
  const admitted: number[] = [];
  for (let index = 0; index < results.count; index++) {
    const { generation } = readCommit(records, index);
    const isThere = results.code(index) === StatusCode.OK;
    if (!isThere && results.code(index) !== StatusCode.NOT_FOUND) {
      continue;
    }
    if (isThere && results.generation(index) === generation) {
      if (isAdmitted({ records, family }, index, results, false)) {
        admitted.push(index);
      }
    } else if (isThere && results.generation(index) > generation) {
      results.fail(index, StatusCode.NOT_FOUND);
    } else if (isInTime) {
      admitted.push(index);
    } else {
      results.fail(index, StatusCode.NOT_READY);
    }
  }
  return admitted;
}

/** Versions that a result carries because they were removed or replaced (OK with the flag existed). */
export function versionsThatEnded(keys: KeyBatch, results: Results): DroppedVersion[] {
  const versions: DroppedVersion[] = [];
  for (let index = 0; index < results.count; index++) {
    if (results.code(index) === StatusCode.OK && results.existed(index)) {
      const key = decodeKey(keys, index);
      versions.push({ key, generation: results.generation(index), locations: results.locations(index) });
    }
  }
  return versions;
}

/** These versions, and by which version of a commit each was replaced. */
export function withNewer(
  versions: readonly DroppedVersion[],
  { keys, records }: Pick<DirectoryRequest, "keys" | "records">,
): SupersededVersion[] {
  if (versions.length === 0) {
    return [];
  }
  const indexes = new Map(decodeKeys(keys).map((key, index) => [key, index]));
  return versions.map((version) => {
    const { generation, member, slot } = readCommit(records, indexes.get(version.key) as number);
    return { ...version, newer: { generation, location: { member, slot } } };
  });
}

/** One record a key that says nothing but TRY_AGAIN. */
export function allTryAgain(keys: KeyBatch): Uint8Array {
  const results = Results.empty(keyCountOf(keys));
  for (let index = 0; index < results.count; index++) {
    results.setCode(index, StatusCode.TRY_AGAIN);
  }
  return results.bytes;
}

/**
 * Where an epoch's generations begin: above 24 bits of counter and 16 bits of member. 2^24 sets between two changes
 * reach into the next epoch's range. So members tell each other, as they conclude for an epoch, the highest one that
 * each knows, and give only such as are above all of them; one that starts anew is told what is held before it gives
 * any. An epoch is a revision of the store, which others count up too: only its low 23 bits are used, so that 2^47
 * generations are always left above.
 */
export function firstGenerationOf(epoch: bigint): bigint {
  return BigInt.asUintN(GENERATION_EPOCH_BITS, epoch) << GENERATION_BITS;
}

const GENERATION_BITS = 40n;
const GENERATION_EPOCH_BITS = 23;
