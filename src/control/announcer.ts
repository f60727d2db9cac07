/**
 * Announcer: after each change of the ring this member tells the owners what its sidecar holds and they don't know yet
 * (told.ts), and then concludes (collector.ts). What an owner knows of as newer, or deleted, is dropped here.
 *
 * Copies of other workers' objects are announced as such if this member was out of the ring meanwhile (copies.ts).
 *
 * One run for each epoch; a newer epoch ends the run before it. An owner that can't be told soon holds up nobody but
 * who asks it: the run concludes without it, and goes on trying until it has been told, or the ring changes.
 */
import { setMaxListeners } from "node:events";
import type { Clock } from "../base/clock.js";
import { pause, withDeadline } from "../base/deadline.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import {
  type Decisions,
  decodeKey,
  decodeKeys,
  encodeKeys,
  type HeldObject,
  type KeyBatch,
  keyCountOf,
  readCommit,
} from "../decision/index.js";
import type { Concluder } from "./collector.js";
import { Copies, type Part, partOf } from "./copies.js";
import type { Departed, DepartureWatch } from "./departed.js";
import type { DroppedObject } from "./holders.js";
import type { MembershipView } from "./membership.js";
import type { OwnerCalls, Question } from "./owner-calls.js";
import { ANNOUNCES_COPIES } from "./owner-checks.js";
import { COMMIT_RECORD_BYTES, pickKeys, pickRecords, type Results, stampMember } from "./records.js";
import type { HeldChunk, SidecarLink } from "./sidecar-link.js";
import { Told } from "./told.js";

export interface AnnouncerOptions {
  decisions: Decisions;
  clock: Clock;
  log: Logger;
  calls: OwnerCalls;
  /** This member's sidecar: undefined if it has none at all; throws NOT_READY while there is none. */
  sidecar: () => SidecarLink | undefined;
  requestTimeoutMs: number;
  departed: Departed;
  /** These were told to an owner, and are gone meanwhile. */
  onGone: (objects: readonly DroppedObject[]) => void;
  /** The sidecar lives, and does not answer: what it holds can't be told. */
  isHung: () => boolean;
  /** How long what can't be told, or a member that vanished, may come back. */
  deadAfterMs: number;
  /** How long a member that this one saw vanish may still come back. */
  doubtMs: () => number;
  concluder: Concluder;
  /** Every member has announced for this epoch, but for `missing`, which will tell this one themselves. */
  onConcluded: (epoch: bigint, missing: readonly number[], doubtMs: number) => void;
}

/** What belongs to one run. */
interface Run {
  view: MembershipView;
  signal: AbortSignal;
  /** Undefined: this member has none, and nothing to tell. */
  sidecar: SidecarLink | undefined;
  watch: DepartureWatch;
  isNews: (owner: number, keptOwner: number) => boolean;
  /** What owners could not be told yet. */
  behind: Map<number, Part[]>;
  /** Copies about which their owners could not decide, and that are offered when all have announced. */
  copies: Part[];
}

const RETRY_MS = 200;
/** An owner that has not answered after this time is told later. */
const OWNER_WAIT_MS = 1_000;
/** Owners that are told at the same time. */
const OWNERS_AT_ONCE = 16;
/** How long listing a large arena may take. */
const LIST_TIMEOUT_MS = 60_000;

export class Announcer {
  readonly #options: AnnouncerOptions;
  readonly #told: Told;
  readonly #copies: Copies;
  /** Copies of which an owner could not be told yet, or that are to be offered since it could not decide. */
  #untoldCopies = 0;
  /** The view for which the sidecar is still to say what it holds. */
  #untold: MembershipView | undefined;
  #run = new AbortController();
  #running: Promise<void> = Promise.resolve();

  constructor(options: AnnouncerOptions) {
    this.#options = options;
    this.#told = new Told(options.decisions);
    this.#copies = new Copies(options);
  }

