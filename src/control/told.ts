/**
 * Told: what the owners know already of the objects that this member holds, so that a change of the ring costs only what it moves.
 *
 * When a run of announcements has told every owner everything, its ring is kept as the base. After later changes an owner needs to be told only of keys that another one owned under the base: what
 * it knew then it still knows, and what was committed since was committed to it, since between two rings in both of which it owns a key it has owned it all the time. That holds for owners that have been
 * members since the base; others (new, or back after their lease ended) know nothing, and are told everything. It does not hold when a member came and went since the base: keys were its own in between. Nor
 * when this member itself has started anew, since owners forget then what it told before.
 */
import type { Decisions } from "../decision/index.js";
import type { MembershipView } from "./membership.js";

interface Base {
  /** Members by id, with the revisions of their records. */
  revisions: ReadonlyMap<number, bigint>;
  ownRevision: bigint | undefined;
  /** Owners that could not be told everything then. */
  behind: Set<number>;
}

export class Told {
  readonly #decisions: Decisions;
  #base: Base | undefined;
  /** Revisions of the records of all members since the base. */
  readonly #since = new Set<bigint>();

  constructor(decisions: Decisions) {
    this.#decisions = decisions;
  }

  /** Must get every view, in order. */
  setView(view: MembershipView): void {
    if (view.passed) {
      this.#base = undefined;
    }
    for (const { revision } of view.members.values()) {
      this.#since.add(revision);
    }
    const base = this.#base;
    if (base !== undefined && base.ownRevision !== view.members.get(view.selfId)?.revision) {
      this.#base = undefined;
    }
  }

  /** Does this owner have to be told of a key that `keptOwner` owned under the base? For the view that was set last. */
  planFor(view: MembershipView): (owner: number, keptOwner: number) => boolean {
    const base = this.#base;
    if (base === undefined || this.#hasPassing(base, view)) {
      return () => true;
    }
    return (owner, keptOwner) =>
      owner !== keptOwner || base.behind.has(owner) || base.revisions.get(owner) !== view.members.get(owner)?.revision;
  }

  /** Every owner but those has been told everything under the ring that is in use, which is the view's. */
  concluded(view: MembershipView, behind: Iterable<number>): void {
    const revisions = new Map([...view.members].map(([id, { revision }]) => [id, revision]));
    this.#base = { revisions, ownRevision: revisions.get(view.selfId), behind: new Set(behind) };
    this.#since.clear();
    this.#decisions.keepRing();
  }

  /** This owner has been told everything since the run concluded. */
  caughtUp(owner: number): void {
    this.#base?.behind.delete(owner);
  }

  /** Was there a member since the base that was none then, and is none now? */
  #hasPassing(base: Base, view: MembershipView): boolean {
    const known = new Set(base.revisions.values());
    for (const { revision } of view.members.values()) {
      known.add(revision);
    }
    return [...this.#since].some((revision) => !known.has(revision));
  }
}
