/**
 * Announcer: after each change of the ring this member tells the owners what its sidecar holds, and then every member that it has told everything. What an owner
 * knows of as newer, or deleted, is dropped here.
 *
 * One run for each epoch; a newer epoch ends the run before it. A run goes on until every owner has been told, or is no member any more.
 */
import type { Clock } from "../base/clock.js";
import { pause } from "../base/deadline.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import {
  type Decisions,
  decodeKey,
  encodeKeys,
  type Family,
  type HeldObject,
  type KeyBatch,
  keyCountOf,
  readCommit,
} from "../decision/index.js";
import type { Departed, DepartureWatch } from "./departed.js";
import type { DroppedObject } from "./holders.js";
import type { MembershipView } from "./membership.js";
import type { OwnerCalls, Question } from "./owner-calls.js";
import { COMMIT_RECORD_BYTES, pickKeys, pickRecords, type Results, stampMember } from "./records.js";
import type { HeldChunk, SidecarLink } from "./sidecar-link.js";

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
  /** How long a member that this one saw vanish may still come back. */
  doubtMs: () => number;
}

const RETRY_MS = 200;
/** How long listing a large arena may take. */
const LIST_TIMEOUT_MS = 60_000;

export class Announcer {
  readonly #options: AnnouncerOptions;
  #run = new AbortController();
  #running: Promise<void> = Promise.resolve();

  constructor(options: AnnouncerOptions) {
    this.#options = options;
  }

  setView(view: MembershipView): void {
    this.#run.abort();
    const run = new AbortController();
    this.#run = run;
    this.#running = this.#announce(view, run.signal);
  }

  /** Resolves when nothing runs any more. */
  async close(): Promise<void> {
    this.#run.abort();
    await this.#running;
  }

  /** Never rejects. */
  async #announce(view: MembershipView, signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#options;
    // Replies to commits that were decided under the old ring are on their way to the sidecar before it is asked what it holds.
    await new Promise<void>((resolve) => setImmediate(resolve));
    while (!signal.aborted) {
      try {
        await this.#tellHeld(view, signal);
        await this.#tellDone(view, signal);
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
      }
    }
  }

  async #tellHeld(view: MembershipView, signal: AbortSignal): Promise<void> {
    const sidecar = this.#options.sidecar();
    if (sidecar === undefined) {
      return;
    }
    const watch = this.#options.departed.watch();
    let told: Promise<unknown> = Promise.resolve();
    let failure: unknown;
    try {
      await sidecar.listHeld((chunk) => {
        // One chunk after the other, so that owners aren't flooded.
        told = told
          .then(() =>
            failure === undefined && !signal.aborted ? this.#tellChunk(view, sidecar, chunk, watch, signal) : undefined,
          )
          .catch((reason: unknown) => {
            failure = reason;
          });
      }, LIST_TIMEOUT_MS);
      await told;
    } finally {
      watch.end();
    }
    if (failure !== undefined) {
      throw failure as Error;
    }
  }

  async #tellChunk(
    view: MembershipView,
    sidecar: SidecarLink,
    chunk: HeldChunk,
    watch: DepartureWatch,
    signal: AbortSignal,
  ): Promise<void> {
    const { decisions, log, requestTimeoutMs } = this.#options;
    const outdated: HeldObject[] = [];
    const held = withoutDeparted(chunk, watch);
    const stamped = stampMember(held.records, view.selfId);
    for (const group of decisions.groupByOwner(held.keys)) {
      if (signal.aborted) {
        return;
      }
      const records = pickRecords(stamped, COMMIT_RECORD_BYTES, group.indexes);
      const part = { keys: group.keys, records, last: false };
      const results = await this.#tell(group.member, view, part, held.family, signal);
      if (results !== undefined) {
        this.#forgetDeparted(group.keys, records, results, watch);
        for (let at = 0; at < results.count; at++) {
          if (results.code(at) !== StatusCode.OK) {
            outdated.push(readCommit(records, at));
          }
        }
      }
    }
    if (outdated.length > 0) {
      log.info(
        { objects: outdated.length },
        "dropping objects that their owners did not take up: deleted or replaced meanwhile, or held by enough others",
      );
      await sidecar.drop(outdated, requestTimeoutMs);
    }
  }

  /** What went while it was being told is known to the owner now, and must not be. */
  #forgetDeparted(keys: KeyBatch, records: Uint8Array, results: Results, watch: DepartureWatch): void {
    const gone: DroppedObject[] = [];
    for (let at = 0; at < results.count; at++) {
      const object = readCommit(records, at);
      if (results.code(at) === StatusCode.OK && watch.has(object)) {
        gone.push({ key: decodeKey(keys, at), generation: object.generation, slot: object.slot });
      }
    }
    this.#options.onGone(gone);
  }

  async #tellDone(view: MembershipView, signal: AbortSignal): Promise<void> {
    const done = { keys: encodeKeys([]), records: new Uint8Array(0), last: true };
    await Promise.all([...view.members.keys()].map((member) => this.#tell(member, view, done, 0, signal)));
  }

  /** Asks until this owner has answered or the epoch is over; undefined if it is. */
  async #tell(
    member: number,
    view: MembershipView,
    part: { keys: KeyBatch; records: Uint8Array; last: boolean },
    family: Family,
    signal: AbortSignal,
  ): Promise<Results | undefined> {
    const { calls, clock, log } = this.#options;
    const question: Question = { method: "announce", keys: part.keys, family, signal };
    for (let attempt = 0; !signal.aborted; attempt++) {
      // The last one also tells those who have not seen it how long misses are in doubt.
      const waitMs = part.last ? this.#options.doubtMs() : 0;
      const said = await calls.askOwner(member, view.epoch, { ...part, existence: 0, waitMs }, question);
      if (said.t === "results") {
        return said.results;
      }
      if (said.t === "failed" && attempt === 0) {
        log.debug(
          { epoch: view.epoch, cause: said.error.message },
          "an owner can't be told yet what this worker holds",
        );
      }
      // Stale: one of the two will see a newer ring, which ends this run.
      await pause(clock, RETRY_MS, signal);
    }
    return undefined;
  }
}

function withoutDeparted(chunk: HeldChunk, watch: DepartureWatch): HeldChunk {
  const kept: number[] = [];
  for (let index = 0; index < keyCountOf(chunk.keys); index++) {
    if (!watch.has(readCommit(chunk.records, index))) {
      kept.push(index);
    }
  }
  return {
    family: chunk.family,
    keys: pickKeys(chunk.keys, kept),
    records: pickRecords(chunk.records, COMMIT_RECORD_BYTES, kept),
  };
}
