/**
 * OwnerCalls: the asker's side of the directory. Splits a batch by owner (in Wasm), asks the owners at once, merges
 * their answers, and asks again when the ring has changed. Every key gets an answer: a code of its own where its owner
 * could not be asked.
 */
import { Canceller, type CancelSignal, EitherSignal } from "../base/cancel.js";
import type { Clock } from "../base/clock.js";
import { pause, withDeadline } from "../base/deadline.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import {
  type Decisions,
  type ExistenceMode,
  type FAMILY_ANY,
  type Family,
  type KeyBatch,
  keyCountOf,
  readCommit,
  writeCommit,
} from "../decision/index.js";
import type { Departed, DepartureWatch } from "./departed.js";
import type { DirectoryOwner, OwnerExplanation, OwnerReply, OwnerRequest, OwnerSays } from "./directory-owner.js";
import type { MembershipView } from "./membership.js";
import type { Peers } from "./peers.js";
import { COMMIT_RECORD_BYTES, pickKeys, pickNumbers, pickRecords, Results } from "./records.js";
import { WaitList } from "./wait-list.js";

export type OwnerMethod =
  | "reserve"
  | "commit"
  | "lookup"
  | "remove"
  | "announce"
  | "reportMissing"
  | "addLocation"
  | "forgetLocations";

/** What owners are still to be told before they may be asked to take a key up anew. */
export interface EarlierForgets {
  /** Resolves with the owner's answer if it can't be told; undefined, at once, if there is nothing to tell. */
  tellFirst(owner: number, epoch: bigint, keys: KeyBatch): Promise<OwnerAnswer | undefined> | undefined;
}

export interface OwnerCallsOptions {
  decisions: Decisions;
  clock: Clock;
  peers: Peers;
  /** Answers for the keys that this member owns. */
  owner: DirectoryOwner;
  /** Objects of this member that go while owners are told of them. */
  departed: Departed;
  forgets: EarlierForgets;
  /** How long one question may take, its waiting apart. */
  requestTimeoutMs: number;
}

export interface Question {
  method: OwnerMethod;
  keys: KeyBatch;
  /** One record a key, of `recordBytes` each. */
  records?: Uint8Array;
  recordBytes?: number;
  existence?: ExistenceMode;
  reserves?: boolean;
  /** Default: host objects. */
  family?: Family | typeof FAMILY_ANY;
  signal?: CancelSignal | undefined;
}

/** What a commit and a further location have in common. */
export interface CommitQuestion {
  keys: KeyBatch;
  /** CommitRecords that name this member. */
  records: Uint8Array;
  existence?: ExistenceMode;
  /** The records have generation 0: the owners give them. */
  reserves?: boolean;
  family: Family;
  signal?: CancelSignal | undefined;
}

/** Results in the order of the keys, and what to tell of those whose owner could not be asked. */
export interface Answer {
  results: Results;
  errors: Map<number, HbmeshError>;
  /** Keys about which no owner had decided when the time was over. */
  undecided: ReadonlySet<number>;
}

/** What one owner said of its part of a batch. */
export type OwnerAnswer =
  | { t: "results"; results: Results }
  | { t: "stale"; epoch: bigint; results: Results | undefined }
  | { t: "failed"; error: HbmeshError };

/** What is asked of one owner, beside what the question says. */
export type OwnerPart = Pick<OwnerRequest, "keys" | "records" | "existence" | "waitMs" | "last">;

/** Keys of one owner, and where they are in the batch. */
export type OwnerGroup = ReturnType<Decisions["groupByOwner"]>[number];

/** Keys that are still to be asked for, and where they are in the question. */
interface Remaining {
  keys: KeyBatch;
  indexes: number[];
}

/** Between two questions about keys that their owner can't decide yet. */
const RETRY_MS = 20;

export class OwnerCalls {
  readonly #options: OwnerCallsOptions;
  readonly #epochs: WaitList;
  readonly #ending = new Canceller();
  /** Aborted while this member may not decide for its keys. */
  #out = new Canceller();
  #view: MembershipView | undefined;

  constructor(options: OwnerCallsOptions) {
    this.#options = options;
    this.#epochs = new WaitList(options.clock);
  }

  setView(view: MembershipView): void {
    this.#view = view;
    this.#epochs.wakeAll();
  }

  get view(): MembershipView {
    if (this.#view === undefined) {
      throw new HbmeshError(StatusCode.NOT_READY, "this worker has not joined its cluster yet; try again");
    }
    return this.#view;
  }

  /** What this member asks itself as an owner fails with this, also what waits there; undefined: no longer. */
  setOut(reason: HbmeshError | undefined): void {
    if (reason !== undefined) {
      this.#out.abort(reason);
    } else if (this.#out.aborted) {
      this.#out = new Canceller();
    }
  }