  /**
   * Does not wait for it any longer: concludes without what it holds, so that owners know that they can't tell. When it
   * answers again, or another one does, this member's record is written again.
   */
  sidecarHangs(): void {
    if (this.#untold !== undefined) {
      this.setView(this.#untold);
    }
  }

  setView(view: MembershipView): void {
    this.#untold = view;
    this.#untoldCopies = 0;
    this.#run.abort();
    const run = new AbortController();
    // One listener for each owner that is being told.
    setMaxListeners(0, run.signal);
    this.#run = run;
    this.#told.setView(view);
    this.#running = this.#announce(view, run.signal);
  }

  /** Copies here of which this member can't tell yet whether they are still good. */
  get unconfirmed(): number {
    return this.#untoldCopies + this.#copies.unconfirmed;
  }

  /** Resolves when nothing runs any more. */
  async close(): Promise<void> {
    this.#run.abort();
    await this.#running;
  }

  /** How long what owners don't find may still be announced. */
  get #doubtMs(): number {
    const { isHung, deadAfterMs, doubtMs } = this.#options;
    return isHung() ? deadAfterMs : doubtMs();
  }

  /** Never rejects. */
  async #announce(view: MembershipView, signal: AbortSignal): Promise<void> {
    const { clock, log, departed } = this.#options;
    // Replies to commits that were decided under the old ring are on their way to the sidecar before it is asked what
    // it holds.
    await new Promise<void>((resolve) => setImmediate(resolve));
    while (!signal.aborted) {
      const watch = departed.watch();
      this.#untoldCopies = 0;
      try {
        const sidecar = this.#options.isHung() ? undefined : this.#options.sidecar();
        const isNews = this.#told.planFor(view);
        const run: Run = { view, signal, sidecar, watch, isNews, behind: new Map(), copies: [] };
        await this.#tellHeld(run);
        if (!signal.aborted) {
          this.#untold = undefined;
          await this.#conclude(run);
        }
        return;
      } catch (reason) {
        if (signal.aborted) {
          return;
        }
        const error = HbmeshError.from(reason);
        if (error.code !== StatusCode.NOT_READY && error.code !== StatusCode.RPC_PEER_DEAD) {
          log.warn(
            { epoch: view.epoch, cause: error.message },
            "could not announce what this worker holds; trying again",
          );
        }
        await pause(clock, RETRY_MS, signal);
      } finally {
        watch.end();
      }
    }
  }

  async #conclude(run: Run): Promise<void> {
    const { decisions, log, concluder, onConcluded } = this.#options;
    const { directory } = decisions;
    const { view, signal, behind } = run;
    const untold = [...behind.keys()];
    // What the others were told of is not watched for as long as these can't be reached.
    run.watch.narrow();
    this.#told.concluded(view, untold);
    if (untold.length > 0) {
      log.warn(
        { epoch: view.epoch, owners: untold.length },
        "owners could not be told yet what this worker holds; trying on",
      );
    }
    const catchingUp = [...behind].map(([owner, parts]) => this.#catchUp(run, owner, parts));
    const { highestGeneration } = directory;
    const said = await concluder.conclude(view, { untold, doubtMs: this.#doubtMs, highestGeneration, signal });
    if (said !== undefined) {
      // Before this member gives one under this ring: another owner may have given, or buried, higher ones of the same
      // keys.
      directory.raiseGeneration(said.highestGeneration);
      onConcluded(view.epoch, said.missing, said.doubtMs);
      await this.#offerCopies(run);
    }
    await Promise.all(catchingUp);
    if (said !== undefined) {
      // Of owners that could be told only now.
      await this.#offerCopies(run);
    }
    if (said !== undefined && !signal.aborted) {
      this.#copies.areDecided(view);
    }
  }

  async #offerCopies(run: Run): Promise<void> {
    const onDecided = (part: Part, results: Results): Promise<void> => this.#takeAnswer(run, part, results);
    const parts = run.copies.splice(0);
    if (!run.signal.aborted) {
      // From here on these are counted by those who offer them.
      this.#untoldCopies -= parts.reduce((sum, { keys }) => sum + keyCountOf(keys), 0);
    }
    await this.#copies.offer(parts, onDecided, run.signal);
  }

  async #tellHeld(run: Run): Promise<void> {
    if (run.sidecar === undefined) {
      return;
    }
    // One chunk after the other, so that owners aren't flooded.
    await run.sidecar.listHeld(async (chunk) => {
      run.signal.throwIfAborted();
      await this.#tellChunk(run, chunk);
    }, LIST_TIMEOUT_MS);
  }

  async #tellChunk(run: Run, chunk: HeldChunk): Promise<void> {
    const { decisions } = this.#options;
    const held = withoutDeparted(chunk, run.watch);
    const stamped = stampMember(held.records, run.view.selfId);
    const areCopies = held.areCopies && !this.#copies.areKnown(run.view);
    const kept = decisions.keptOwnersOf(held.keys);
    const groups = decisions.groupByOwner(held.keys);
    const tellNext = async (): Promise<void> => {
      for (let group = groups.pop(); group !== undefined && !run.signal.aborted; group = groups.pop()) {
        const { member: owner, keys } = group;
        const indexes = [...group.indexes];
        const isNews = (at: number): boolean => run.isNews(owner, kept[indexes[at] as number] as number);
        const news = [...indexes.keys()].filter((at) => areCopies || isNews(at));
        for (const part of spreadDuplicates(keys, news)) {
          const records = pickRecords(
            stamped,
            COMMIT_RECORD_BYTES,
            part.map((at) => indexes[at] as number),
          );
          await this.#tellOwner(run, owner, { keys: pickKeys(keys, part), records, family: held.family, areCopies });
        }
      }
    };
    await Promise.all(Array.from({ length: OWNERS_AT_ONCE }, tellNext));
  }

  /** Tries once; who can't be told comes later. */
  async #tellOwner(run: Run, owner: number, part: Part): Promise<void> {
    const { clock, log } = this.#options;
    if (run.behind.has(owner)) {
      this.#tellLater(run, owner, part);
      return;
    }
    const asking = this.#ask(run, owner, part, false);
    const what = "announcing";
    try {
      await this.#takeAnswer(run, part, await withDeadline(asking, { clock, timeoutMs: OWNER_WAIT_MS, what }));
    } catch (reason) {
      run.signal.throwIfAborted();
      log.debug({ epoch: run.view.epoch, cause: String(reason) }, "an owner can't be told yet what this worker holds");
      this.#tellLater(run, owner, part);
    }
  }

  #tellLater({ behind, watch }: Run, owner: number, part: Part): void {
    const parts = behind.get(owner) ?? [];
    behind.set(owner, parts);
    parts.push(part);
    this.#untoldCopies += copiesIn(part);
    watch.keep(objectsOf(part));
  }

  /** Tells an owner what it could not be told before, and that this is all. Ends with the run; never rejects. */
  async #catchUp(run: Run, owner: number, parts: readonly Part[]): Promise<void> {
    const { clock } = this.#options;
    const done: Part = { keys: encodeKeys([]), records: new Uint8Array(0), family: 0 };
    const left = [...parts, done];
    for (let part = left[0]; part !== undefined && !run.signal.aborted; part = left[0]) {
      try {
        const results = await this.#ask(run, owner, part, left.length === 1);
        await this.#takeAnswer(run, part, results);
        left.shift();
        this.#untoldCopies -= run.signal.aborted ? 0 : copiesIn(part);
        if (part.areCopies !== true) {
          run.watch.release(objectsOf(part));
        }
      } catch (reason) {
        if (HbmeshError.from(reason).code === StatusCode.INVALID && part !== done) {
          // It would be refused every time, and with it everything that comes after.
          left.splice(0, 1, ...this.#narrowDown(run, owner, part, reason));
        } else {
          await pause(clock, RETRY_MS, run.signal);
        }
      }
    }
    if (!run.signal.aborted) {
      this.#told.caughtUp(owner);
    }
  }

  /** The halves of a part that an owner refuses as a whole, so that only what is at fault is left out in the end. */
  #narrowDown(run: Run, owner: number, part: Part, reason: unknown): Part[] {
    const { log, calls } = this.#options;
    const count = keyCountOf(part.keys);
    const node = calls.view.members.get(owner)?.member.workerAddress ?? `member ${owner}`;
    const facts = { epoch: run.view.epoch, node, objects: count, cause: String(reason) };
    if (count === 1) {
      log.warn(
        { ...facts, key: decodeKey(part.keys, 0) },
        "an owner refuses to be told of an object that this worker holds; readers will not find it here",
      );
      this.#untoldCopies -= run.signal.aborted ? 0 : copiesIn(part);
      return [];
    }
    log.warn(facts, "an owner refuses to be told of these objects at once; telling it of fewer at a time");
    const middle = Math.ceil(count / 2);
    const indexes = [...Array(count).keys()];
    return [partOf(part, indexes.slice(0, middle)), partOf(part, indexes.slice(middle))];
  }

  /** Drops here what the owner did not take up, and has it forget what went meanwhile. */
  async #takeAnswer(run: Run, part: Part, results: Results): Promise<void> {
    const { log, requestTimeoutMs } = this.#options;
    const { keys, records } = part;
    const outdated: HeldObject[] = [];
    const gone: DroppedObject[] = [];
    const undecided: number[] = [];
    for (let at = 0; at < results.count; at++) {
      const isOutdated = results.code(at) !== StatusCode.OK;
      if (!isOutdated && run.watch.size === 0) {
        continue;
      }
      const object = readCommit(records, at);
      if (part.areCopies === true && results.code(at) === StatusCode.NOT_READY) {
        undecided.push(at);
      } else if (isOutdated) {
        outdated.push(object);
      } else if (run.watch.has(object)) {
        // It is known to the owner now, and must not be.
        gone.push({ key: decodeKey(keys, at), generation: object.generation, slot: object.slot });
      }
    }
    if (undecided.length > 0) {
      const copies = { ...partOf(part, undecided), areCopies: false };
      run.copies.push(copies);
      this.#untoldCopies += run.signal.aborted ? 0 : undecided.length;
      run.watch.keep(objectsOf(copies));
    }
    this.#options.onGone(gone);
    if (outdated.length > 0) {
      log.info(
        { objects: outdated.length },
        "dropping objects that their owners did not take up: deleted or replaced meanwhile, held by enough others, or copies of what nobody else has any more",
      );
      await run.sidecar?.drop(outdated, requestTimeoutMs);
    }
  }

  /** Rejects if the owner can't be asked, or is not at this epoch. */
  async #ask(run: Run, owner: number, part: Part, last: boolean): Promise<Results> {
    const { calls } = this.#options;
    const { keys, records, family } = part;
    const question: Question = { method: "announce", keys, family, signal: run.signal };
    const existence = part.areCopies === true ? ANNOUNCES_COPIES : 0;
    const told = { keys, records, existence, waitMs: last ? this.#doubtMs : 0, last };
    const said = await calls.askOwner(owner, run.view.epoch, told, question);
    if (said.t === "results") {
      return said.results;
    }
    throw said.t === "failed" ? said.error : new HbmeshError(StatusCode.TRY_AGAIN, "the owner has another ring");
  }
}

