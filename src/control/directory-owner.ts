/**
 * The owner's side of the directory: what members ask this one about the keys that it owns. Decides nothing itself: the
 * directory in Wasm does; here are the epochs, the waiting, and the drops that follow from a decision.
 *
 * Every request carries the epoch of its asker. An owner that is behind catches up first, for as long as its patience
 * lasts; one that is ahead answers `stale`.
 *
 * After a change of the ring an owner may not know of objects yet that others hold. Until every live member has
 * announced for the epoch, a key that isn't found is not a miss: the answer waits, and is TRY_AGAIN when patience ends
 * first. It is TRY_AGAIN at once while a member that vanished may come back.
 */
import type { CancelSignal } from "../base/cancel.js";
import type { Clock } from "../base/clock.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import {
  type Decisions,
  decodeKey,
  decodeKeys,
  FAMILY_ANY,
  type Family,
  type KeyBatch,
  keyCountOf,
} from "../decision/index.js";
import type {
  DirectoryReply,
  DirectoryRequest,
  DirectoryService,
  ExplainKeyReply,
} from "../gen/hbmesh/v1/directory_pb.js";
import type { LinkServiceImpl } from "../rpc/link-routes.js";
import { Absences } from "./absences.js";
import { checkFamily, checkLookupFamily } from "./families.js";
import type { Graves } from "./graves.js";
import type { Holders } from "./holders.js";
import type { KeyCheck } from "./key-check.js";
import { KEYS_PER_CALL_MAX } from "./layout-constants.js";
import type { MembershipView } from "./membership.js";
import {
  admitLocations,
  allTryAgain,
  checkExistence,
  checkOwnLocations,
  checkOwnRecords,
  countCode,
  doubtMisses,
  doubtRemovals,
  EXISTENCE_REPLACE,
  firstGenerationOf,
  replaceCode,
  versionsThatEnded,
  withNewer,
} from "./owner-checks.js";
import { OwnerHoldings } from "./owner-holdings.js";
import {
  COMMIT_RECORD_BYTES,
  checkRecordCount,
  pickKeys,
  pickRecords,
  RESULT_RECORD_BYTES,
  Results,
} from "./records.js";
import { findGone } from "./reported.js";
import type { Superseded } from "./superseded.js";
import { Vanished } from "./vanished.js";
import { WaitList } from "./wait-list.js";

export interface DirectoryOwnerOptions {
  decisions: Decisions;
  clock: Clock;
  holders: Holders;
  graves: Graves;
  /** Gets the views from here, and ends with this owner. */
  superseded: Superseded;
  checkKeys: KeyCheck;
  /** How long a request waits for this owner to become able to answer. */
  patienceMs: number;
  /** How long a member that vanished may come back. */
  deadAfterMs: number;
  /** May this member decide for its keys (lease-guard.ts)? */
  mayDecide: () => boolean;
  /** Until when it might, before it joined again. */
  decidedUntilMs: () => number;
}

/** What is asked; a DirectoryRequest without what only protobuf needs. */
export type OwnerRequest = Omit<DirectoryRequest, "$typeName" | "$unknown">;
export type OwnerReply = Omit<DirectoryReply, "$typeName" | "$unknown">;
/** What was asked is answered at once unless something has to be waited for. Throws, or rejects. */
export type OwnerSays = OwnerReply | Promise<OwnerReply>;
export type OwnerExplanation = Omit<ExplainKeyReply, "$typeName" | "$unknown">;

/** May it decide now; has it another ring; or did it not become able to in time? */
type State = "ready" | "stale" | "late";

export class DirectoryOwner {
  readonly #options: DirectoryOwnerOptions;
  #view: MembershipView | undefined;
  /** Members that have announced everything for the current epoch. */
  readonly #announced = new Set<number>();
  /** Requests that wait for an epoch, or for the announcements. */
  readonly #changes: WaitList;
  /** Lookups that wait for keys. */
  readonly #arrivals: WaitList;
  readonly #holdings: OwnerHoldings;
  readonly #absences: Absences;
  readonly vanished: Vanished;

