/**
 * LeaseGuard: may this member decide for the keys that it owns? Once its lease has ended others own them, though it may
 * not have heard of it: it was stopped, or does not reach the store. From the time at which its lease may have ended,
 * by its own clock, it gives no answer as an owner that claims something (a miss, a removal, a set), until it has
 * joined again.
 *
 * Unless nobody reaches the store: then nobody has taken its place. It asks the first few members by id (collector.ts)
 * about every WITNESS_MS, each at times of its own, and in a large cluster half as often once they agree; if most of
 * them have the same ring, and their leases may have ended too, it goes on. Two of them that are cut off together with
 * it from everyone else would be wrong witnesses. If they don't, this member's own questions about the keys that it
 * owned fail at once, until it has joined again.
 */
import type { Clock, Timer } from "../base/clock.js";
import type { Logger } from "../base/log.js";
import type { RandomSource } from "../base/random.js";
import type { WitnessReply } from "../gen/hbmesh/v1/directory_pb.js";
import { collectorsOf } from "./collector.js";
import type { MembershipView } from "./membership.js";
import type { Peers } from "./peers.js";

export type Witness = Omit<WitnessReply, "$typeName" | "$unknown">;

/** Of one witness: silent, it can't be reached. */
type Testimony = "agrees" | "denies" | "silent";

export interface LeaseGuardOptions {
  clock: Clock;
  log: Logger;
  random: RandomSource;
  peers: Peers;
  view: () => MembershipView | undefined;
  /** Until when the lease lasts, by this member's clock. */
  leaseUntilMs: () => number;
  /** Is the lease that lasts so long that of the record in the view? */
  isRecordCurrent: () => boolean;
  /** It may decide again. */
  onResume: () => void;
  /**
   * It may not decide, and that will not be over in a moment: it reaches too few of the others, or these have denied
   * for a while that the store is away. Each time that it has asked.
   */
  onOut: () => void;
}

const WITNESS_MS = 300;
/** So long an excuse lasts from when it was asked for. */
const EXCUSE_MS = 1_000;
/** Leases that end because the store is gone don't end at the same time. */
const OUT_AFTER_MS = 2_000;
/**
 * Shares of WITNESS_MS between two looks, the least and the most: what ended for all at once is not asked for by all at
 * once.
 */
const SPREAD_MIN = 0.75;
const SPREAD_MAX = 1.25;
/** Above so many members, those that are excused ask half as often: all of them ask the same three. */
const MEMBERS_MANY = 100;

/** For keys that this member owned, while it may not decide. */
export const OUT_MESSAGE =
  "this worker's lease in the store has ended, and others may own the key by now; try again, or ask another worker: check that this one reaches the store";
const ALONE_MESSAGE = "the store can't be reached, by others neither: going on with the last ring";

export class LeaseGuard {
  readonly #options: LeaseGuardOptions;
  #timer: Timer | undefined;
  #excusedUntilMs = Number.NEGATIVE_INFINITY;
  /** Until when the lease lasts that was looked at last. */
  #heldUntilMs = Number.NEGATIVE_INFINITY;
  #isExcused = false;
  /** Since when the witnesses don't agree. */
  #refusedMs: number | undefined;
  #closed = false;

  constructor(options: LeaseGuardOptions) {
    this.#options = options;
  }

  get mayDecide(): boolean {
    return this.#holdsLease || this.#options.clock.monotonicMs() < this.#excusedUntilMs;
  }

  /** Until when it may, as far as was known when the lease was renewed last, or an excuse was found. */
  get decidedUntilMs(): number {
    return Math.max(this.#heldUntilMs, this.#excusedUntilMs);
  }

  /** What this member goes on without, for people; or empty. */
  get warning(): string {
    return this.mayDecide && !this.#holdsLease ? ALONE_MESSAGE : "";
  }

  /** What this member tells of itself to one whose lease has ended. */
  get witness(): Witness {
    return { epoch: this.#options.view()?.epoch ?? 0n, leaseOver: !this.#holdsLease };
  }

  /** The lease was renewed, or the record written: to be called after each. */
  renewed(): void {
    if (this.#holdsLease) {
      this.#heldUntilMs = this.#options.leaseUntilMs();
      this.#isExcused = false;
      this.#refusedMs = undefined;
      this.#options.onResume();
    }
    this.#arm();
  }

  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
  }

  get #holdsLease(): boolean {
    const { clock, leaseUntilMs, isRecordCurrent } = this.#options;
    return clock.monotonicMs() < leaseUntilMs() && isRecordCurrent();
  }

  /** Looks again when the lease may have ended, and often from then on. */
  #arm(): void {
    if (!this.#closed) {
      const { clock, random, leaseUntilMs, view } = this.#options;
      const isMany = (view()?.members.size ?? 0) > MEMBERS_MANY;
      const spread = SPREAD_MIN + (SPREAD_MAX - SPREAD_MIN) * random.nextFraction();
      const waitMs = WITNESS_MS * spread * (isMany && this.#isExcused ? 2 : 1);
      this.#timer ??= clock.setTimer(Math.max(waitMs, leaseUntilMs() - clock.monotonicMs()), () => {
        this.#timer = undefined;
        void this.#look();
        this.#arm();
      });
    }
  }

  /** Never rejects. */
  async #look(): Promise<void> {
    const { clock, log, view: viewNow, onResume, onOut } = this.#options;
    const view = viewNow();
    if (this.#holdsLease || view === undefined) {
      return;
    }
    const nowMs = clock.monotonicMs();
    const witnesses = collectorsOf(view);
    const said = await Promise.all(witnesses.map((id) => this.#ask(id, view)));
    const count = (wanted: Testimony): number => said.filter((each) => each === wanted).length;
    const isExcused = count("agrees") > witnesses.length / 2;
    if (this.#closed || this.#holdsLease) {
      return;
    }
    if (isExcused) {
      this.#excusedUntilMs = nowMs + EXCUSE_MS;
      this.#refusedMs = undefined;
      onResume();
    } else if (!this.mayDecide) {
      this.#refusedMs ??= nowMs;
      const isCutOff = count("silent") >= witnesses.length / 2;
      if (isCutOff || nowMs - this.#refusedMs >= OUT_AFTER_MS) {
        onOut();
      }
    }
    if (isExcused && !this.#isExcused) {
      log.warn({ epoch: view.epoch }, ALONE_MESSAGE);
    }
    this.#isExcused = isExcused;
  }

  async #ask(id: number, view: MembershipView): Promise<Testimony> {
    if (id === view.selfId) {
      return "agrees";
    }
    try {
      const said = await this.#options.peers.get(id).directory.witness({}, { timeoutMs: WITNESS_MS });
      return said.leaseOver && said.epoch === view.epoch ? "agrees" : "denies";
    } catch {
      return "silent";
    }
  }
}