/**
 * Positions of a batch, in as many groups as are needed for each key to come once in one of them. An owner takes no
 * question that names a key twice; a holder may have two versions of one, or one on two devices.
 */
function spreadDuplicates(keys: KeyBatch, positions: readonly number[]): number[][] {
  const names = decodeKeys(keys);
  const times = new Map<string, number>();
  const groups: number[][] = [];
  for (const position of positions) {
    const name = names[position] as string;
    const time = times.get(name) ?? 0;
    times.set(name, time + 1);
    const group = groups[time] ?? [];
    groups[time] = group;
    group.push(position);
  }
  return groups;
}

function copiesIn({ keys, areCopies }: Part): number {
  return areCopies === true ? keyCountOf(keys) : 0;
}

function objectsOf({ keys, records }: Part): HeldObject[] {
  return Array.from({ length: keyCountOf(keys) }, (_, index) => readCommit(records, index));
}

function withoutDeparted(chunk: HeldChunk, watch: DepartureWatch): HeldChunk {
  if (watch.size === 0) {
    return chunk; // as nearly always; and a restarted sidecar lists millions
  }
  const kept: number[] = [];
  for (let index = 0; index < keyCountOf(chunk.keys); index++) {
    if (!watch.has(readCommit(chunk.records, index))) {
      kept.push(index);
    }
  }
  return {
    ...chunk,
    keys: pickKeys(chunk.keys, kept),
    records: pickRecords(chunk.records, COMMIT_RECORD_BYTES, kept),
  };
}