  get isOut(): boolean {
    return this.#out.aborted;
  }

  close(): void {
    const reason = new HbmeshError(StatusCode.SHUTTING_DOWN, "this worker is shutting down");
    this.#ending.abort(reason);
    this.#epochs.close(reason);
  }

  /** Rejects only when the signal aborts, or at shutdown. */
  async ask(question: Question): Promise<Answer> {
    const { clock, requestTimeoutMs } = this.#options;
    const count = keyCountOf(question.keys);
    const answer: Answer = { results: Results.empty(count), errors: new Map(), undecided: new Set() };
    const existed = new Set<number>();
    const deadlineMs = clock.monotonicMs() + requestTimeoutMs;
    let left: Remaining = { keys: question.keys, indexes: Array.from({ length: count }, (_, index) => index) };
    for (;;) {
      const epoch = this.view.epoch;
      const again = await this.#askRound(question, left, answer, existed);
      if (again.length === 0) {
        break;
      }
      left = { keys: pickKeys(question.keys, again), indexes: again };
      if (clock.monotonicMs() >= deadlineMs) {
        answer.undecided = new Set(again);
        break;
      }
      await this.awaitEpochAbove(epoch, RETRY_MS, question.signal);
    }
    for (const index of existed) {
      answer.results.setExisted(index);
    }
    return answer;
  }

  /**
   * A commit whose keys stay known whatever the ring does meanwhile: an owner that took them over under an older ring
   * may not own them any more, so they are announced to those who do. `records` are CommitRecords that name this
   * member.
   */
  commit(question: CommitQuestion): Promise<Answer> {
    return this.#settle({ ...question, method: "commit", recordBytes: COMMIT_RECORD_BYTES }, "announce");
  }

  /** As commit, for further locations of objects that are there already. */
  addLocations(question: CommitQuestion): Promise<Answer> {
    return this.#settle({ ...question, method: "addLocation", recordBytes: COMMIT_RECORD_BYTES }, "addLocation");
  }