  constructor(options: DirectoryOwnerOptions) {
    this.#options = options;
    this.vanished = new Vanished(options.clock, options.deadAfterMs);
    this.#absences = new Absences(options.clock, options.deadAfterMs);
    this.#holdings = new OwnerHoldings({
      ...options,
      epoch: () => this.#view?.epoch ?? 0n,
      isInTime: (member) => this.#absences.isInTime(member),
      mayBeUntold: () => this.vanished.inDoubt || !this.complete,
      mayReturn: () => this.vanished.inDoubt,
    });
    this.#changes = new WaitList(options.clock);
    this.#arrivals = new WaitList(options.clock);
  }

  /** Takes a new ring into use. */
  setView(view: MembershipView): void {
    const { decisions } = this.#options;
    const before = this.#view;
    this.#view = view;
    const ring = [...view.members.values()].map(({ member }) => ({
      id: member.id,
      weight: member.weight,
      name: member.workerAddress,
    }));
    decisions.setRing(ring);
    decisions.directory.raiseGeneration(firstGenerationOf(view.epoch), view.selfId);
    for (const [id, { revision }] of before?.members ?? []) {
      // A member that has started anew tells again what it holds; what it doesn't tell is gone.
      if (view.members.get(id)?.revision !== revision) {
        decisions.directory.forgetMember(id);
      }
    }
    const own = before?.members.get(before.selfId)?.revision;
    const isBack = own !== undefined && own !== view.members.get(view.selfId)?.revision;
    // Its lease had ended, and others owned its keys meanwhile: what it knew may be undone. Everyone tells it anew.
    decisions.directory.forgetForeign(isBack ? 0 : view.selfId);
    this.#announced.clear();
    this.vanished.setView(view);
    this.#options.superseded.setView(view);
    this.#absences.setView(view, this.#options.decidedUntilMs());
    this.#changes.wakeAll();
    this.#arrivals.wakeAll();
  }

  /** Has every live member announced for the current epoch, and is it still this member that decides? */
  get complete(): boolean {
    return this.#announced.size === this.#view?.members.size && this.#options.mayDecide();
  }

  /** Members that have not announced yet. */
  get missing(): number[] {
    return [...(this.#view?.members.keys() ?? [])].filter((id) => !this.#announced.has(id));
  }

  /**
   * All members have announced what they hold, but for these, which will tell this owner themselves. `doubtMs`: the
   * longest that one of them expects someone back.
   */
  conclude(epoch: bigint, missing: readonly number[], doubtMs: number): void {
    if (this.#view?.epoch !== epoch) {
      return;
    }
    const late = new Set(missing);
    for (const id of this.#view.members.keys()) {
      if (!late.has(id)) {
        this.#announced.add(id);
      }
    }
    this.vanished.tell(doubtMs);
    if (this.complete) {
      this.#changes.wakeAll();
    }
  }

  /** It may be this member again that decides. */
  resume(): void {
    this.#changes.wakeAll();
  }

  close(): void {
    const reason = new HbmeshError(StatusCode.SHUTTING_DOWN, "the owner of the keys is shutting down; try again");
    this.#options.superseded.close();
    this.#changes.close(reason);
    this.#arrivals.close(reason);
  }

  /** For the control link. */
  service(): Omit<LinkServiceImpl<typeof DirectoryService>, "conclude" | "witness" | "entomb" | "reach"> {
    return {
      reserve: (request, { signal }) => this.reserve(request, signal),
      commit: (request, { signal }) => this.commit(request, signal),
      lookup: (request, { signal }) => this.lookup(request, signal),
      remove: (request, { signal }) => this.remove(request, signal),
      announce: (request, { signal }) => this.announce(request, signal),
      reportMissing: (request, { signal }) => this.reportMissing(request, signal),
      addLocation: (request, { signal }) => this.addLocation(request, signal),
      forgetLocations: (request, { signal }) => this.forgetLocations(request, signal),
      explainKey: (request, { signal }) => this.explainKey(request, signal),
    };
  }

  reserve(request: OwnerRequest, signal: CancelSignal): OwnerSays {
    const existence = checkExistence(request.existence);
    const family = checkFamily(request.family);
    return this.#decide(request, signal, () =>
      this.#answer(this.#options.decisions.directory.reserve(request.keys, existence, family)),
    );
  }

  commit(request: OwnerRequest, signal: CancelSignal): OwnerSays {
    const existence = checkExistence(request.existence);
    const family = checkFamily(request.family);
    checkOwnRecords(request);
    return this.#decide(request, signal, () => {
      this.#checkLives(request.memberId);
      const bytes = this.#options.decisions.directory.commit(request.keys, request.records, existence, family);
      this.#wakeLookups(request.keys);
      if (existence !== EXISTENCE_REPLACE) {
        return this.#answer(bytes);
      }
      // Before the answer: when a set is done, no reader finds the old bytes any more, but at a holder that could not
      // be told in time (docs/ARCHITECTURE.md, Decisions). The setter's own sidecar swaps them as it seals.
      const results = new Results(bytes, keyCountOf(request.keys));
      return this.#holdings.dropReplaced(request.keys, results, request.memberId).then((owed) => {
        this.#options.superseded.note(withNewer(owed, request));
        return this.#answer(bytes);
      });
    });
  }

  /** Most are answered at once. */
  lookup(request: OwnerRequest, signal: CancelSignal): OwnerSays {
    const family = checkLookupFamily(request.family);
    const startMs = this.#options.clock.monotonicMs();
    const state = this.#prepare(request, signal, false);
    const now =
      state === "ready" ? this.#answerFound(this.#find(request, family), startMs + request.waitMs) : undefined;
    return now ?? this.#lookUpPatiently(request, family, startMs, state, signal);
  }

  /** Each asker begins with another location, so that readers spread over those who have the bytes. */
  #find({ keys, memberId }: OwnerRequest, family: Family | typeof FAMILY_ANY): Results {
    return new Results(this.#options.decisions.directory.lookup(keys, family, memberId), keyCountOf(keys));
  }

  /** Undefined: none is found, and there is something to wait for. Hits don't wait for the unknown of other keys. */
  #answerFound(results: Results, deadlineMs: number): OwnerReply | undefined {
    const misses = countCode(results, StatusCode.NOT_FOUND);
    if (misses === 0) {
      return this.#answer(results.bytes);
    }
    if (misses === results.count && (!this.complete || this.#options.clock.monotonicMs() < deadlineMs)) {
      return undefined;
    }
    return this.complete
      ? this.#answer((this.vanished.inDoubt ? doubtMisses(results) : results).bytes)
      : this.#answerUndecided(results);
  }

  #answerUndecided(results: Results): OwnerReply {
    return this.#answer(replaceCode(results, StatusCode.NOT_FOUND, StatusCode.TRY_AGAIN).bytes);
  }

  async #lookUpPatiently(
    request: OwnerRequest,
    family: Family | typeof FAMILY_ANY,
    startMs: number,
    state: State | Promise<State>,
    signal: CancelSignal,
  ): Promise<OwnerReply> {
    const { clock, patienceMs } = this.#options;
    const deadlineMs = startMs + request.waitMs;
    if ((await state) === "stale") {
      return this.#stale();
    }
    for (;;) {
      const results = this.#find(request, family);
      const answer = this.#answerFound(results, deadlineMs);
      if (answer !== undefined) {
        return answer;
      }
      if (!this.complete) {
        const patienceEndsMs = Math.max(deadlineMs, startMs + patienceMs);
        if ((await this.#awaitAnnouncements(request.epoch, signal, patienceEndsMs)) === "late") {
          return this.#answerUndecided(results);
        }
      } else {
        await this.#arrivals.wait(decodeKeys(request.keys), Math.max(0, deadlineMs - clock.monotonicMs()), signal);
      }
      if (this.#view?.epoch !== request.epoch) {
        return this.#stale();
      }
    }
  }

  /**
   * Answers `stale` with results when the ring changed on the way: the asker keeps what existed, and asks the new owner
   * too.
   */
  remove(request: OwnerRequest, signal: CancelSignal): OwnerSays {
    const family = checkFamily(request.family);
    return this.#decide(request, signal, async () => {
      const bytes = this.#options.decisions.directory.remove(request.keys, family);
      const versions = versionsThatEnded(request.keys, new Results(bytes, keyCountOf(request.keys)));
      this.#holdings.ends.note(versions, "removed", request.memberId);
      await this.#options.holders.dropEverywhere(versions, request.epoch, true);
      const results = this.vanished.inDoubt ? doubtRemovals(new Results(bytes, keyCountOf(request.keys))).bytes : bytes;
      return { stale: this.#view?.epoch !== request.epoch, epoch: this.#view?.epoch ?? 0n, results };
    });
  }

  async announce(request: OwnerRequest, signal: CancelSignal): Promise<OwnerReply> {
    checkFamily(request.family);
    checkOwnRecords(request);
    const state = await this.#prepare(request, signal, false);
    if (state === "stale") {
      return this.#stale();
    }
    this.#checkLives(request.memberId);
    const results = keyCountOf(request.keys) === 0 ? Results.empty(0) : this.#holdings.takeOver(request);
    this.#wakeLookups(request.keys);
    if (request.last) {
      this.vanished.tell(request.waitMs);
      this.#announced.add(request.memberId);
      if (this.complete) {
        this.#changes.wakeAll();
      }
    }
    return this.#answer(results.bytes);
  }

  /** A reader may be wrong: the holder itself is asked before its location is forgotten. */
  async reportMissing(request: OwnerRequest, signal: CancelSignal): Promise<OwnerReply> {
    checkRecordCount(request.records, RESULT_RECORD_BYTES, request.keys);
    const state = await this.#prepare(request, signal, false);
    if (state === "stale") {
      return this.#stale();
    }
    const reported = new Results(request.records, keyCountOf(request.keys));
    this.#holdings.forget(request, await findGone(this.#options.holders, reported), false);
    return this.#answer(Results.empty(reported.count).bytes);
  }

  /** Only where that very version is: an object that was deleted meanwhile must not come back by a copy of it. */
  addLocation(request: OwnerRequest, signal: CancelSignal): OwnerSays {
    const { directory } = this.#options.decisions;
    const family = checkFamily(request.family);
    checkOwnRecords(request);
    return this.#decide(request, signal, () => {
      this.#checkLives(request.memberId);
      const results = new Results(directory.lookup(request.keys, family), keyCountOf(request.keys));
      const wanted = admitLocations(request, results);
      if (wanted.length > 0) {
        const records = pickRecords(request.records, COMMIT_RECORD_BYTES, wanted);
        const added = new Results(directory.announce(pickKeys(request.keys, wanted), records, family), wanted.length);
        wanted.forEach((index, position) => results.setRecord(index, added.record(position)));
      }
      return this.#answer(results.bytes);
    });
  }

  /** The holder itself says so: there is nothing to verify. */
  async forgetLocations(request: OwnerRequest, signal: CancelSignal): Promise<OwnerReply> {
    const { count } = checkOwnLocations(request);
    if ((await this.#prepare(request, signal, false)) === "stale") {
      return this.#stale();
    }
    this.#holdings.forget(
      request,
      Array.from({ length: count }, (_, index) => index),
      true,
    );
    return this.#answer(Results.empty(count).bytes);
  }

  async explainKey(request: OwnerRequest, signal: CancelSignal): Promise<OwnerExplanation> {
    const state = await this.#prepare(request, signal, false);
    const key = decodeKey(request.keys, 0);
    const end = this.#holdings.ends.of(key);
    return {
      stale: state === "stale",
      epoch: this.#view?.epoch ?? 0n,
      result: this.#options.decisions.directory.lookup(request.keys, FAMILY_ANY),
      complete: this.complete && !this.vanished.inDoubt,
      missing: [...this.missing, ...this.vanished.ids],
      waiting: this.#arrivals.countOf(key),
      ended: end?.how ?? "",
      endedGeneration: end?.generation ?? 0n,
      endedMillisecondsAgo: BigInt(Math.round(end === undefined ? 0 : this.#options.clock.monotonicMs() - end.atMs)),
      endedBy: end?.by ?? 0,
    };
  }

  /** What a member that is gone would put in, nobody would ever take out. */
  #checkLives(member: number): void {
    if (this.#view?.members.has(member) !== true) {
      const message = `member ${member} is no member of the cluster any more; start its worker again`;
      throw new HbmeshError(StatusCode.INTERRUPTED, message);
    }
  }

  #wakeLookups(keys: KeyBatch): void {
    if (!this.#arrivals.isEmpty) {
      this.#arrivals.wake(decodeKeys(keys));
    }
  }

  /** Does what a member asks as soon as this owner can decide, or answers that it can't. */
  #decide(request: OwnerRequest, signal: CancelSignal, work: () => OwnerSays): OwnerSays {
    const inState = (state: State): OwnerSays => {
      if (state === "ready") {
        return work();
      }
      return state === "stale" ? this.#stale() : this.#answer(allTryAgain(request.keys));
    };
    const state = this.#prepare(request, signal, true);
    return state instanceof Promise ? state.then(inState) : inState(state);
  }

  /**
   * Checks the batch and the epoch; with `complete` it also waits for the announcements. No promise when there is
   * nothing to wait for.
   */
  #prepare(request: OwnerRequest, signal: CancelSignal, complete: boolean): State | Promise<State> {
    if (keyCountOf(request.keys) > 0 || !request.last) {
      this.#options.checkKeys(request.keys, KEYS_PER_CALL_MAX);
    }
    const isReady = this.#view?.epoch === request.epoch && (!complete || this.complete);
    return isReady ? "ready" : this.#awaitEpoch(request.epoch, signal, complete);
  }

  async #awaitEpoch(epoch: bigint, signal: CancelSignal, complete: boolean): Promise<State> {
    const { clock, patienceMs } = this.#options;
    const deadlineMs = clock.monotonicMs() + patienceMs;
    while ((this.#view?.epoch ?? 0n) < epoch && clock.monotonicMs() < deadlineMs) {
      await this.#changes.wait([], deadlineMs - clock.monotonicMs(), signal);
    }
    if (this.#view?.epoch !== epoch) {
      return "stale";
    }
    return complete && !this.complete ? this.#awaitAnnouncements(epoch, signal, deadlineMs) : "ready";
  }

  async #awaitAnnouncements(epoch: bigint, signal: CancelSignal, deadlineMs: number): Promise<State> {
    const { clock } = this.#options;
    while (!this.complete && this.#view?.epoch === epoch && clock.monotonicMs() < deadlineMs) {
      await this.#changes.wait([], deadlineMs - clock.monotonicMs(), signal);
    }
    if (this.#view?.epoch !== epoch) {
      return "stale";
    }
    return this.complete ? "ready" : "late";
  }

  #answer(results: Uint8Array): OwnerReply {
    return { stale: false, epoch: this.#view?.epoch ?? 0n, results };
  }

  #stale(): OwnerReply {
    return { stale: true, epoch: this.#view?.epoch ?? 0n, results: new Uint8Array(0) };
  }
}
