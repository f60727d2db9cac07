/**
 * Told: what the owners know already of the objects that this member holds, so that a change of the ring costs only
 * what it moves.
 *
 * When a run of announcements has told every owner everything, its ring is kept as the base. After later changes an
 * owner needs to be told only of keys that another one owned under the base: what it knew then it still knows, and what
 * was committed since was committed to it, since between two rings in both of which it owns a key it has owned it all
 * the time. That holds for owners that have been members since the base; others (new, or back after their lease ended)
 * know nothing, and are told everything. It does not hold when a member came and went since the base: keys were its own
 * in between. Nor when this member itself has started anew, since owners forget then what it told before.
 */
import type { Decisions } from "../decision/index.js";
import type { MemberEntry, MembershipView } from "./membership.js";

interface Base {
  members: ReadonlyMap<number, MemberEntry>;
  /** Owners that could not be told everything then. */
  behind: Set<number>;
}

export class Told {
  readonly #decisions: Decisions;
  #base: Base | undefined;
  #last: ReadonlyMap<number, MemberEntry> = new Map();
  /** Records that came into a view since the base. */
  #came: MemberEntry[] = [];

  constructor(decisions: Decisions) {
    this.#decisions = decisions;
  }

  /** Must get every view, in order. */
  setView({ members, selfId, passed }: MembershipView): void {
    if (passed || this.#base?.members.get(selfId) !== members.get(selfId)) {
      this.#base = undefined;
    }
    if (this.#base !== undefined) {
      for (const [id, entry] of members) {
        if (this.#last.get(id) !== entry) {
          this.#came.push(entry);
        }
      }
    }
    this.#last = members;
  }

  /** Does this owner have to be told of a key that `keptOwner` owned under the base? For the view that was set last. */
  planFor({ members }: MembershipView): (owner: number, keptOwner: number) => boolean {
    const base = this.#base;
    // Was there a member since the base that was none then, and is none now?
    const isPassing = (entry: MemberEntry): boolean =>
      members.get(entry.member.id) !== entry && base?.members.get(entry.member.id) !== entry;
    if (base === undefined || this.#came.some(isPassing)) {
      return () => true;
    }
    return (owner, keptOwner) =>
      owner !== keptOwner || base.behind.has(owner) || base.members.get(owner) !== members.get(owner);
  }

  /** Every owner but those has been told everything under the ring that is in use, which is the view's. */
  concluded({ members }: MembershipView, behind: Iterable<number>): void {
    this.#base = { members, behind: new Set(behind) };
    this.#came = [];
    this.#decisions.keepRing();
  }

  /** This owner has been told everything since the run concluded. */
  caughtUp(owner: number): void {
    this.#base?.behind.delete(owner);
  }
}
