/**
 * OwnerHoldings: what holders tell the owner of their keys: which objects they have, and which they have no more.
 *
 * A holder that was away may tell of a version that ended meanwhile. It is refused where the directory knows a newer
 * one, or that the key was deleted; where its drop is still owed (holders.ts); and where the newer version was lost or
 * evicted since (graves.ts).
 */
import type { Clock } from "../base/clock.js";
import { StatusCode } from "../base/errors.js";
import { type Decisions, decodeKey, decodeKeys, type KeyBatch, keyCountOf, readCommit } from "../decision/index.js";
import type { OwnerRequest } from "./directory-owner.js";
import { checkFamily } from "./families.js";
import type { Graves } from "./graves.js";
import type { DroppedVersion, Holders } from "./holders.js";
import { KeyEnds } from "./key-ends.js";
import { ANNOUNCES_COPIES, admitCopies, versionsThatEnded } from "./owner-checks.js";
import { COMMIT_RECORD_BYTES, pickKeys, pickRecords, RESULT_RECORD_BYTES, Results } from "./records.js";
import type { Superseded } from "./superseded.js";

export interface OwnerHoldingsOptions {
  decisions: Decisions;
  clock: Clock;
  holders: Holders;
  graves: Graves;
  superseded: Superseded;
  epoch: () => bigint;
  /** May copies of this member be taken up though nothing else is known of their keys (absences.ts)? */
  isInTime: (member: number) => boolean;
  /** May there be objects that this owner has not been told of? */
  mayBeUntold: () => boolean;
  /** May a member come back that held such objects? */
  mayReturn: () => boolean;
}

export class OwnerHoldings {
  readonly #options: OwnerHoldingsOptions;
  /** How keys ended, for `explain`. */
  readonly ends: KeyEnds;

  constructor(options: OwnerHoldingsOptions) {
    this.#options = options;
    this.ends = new KeyEnds(options.clock);
  }

  /**
   * Forgets the first location of these records of the request, and their keys with the last one. `saysHolder`: it is
   * the holder itself that tells.
   */
  forget(request: OwnerRequest, indexes: readonly number[], saysHolder: boolean): void {
    if (indexes.length === 0) {
      return;
    }
    const { decisions, superseded } = this.#options;
    const keys = pickKeys(request.keys, indexes);
    const records = pickRecords(request.records, RESULT_RECORD_BYTES, indexes);
    const left = new Results(decisions.directory.forgetLocations(keys, records), indexes.length);
    const told = new Results(records, indexes.length);
    const lost: { key: string; generation: bigint }[] = [];
    const lastOnes: DroppedVersion[] = [];
    for (let at = 0; at < left.count; at++) {
      const isGone = left.locations(at).length === 0;
      if (left.existed(at) && isGone) {
        lost.push({ key: decodeKey(keys, at), generation: told.generation(at) });
      }
      // It had all of it.
      if (saysHolder && told.existed(at)) {
        const key = decodeKey(keys, at);
        superseded.isWhole(key, told.generation(at));
        if (isGone) {
          lastOnes.push({ key, generation: told.generation(at) - 1n, locations: [] });
        }
      }
    }
    this.ends.note(lost, "forgotten", request.memberId);
    this.#outdate(lastOnes);
  }

  /**
   * The directory knows nothing of these keys from now on, so that an older version would look like a good one: where
   * one may be that this owner has not been told of, it is kept in mind.
   */
  #outdate(versions: readonly DroppedVersion[]): void {
    const { graves, mayBeUntold, mayReturn } = this.#options;
    if (versions.length > 0 && mayBeUntold()) {
      void graves.outdate(versions, mayReturn());
    }
  }

  /** What a member announces. Results are OK for what was taken up. */
  takeOver(request: OwnerRequest): Results {
    const { decisions, holders, graves, isInTime } = this.#options;
    const { memberId } = request;
    const count = keyCountOf(request.keys);
    const results = Results.empty(count);
    let wanted: number[] = [];
    for (let index = 0; index < count; index++) {
      const object = readCommit(request.records, index);
      if (holders.owesDrop(memberId, object)) {
        // Deleted or replaced while its holder could not be reached.
        holders.settleDrop(memberId, object);
        results.fail(index, StatusCode.TRY_AGAIN);
      } else if (graves.isOutdated(request.keys, index, object.generation)) {
        results.fail(index, StatusCode.TRY_AGAIN);
      } else {
        wanted.push(index);
      }
    }
    const family = checkFamily(request.family);
    if (wanted.length > 0 && request.existence === ANNOUNCES_COPIES) {
      const known = new Results(decisions.directory.lookup(pickKeys(request.keys, wanted), family), wanted.length);
      const records = pickRecords(request.records, COMMIT_RECORD_BYTES, wanted);
      const admitted = admitCopies({ records, family }, known, isInTime(memberId));
      wanted.forEach((index, position) => results.setRecord(index, known.record(position)));
      wanted = admitted.map((position) => wanted[position] as number);
    }
    if (wanted.length > 0) {
      this.#announce(request, wanted, results);
    }
    return results;
  }

  #announce(request: OwnerRequest, wanted: readonly number[], results: Results): void {
    const { decisions, superseded } = this.#options;
    const keys = pickKeys(request.keys, wanted);
    const records = pickRecords(request.records, COMMIT_RECORD_BYTES, wanted);
    const taken = new Results(decisions.directory.announce(keys, records, checkFamily(request.family)), wanted.length);
    void this.dropReplaced(keys, taken, 0).then((owed) => superseded.end(owed));
    if (superseded.count > 0) {
      decodeKeys(keys).forEach((key, at) => void superseded.isWhole(key, readCommit(records, at).generation));
    }
    wanted.forEach((index, position) => results.setRecord(index, taken.record(position)));
  }

  /**
   * Results that carry a replaced version have it dropped at its holders, all but `exceptMember`. Resolves with the
   * versions that somebody may still have.
   */
  dropReplaced(keys: KeyBatch, results: Results, exceptMember: number): Promise<DroppedVersion[]> {
    const { holders, epoch } = this.#options;
    const versions = versionsThatEnded(keys, results).map((version) => ({
      ...version,
      locations: version.locations.filter(({ member }) => member !== exceptMember),
    }));
    return holders.dropEverywhere(versions, epoch(), false);
  }
}
