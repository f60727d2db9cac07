/**
 * Absences: which members are back soon enough for their copies to count like objects of their own.
 *
 * While a worker is away, versions end without it. Owners remember that for as long as a worker that vanished may come
 * back (graves.ts). So a copy of a worker that is back within that time may be taken up although nothing else is known
 * of its key: a delete, or a newer version, would be known. After a longer absence, or where this member has not seen
 * the worker before, nobody can tell.
 *
 * Judged once for each record of a member: what it still has to tell later does not become better by waiting.
 */
import type { Clock } from "../base/clock.js";
import type { MemberEntry, MembershipView } from "./membership.js";

interface Seen {
  entry: MemberEntry;
  /** From when on absences of this worker count as short: it has been seen for so long that it has told all. */
  knownFromMs: number;
  /** Since when it is no member; undefined: it is one. */
  awaySinceMs: number | undefined;
  isInTime: boolean;
}

export class Absences {
  readonly #clock: Clock;
  readonly #deadAfterMs: number;
  /** By worker address: members, and those that went less than `deadAfterMs` ago. */
  readonly #seen = new Map<string, Seen>();

  constructor(clock: Clock, deadAfterMs: number) {
    this.#clock = clock;
    this.#deadAfterMs = deadAfterMs;
  }

  /** `decidedUntilMs`: until when this member could decide for its keys, before this view. */
  setView(view: MembershipView, decidedUntilMs: number): void {
    const nowMs = this.#clock.monotonicMs();
    if (nowMs - decidedUntilMs > this.#deadAfterMs) {
      // This member was away itself: others decided, and may have forgotten it since.
      this.#seen.clear();
    }
    for (const [address, seen] of this.#seen) {
      if (!isMember(view, seen.entry)) {
        seen.awaySinceMs ??= Math.min(nowMs, decidedUntilMs);
      }
      if (seen.awaySinceMs !== undefined && nowMs - seen.awaySinceMs > this.#deadAfterMs) {
        this.#seen.delete(address);
      }
    }
    for (const entry of view.members.values()) {
      this.#see(entry, nowMs);
    }
  }

  /** Would this member know of whatever ended while that one was away? */
  isInTime(id: number): boolean {
    return [...this.#seen.values()].some(({ entry, isInTime }) => entry.member.id === id && isInTime);
  }

  #see(entry: MemberEntry, nowMs: number): void {
    const { workerAddress } = entry.member;
    const seen = this.#seen.get(workerAddress);
    if (seen === undefined) {
      const knownFromMs = nowMs + this.#deadAfterMs;
      this.#seen.set(workerAddress, { entry, knownFromMs, awaySinceMs: undefined, isInTime: false });
    } else if (seen.entry !== entry) {
      Object.assign(seen, { entry, awaySinceMs: undefined, isInTime: nowMs >= seen.knownFromMs });
    }
  }
}

function isMember(view: MembershipView, { member }: MemberEntry): boolean {
  return view.members.get(member.id)?.member.workerAddress === member.workerAddress;
}
