/**
 * Collector: where members say that they have announced everything, and learn when all have. Telling each owner itself
 * would take a message for each pair of members at every change of the ring; so they tell the first few members by id,
 * which answer when everyone has told them. One of these is enough; there are several, so that a dead or cut-off one
 * holds up nobody.
 */
import type { CancelSignal } from "../base/cancel.js";
import type { Clock } from "../base/clock.js";
import { createDeferred, pause, withDeadline } from "../base/deadline.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { ConcludeReply, ConcludeRequest } from "../gen/hbmesh/v1/directory_pb.js";
import type { MembershipView } from "./membership.js";
import type { Peers } from "./peers.js";
import { WaitList } from "./wait-list.js";

export type Conclusion = Omit<ConcludeRequest, "$typeName" | "$unknown">;
export type ConcludeAnswer = Omit<ConcludeReply, "$typeName" | "$unknown">;

export interface CollectorOptions {
  clock: Clock;
  /** How long a conclusion for an epoch that this member has not seen yet waits for it. */
  patienceMs: number;
}

/** Members that are told. */
export const COLLECTORS_MAX = 3;
/** A collector answers after this time at the latest; then it is asked anew. */
const WAIT_MS = 10_000;
const RETRY_MS = 200;

/** The first few members by id. */
export function collectorsOf(view: MembershipView): number[] {
  return [...view.members.keys()].sort((a, b) => a - b).slice(0, COLLECTORS_MAX);
}

/** The serving half. */
export class Collector {
  readonly #options: CollectorOptions;
  readonly #changes: WaitList;
  #view: MembershipView | undefined;
  /** By member that has concluded for the epoch: how long it expects someone back. */
  readonly #concluded = new Map<number, number>();
  /** By owner: members that could not tell it everything. */
  readonly #untold = new Map<number, Set<number>>();
  /** Of those who have concluded. */
  #highestGeneration = 0n;

  constructor(options: CollectorOptions) {
    this.#options = options;
    this.#changes = new WaitList(options.clock);
  }

  setView(view: MembershipView): void {
    this.#view = view;
    this.#concluded.clear();
    this.#untold.clear();
    this.#highestGeneration = 0n;
    this.#changes.wakeAll();
  }

  close(): void {
    this.#changes.close(new HbmeshError(StatusCode.SHUTTING_DOWN, "this member is shutting down; ask another one"));
  }

  /** Answers when every member has concluded for this epoch, the ring has changed, or the time is over. */
  async conclude(request: Conclusion, signal: CancelSignal): Promise<ConcludeAnswer> {
    const { clock, patienceMs } = this.#options;
    const untilMs = clock.monotonicMs() + patienceMs;
    while ((this.#view?.epoch ?? 0n) < request.epoch && clock.monotonicMs() < untilMs) {
      await this.#changes.wait([], untilMs - clock.monotonicMs(), signal);
    }
    if (this.#view?.epoch === request.epoch) {
      this.#take(request);
    }
    const deadlineMs = clock.monotonicMs() + request.waitMs;
    while (this.#view?.epoch === request.epoch && !this.#isComplete && clock.monotonicMs() < deadlineMs) {
      await this.#changes.wait([], deadlineMs - clock.monotonicMs(), signal);
    }
    const stale = this.#view?.epoch !== request.epoch;
    return {
      stale,
      epoch: this.#view?.epoch ?? 0n,
      complete: !stale && this.#isComplete,
      missing: stale ? [] : [...(this.#untold.get(request.memberId) ?? [])],
      doubtMs: stale ? 0 : Math.max(0, ...this.#concluded.values()),
      highestGeneration: stale ? 0n : this.#highestGeneration,
    };
  }

  get #isComplete(): boolean {
    return this.#concluded.size === this.#view?.members.size;
  }

  #take({ memberId, untold, doubtMs, highestGeneration }: Conclusion): void {
    if (this.#view?.members.has(memberId) !== true) {
      const message = `member ${memberId} is no member of the cluster any more; start its worker again`;
      throw new HbmeshError(StatusCode.INTERRUPTED, message);
    }
    for (const owner of untold) {
      const members = this.#untold.get(owner) ?? new Set();
      this.#untold.set(owner, members);
      members.add(memberId);
    }
    this.#concluded.set(memberId, doubtMs);
    if (highestGeneration > this.#highestGeneration) {
      this.#highestGeneration = highestGeneration;
    }
    if (this.#isComplete) {
      this.#changes.wakeAll();
    }
  }
}

export interface ConcluderOptions {
  clock: Clock;
  peers: Peers;
  /** This member's own. */
  collector: Collector;
  requestTimeoutMs: number;
}

/** The asking half. */
export class Concluder {
  readonly #options: ConcluderOptions;

  constructor(options: ConcluderOptions) {
    this.#options = options;
  }

  /**
   * Tells the collectors that this member has told every owner but `untold` everything. Resolves with the first answer
   * that all members have concluded; undefined when the signal aborts before that. Never rejects.
   */
  async conclude(
    view: MembershipView,
    {
      signal,
      untold,
      ...said
    }: Pick<Conclusion, "doubtMs" | "highestGeneration"> & {
      untold: readonly number[];
      signal: CancelSignal;
    },
  ): Promise<ConcludeAnswer | undefined> {
    const request = { ...said, epoch: view.epoch, memberId: view.selfId, untold: [...untold], waitMs: WAIT_MS };
    const state = { isAnswered: false };
    const first = createDeferred<ConcludeAnswer | undefined>();
    const asked = collectorsOf(view).map(async (collector) => {
      const said = await this.#ask(collector, view, request, signal, state);
      if (said !== undefined) {
        state.isAnswered = true;
        first.resolve(said);
      }
    });
    // The others answer at about the same time; nobody waits for them.
    void Promise.all(asked).then(() => first.resolve(undefined));
    return first.promise;
  }

  /** Asks one collector until it says that all have concluded. */
  async #ask(
    collector: number,
    view: MembershipView,
    request: Conclusion,
    signal: CancelSignal,
    state: { readonly isAnswered: boolean },
  ): Promise<ConcludeAnswer | undefined> {
    const { clock } = this.#options;
    while (!signal.aborted && !state.isAnswered) {
      try {
        const said = await this.#call(collector, view.selfId, request, signal);
        if (said.complete) {
          return said;
        }
        if (said.stale) {
          // One of the two will see a newer ring, which ends this.
          await pause(clock, RETRY_MS, signal);
        }
      } catch {
        // Another collector may be reached, or the ring changes.
        await pause(clock, RETRY_MS, signal);
      }
    }
    return undefined;
  }

  #call(collector: number, selfId: number, request: Conclusion, signal: CancelSignal): Promise<ConcludeAnswer> {
    const { clock, peers, collector: own, requestTimeoutMs } = this.#options;
    const timeoutMs = request.waitMs + requestTimeoutMs;
    if (collector === selfId) {
      return withDeadline(own.conclude(request, signal), { clock, timeoutMs, signal, what: "concluding" });
    }
    return peers.get(collector).directory.conclude(request, { timeoutMs, signal });
  }
}