  async #settle(question: Question & { records: Uint8Array }, again: OwnerMethod): Promise<Answer> {
    const watch = this.#options.departed.watch();
    try {
      let epoch = this.view.epoch;
      const answer = await this.ask(question);
      let settled: typeof question | undefined;
      while (this.view.epoch !== epoch) {
        epoch = this.view.epoch;
        settled ??= question.reserves ? withGenerations(question, answer.results) : question;
        const mine = keptByCommit(settled, answer.results, watch);
        if (mine.length === 0) {
          break;
        }
        await this.#repeatFor(mine, { ...settled, method: again }, answer);
      }
      return answer;
    } finally {
      watch.end();
    }
  }

  /**
   * Asks once more for some of the keys, and enters what has failed. They are committed: only what an owner decided
   * about a key may end it. Where none did, the key is in doubt, whatever the reason: the object is known, or will be,
   * and under `replace` the bytes before it are gone.
   */
  async #repeatFor(
    indexes: readonly number[],
    question: Question & { records: Uint8Array },
    answer: Answer,
  ): Promise<void> {
    const keys = pickKeys(question.keys, indexes);
    const records = pickRecords(question.records, COMMIT_RECORD_BYTES, indexes);
    const told = await this.ask({ ...question, keys, records });
    indexes.forEach((index, position) => {
      const error = told.errors.get(position);
      if (error !== undefined || told.undecided.has(position)) {
        answer.results.fail(index, StatusCode.RPC_UNAVAILABLE);
        answer.errors.set(index, error ?? new HbmeshError(StatusCode.RPC_UNAVAILABLE, NOT_TOLD));
      } else if (told.results.code(position) !== StatusCode.OK) {
        answer.results.fail(index, told.results.code(position));
      }
    });
  }

  /** Asks the owner of one key what it knows. Rejects when it can't be asked, or the ring does not come to rest. */
  async explain(key: KeyBatch, signal?: CancelSignal): Promise<{ owner: number; explanation: OwnerExplanation }> {
    const { clock, decisions, requestTimeoutMs } = this.#options;
    const deadlineMs = clock.monotonicMs() + requestTimeoutMs;
    for (;;) {
      const { epoch, selfId } = this.view;
      const owner = decisions.ownersOf(key)[0] ?? 0;
      if (owner === 0) {
        throw new HbmeshError(StatusCode.NO_AVAILABLE_WORKER, NO_OWNER);
      }
      const part = { keys: key, records: EMPTY, existence: 0, waitMs: 0, last: false, family: 0 };
      const explanation = await this.#explainAt(owner, { epoch, memberId: selfId, ...part }, signal);
      if (!explanation.stale) {
        return { owner, explanation };
      }
      if (clock.monotonicMs() >= deadlineMs) {
        throw new HbmeshError(StatusCode.TRY_AGAIN, "the ring is changing, and the key's owner with it; try again");
      }
      await this.awaitEpochAbove(epoch, RETRY_MS, signal);
    }
  }

  async #explainAt(owner: number, request: OwnerRequest, signal: CancelSignal | undefined): Promise<OwnerExplanation> {
    const { peers, requestTimeoutMs, owner: own } = this.#options;
    const ended = this.#endedBy(signal);
    if (owner === this.view.selfId) {
      return own.explainKey(request, ended);
    }
    try {
      return await peers.get(owner).directory.explainKey(request, { timeoutMs: requestTimeoutMs, signal: ended });
    } catch (reason) {
      throw peers.errorOf(owner, reason);
    }
  }

  /**
   * Asks one owner once. No promise when this member owns the keys and answers at once. Never throws; rejects only when
   * the signal aborts, or at shutdown.
   */
  askOwner(owner: number, epoch: bigint, part: OwnerPart, question: Question): OwnerAnswer | Promise<OwnerAnswer> {
    if (owner === 0) {
      return { t: "failed", error: new HbmeshError(StatusCode.NO_AVAILABLE_WORKER, NO_OWNER) };
    }
    // An object that this member lost and has anew would else be known as the lost one, and then be forgotten.
    const { method, signal } = question;
    const telling = TAKES_UP.has(method) ? this.#tellForgets(owner, epoch, part.keys, signal) : undefined;
    return telling === undefined
      ? this.#askOwner(owner, epoch, part, question)
      : telling.then((refused) => refused ?? this.#askOwner(owner, epoch, part, question));
  }

  #askOwner(owner: number, epoch: bigint, part: OwnerPart, question: Question): OwnerAnswer | Promise<OwnerAnswer> {
    const understand = (reply: OwnerReply): OwnerAnswer => {
      const said = readReply(reply, keyCountOf(part.keys));
      // It has a newer ring, of which this member won't hear before it has joined again.
      return said.t === "stale" && this.isOut ? { t: "failed", error: HbmeshError.from(this.#out.reason) } : said;
    };
    let reply: OwnerSays;
    try {
      // A commit of a sidecar that died must not reach an owner that has forgotten this member's objects because of
      // that.
      this.#throwIfEnded(question);
      reply = this.#call(owner, epoch, part, question);
      if (!(reply instanceof Promise)) {
        return understand(reply);
      }
    } catch (reason) {
      reply = Promise.reject(reason as Error);
    }
    return reply.then(understand).catch((reason: unknown) => this.#readFailure(owner, epoch, reason, question));
  }

  /** Throws when it is not the owner that failed, but the caller or this member that gave up. */
  #readFailure(owner: number, epoch: bigint, reason: unknown, question: Question): OwnerAnswer {
    this.#throwIfEnded(question);
    const error = owner === this.view.selfId ? HbmeshError.from(reason) : this.#options.peers.errorOf(owner, reason);
    // It leaves in an orderly way: its keys have another owner as soon as the store has told.
    return error.code === StatusCode.SHUTTING_DOWN
      ? { t: "stale", epoch: epoch + 1n, results: undefined }
      : { t: "failed", error };
  }

  #throwIfEnded({ signal }: Question): void {
    this.#ending.throwIfAborted();
    signal?.throwIfAborted();
  }

  #tellForgets(
    owner: number,
    epoch: bigint,
    keys: KeyBatch,
    signal: CancelSignal | undefined,
  ): Promise<OwnerAnswer | undefined> | undefined {
    const { clock, forgets } = this.#options;
    const telling = forgets.tellFirst(owner, epoch, keys);
    return telling && withDeadline(telling, { clock, signal, what: "telling an owner what is gone" });
  }

  /** Resolves when the ring has changed since `epoch`, or the time is over. */
  async awaitEpochAbove(epoch: bigint, timeoutMs: number, signal?: CancelSignal): Promise<void> {
    if (this.view.epoch > epoch) {
      return;
    }
    await this.#epochs.wait([], timeoutMs, this.#endedBy(signal));
  }

  /** Longest wait between two questions about keys that can't be decided yet. */
  async pauseBeforeRetry(signal?: CancelSignal): Promise<void> {
    await pause(this.#options.clock, RETRY_MS, signal);
  }

  /** One round over all owners. Returns the positions to ask for again, ascending. */
  async #askRound(question: Question, left: Remaining, answer: Answer, existed: Set<number>): Promise<number[]> {
    const { epoch, selfId } = this.view;
    const groups = ownKeysLast(this.#options.decisions.groupByOwner(left.keys), selfId);
    const again: number[] = [];
    const asked: Promise<void>[] = [];
    for (const group of groups) {
      const positions = pickNumbers(left.indexes, group.indexes);
      const { records = EMPTY, recordBytes = 0, existence = 0 } = question;
      const part = {
        keys: group.keys,
        records: pickRecords(records, recordBytes, positions),
        existence,
        waitMs: 0,
        last: false,
      };
      const take = (said: OwnerAnswer): void => {
        again.push(...mergeAnswer(said, positions, question, answer, existed));
      };
      const said = this.askOwner(group.member, epoch, part, question);
      if (said instanceof Promise) {
        asked.push(said.then(take));
      } else {
        take(said);
      }
    }
    if (asked.length > 0) {
      await Promise.all(asked);
    }
    return again.sort((a, b) => a - b);
  }

  /** Aborts at shutdown, and with the caller's signal. */
  #endedBy(signal: CancelSignal | undefined): CancelSignal {
    return signal === undefined ? this.#ending : new EitherSignal(this.#ending, signal);
  }

  #call(owner: number, epoch: bigint, part: OwnerPart, question: Question): OwnerSays {
    const { peers, requestTimeoutMs } = this.#options;
    const { method, signal, family = 0 } = question;
    const { keys, records, existence, waitMs, last } = part;
    const { selfId } = this.view;
    const request: OwnerRequest = { epoch, memberId: selfId, keys, records, existence, waitMs, last, family };
    const ended = this.#endedBy(signal);
    if (owner === selfId) {
      this.#out.throwIfAborted();
      return this.#options.owner[method](request, new EitherSignal(ended, this.#out));
    }
    // What an announcement says of waiting is for others.
    const timeoutMs = requestTimeoutMs + (method === "lookup" ? waitMs : 0);
    return peers.get(owner).directory[method](request, { timeoutMs, signal: ended });
  }
}

