/**
 * Copies: those of other workers' objects that this member holds (--replica_percent), and device memory that its
 * clients offer as a further source (shareReplica).
 *
 * While its lease has ended, or its control process or its sidecar was dead, this member is no location of them: a
 * delete meanwhile is confirmed without it. So it announces them as copies then. An owner takes a copy up where that
 * very version is. Where nothing is known of the key the copy may be all that is left: it is taken up by an owner that
 * would know of a delete, since the absence was short (absences.ts). By others it is to be offered again when everyone
 * has announced, and is dropped if its version is not there then. Losing a copy is allowed; bringing back what was
 * deleted is not.
 *
 * A member that stays a member announces its copies like all that it holds: it was told of every delete, so a copy
 * whose source is dead keeps its key.
 */
import type { Clock } from "../base/clock.js";
import { pause } from "../base/deadline.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { type Family, type KeyBatch, keyCountOf } from "../decision/index.js";
import type { MembershipView } from "./membership.js";
import type { Answer, OwnerCalls } from "./owner-calls.js";
import { COMMIT_RECORD_BYTES, pickKeys, pickRecords, RESULT_RECORD_BYTES, Results } from "./records.js";

/** Keys, each once, and what this member holds under them. */
export interface Part {
  keys: KeyBatch;
  records: Uint8Array;
  family: Family;
  /** Copies that owners may not know any more. */
  areCopies?: boolean;
}

export interface CopiesOptions {
  clock: Clock;
  calls: Pick<OwnerCalls, "addLocations">;
}

const RETRY_MS = 200;

export class Copies {
  readonly #options: CopiesOptions;
  /** Revision of this member's record under which owners have taken up all copies that are here. */
  #revision: bigint | undefined;
  /** Copies that are being offered. */
  #unconfirmed = 0;

  constructor(options: CopiesOptions) {
    this.#options = options;
  }

  get unconfirmed(): number {
    return this.#unconfirmed;
  }

  /** Has this member been one ever since owners took its copies up? */
  areKnown(view: MembershipView): boolean {
    return this.#revision === revisionOf(view);
  }

  /** Owners have decided about all of them. */
  areDecided(view: MembershipView): void {
    this.#revision = revisionOf(view);
  }

  /**
   * Offers these copies until each has been decided about, or the signal aborts. `onDecided` gets what was decided,
   * part by part, with results in the order of its keys: what has another code than OK is to be dropped. Rejects only
   * as `onDecided` does.
   */
  async offer(
    parts: readonly Part[],
    onDecided: (part: Part, results: Results) => Promise<void>,
    signal: AbortSignal,
  ): Promise<void> {
    this.#unconfirmed = parts.reduce((sum, { keys }) => sum + keyCountOf(keys), 0);
    for (const part of parts) {
      let left: Part | undefined = part;
      while (left !== undefined && !signal.aborted) {
        left = await this.#offerOnce(left, onDecided, signal);
        if (left !== undefined) {
          await pause(this.#options.clock, RETRY_MS, signal);
        }
      }
    }
  }

  /** Returns what has to be offered again. */
  async #offerOnce(
    part: Part,
    onDecided: (part: Part, results: Results) => Promise<void>,
    signal: AbortSignal,
  ): Promise<Part | undefined> {
    let answer: Answer;
    try {
      const { keys, records, family } = part;
      answer = await this.#options.calls.addLocations({ keys, records, family, signal });
    } catch {
      // The signal, or this member ends.
      return part;
    }
    const { results } = answer;
    const indexes = [...Array(results.count).keys()];
    const again = new Set(indexes.filter((index) => isUndecided(answer, index)));
    const decided = indexes.filter((index) => !again.has(index));
    if (decided.length > 0) {
      const records = pickRecords(results.bytes, RESULT_RECORD_BYTES, decided);
      await onDecided(partOf(part, decided), new Results(records, decided.length));
      this.#unconfirmed -= decided.length;
    }
    return again.size === 0 ? undefined : partOf(part, [...again]);
  }
}

/**
 * Nobody has said what is to become of it: its owner can't be reached, or can't tell yet. A question that is at fault
 * would be so every time.
 */
function isUndecided({ results, errors, undecided }: Answer, index: number): boolean {
  const error = errors.get(index);
  const isRefused = error !== undefined && HbmeshError.from(error).code === StatusCode.INVALID;
  return undecided.has(index) || (error !== undefined && !isRefused) || results.code(index) === StatusCode.TRY_AGAIN;
}

function revisionOf({ members, selfId }: MembershipView): bigint | undefined {
  return members.get(selfId)?.revision;
}

export function partOf({ keys, records, ...rest }: Part, indexes: readonly number[]): Part {
  return { ...rest, keys: pickKeys(keys, indexes), records: pickRecords(records, COMMIT_RECORD_BYTES, indexes) };
}
