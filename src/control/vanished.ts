/**
 * Vanished: workers whose lease ended although they did not leave. They may run on, unseen (paused, cut off from the
 * store), and hold keys that nobody else has: for a while what an owner does not find is not a sure miss. That ends
 * when the worker is a member again (then it announces, as all do) or counts as dead.
 *
 * An owner that joined later has not seen who vanished: the others tell it as they announce for the epoch.
 */
import type { Clock } from "../base/clock.js";
import type { MembershipView } from "./membership.js";

export class Vanished {
  readonly #clock: Clock;
  readonly #deadAfterMs: number;
  /** By worker address: its last member id, and until when it may come back. */
  readonly #missing = new Map<string, { id: number; untilMs: number }>();
  #view: MembershipView | undefined;
  /** Until when others that have announced for this epoch expect someone back. */
  #toldUntilMs = 0;

  constructor(clock: Clock, deadAfterMs: number) {
    this.#clock = clock;
    this.#deadAfterMs = deadAfterMs;
  }

  setView(view: MembershipView): void {
    const untilMs = this.#clock.monotonicMs() + this.#deadAfterMs;
    for (const [id, { member }] of this.#view?.members ?? []) {
      // Without transports it has no sidecar, and held nothing.
      const isThere = view.members.get(id)?.member.workerAddress === member.workerAddress;
      if (!isThere && !view.left.has(id) && member.transports.length > 0) {
        this.#missing.set(member.workerAddress, { id, untilMs });
      }
    }
    for (const { member } of view.members.values()) {
      this.#missing.delete(member.workerAddress);
    }
    this.#view = view;
    this.#toldUntilMs = 0;
  }

  /** Another member announced, and expects someone back for so long. */
  tell(doubtMs: number): void {
    this.#toldUntilMs = Math.max(this.#toldUntilMs, this.#clock.monotonicMs() + Math.min(doubtMs, this.#deadAfterMs));
  }

  /** How long someone whom this member saw vanish may still come back; 0: nobody. */
  get ownDoubtMs(): number {
    const nowMs = this.#clock.monotonicMs();
    return Math.max(0, ...[...this.#missing.values()].map(({ untilMs }) => Math.ceil(untilMs - nowMs)));
  }

  /** May there be objects that nobody has announced? */
  get inDoubt(): boolean {
    return this.#toldUntilMs > this.#clock.monotonicMs() || this.ownDoubtMs > 0;
  }

  /** Last ids of those who may come back, as far as this member saw them. */
  get ids(): number[] {
    const nowMs = this.#clock.monotonicMs();
    return [...this.#missing.values()].filter(({ untilMs }) => untilMs > nowMs).map(({ id }) => id);
  }
}

/** For a key that was not found meanwhile. */
export const DOUBT_MESSAGE =
  "no object is known under this key, but a worker vanished without leaving, and may hold it: it is not known yet whether it comes back; try again, or set the key anew";