const EMPTY = new Uint8Array(0);
/** After these the owner knows, or is about to know, this member's object under the key. */
const TAKES_UP: ReadonlySet<OwnerMethod> = new Set(["reserve", "commit", "announce", "addLocation"]);
const EXISTENCE_REPLACE = 2;
const NOT_TOLD = "the key's new owner could not be told of its object, since the ring is changing";
const NO_OWNER = "no member keeps metadata: the weight of every worker is 0; start one with a weight of at least 1";

/** Positions whose objects this member put in by a commit, and still has. */
function keptByCommit(question: Question & { records: Uint8Array }, results: Results, watch: DepartureWatch): number[] {
  const kept: number[] = [];
  for (let index = 0; index < results.count; index++) {
    const left = question.method === "commit" && results.existed(index) && question.existence !== EXISTENCE_REPLACE;
    if (results.code(index) === StatusCode.OK && !left && !watch.has(readCommit(question.records, index))) {
      kept.push(index);
    }
  }
  return kept;
}

/** This member's work for its own keys is done while others are asked. */
export function ownKeysLast(groups: OwnerGroup[], selfId: number): OwnerGroup[] {
  return groups.sort((one, other) => Number(one.member === selfId) - Number(other.member === selfId));
}

/** Throws DATA_INCONSISTENCY unless there is one result a key. */
function readReply({ stale, epoch, results: bytes }: OwnerReply, count: number): OwnerAnswer {
  if (!stale) {
    return { t: "results", results: new Results(bytes, count) };
  }
  return { t: "stale", epoch, results: bytes.byteLength === 0 ? undefined : new Results(bytes, count) };
}

/** The question, with the generations that owners gave. */
function withGenerations<T extends { records: Uint8Array }>(question: T, results: Results): T {
  const filled = question.records.slice();
  for (let index = 0; index < results.count; index++) {
    const record = readCommit(filled, index);
    if (record.generation === 0n) {
      writeCommit(filled, index, { ...record, generation: results.generation(index) });
    }
  }
  return { ...question, records: filled };
}

/** Enters what an owner said into the answer. Returns the positions that have to be asked for again. */
function mergeAnswer(
  said: OwnerAnswer,
  positions: readonly number[],
  { method, reserves = false }: Question,
  answer: Answer,
  existed: Set<number>,
): number[] {
  const { results, errors } = answer;
  if (said.t === "failed") {
    for (const position of positions) {
      results.fail(position, said.error.code);
      errors.set(position, said.error);
    }
    return [];
  }
  const again: number[] = [];
  positions.forEach((position, at) => {
    errors.delete(position);
    if (said.results === undefined) {
      results.fail(position, StatusCode.TRY_AGAIN);
    } else {
      results.setRecord(position, said.results.record(at));
      if (method === "remove" && said.results.existed(at)) {
        existed.add(position);
      }
    }
    // An announcement's or a commit's TRY_AGAIN is final: another version is newer. So is doubt, which lasts. A commit
    // that reserves too has no version yet.
    const final = method === "announce" || (method === "commit" && !reserves) || results.inDoubt(position);
    const undecided = results.code(position) === StatusCode.TRY_AGAIN && !final;
    if (said.t === "stale" || undecided) {
      again.push(position);
    }
  });
  return again;
}
