/**
 * Holders: dropping and describing objects where they are. The serving half answers for this member's sidecar; the
 * asking half reaches any member, and keeps in mind what could not be dropped.
 */
import type { Clock, Timer } from "../base/clock.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import {
  decodeHeld,
  decodeKeys,
  encodeHeld,
  encodeKeys,
  type HeldObject,
  type KeyBatch,
  type Location,
} from "../decision/index.js";
import type { ExplainHeldReply, HolderService } from "../gen/hbmesh/v1/directory_pb.js";
import type { LinkServiceImpl } from "../rpc/link-routes.js";
import { nameOf } from "./departed.js";
import type { MembershipView } from "./membership.js";
import type { Peers } from "./peers.js";
import { decodeCodes, encodeCodes } from "./records.js";
import type { HeldDescription, SidecarLink } from "./sidecar-link.js";

export interface HolderOptions {
  clock: Clock;
  log: Logger;
  peers: Peers;
  /** This member's sidecar; throws NOT_READY while there is none. */
  sidecar: () => SidecarLink;
  requestTimeoutMs: number;
  /** Objects of this member's own are about to be dropped; `epoch` is the ring under which that was decided. */
  onDrop: (objects: readonly DroppedObject[], epoch: bigint) => void;
  /**
   * These versions were deleted, and a holder of each could not be told, or not all of them may be known. Resolves when
   * others keep that in mind too, or soon; never rejects.
   */
  onOwed: (versions: readonly DroppedVersion[]) => Promise<void>;
  /** May there be holders that this member doesn't know of? */
  inDoubt: () => boolean;
}

/** An object that a holder is told to drop, or has lost, and the key that it was under. */
export interface DroppedObject extends HeldObject {
  key: string;
  /** It was lost, and all of it had been there. */
  wasWhole?: boolean;
}

/** A version that is no longer in the directory. */
export interface DroppedVersion {
  key: string;
  generation: bigint;
  locations: readonly Location[];
}

export type HeldExplanation = Omit<ExplainHeldReply, "$typeName" | "$unknown">;

/** An object that a holder could not be told to drop, and the ring under which it should have been. */
interface OwedDrop extends DroppedObject {
  epoch: bigint;
  isRemoved: boolean;
}

/** Objects that one holder may still have to drop; the oldest are forgotten first. */
const PENDING_DROPS_MAX = 100_000;
const DROP_RETRY_MS = 1_000;
/**
 * How much of a request's time an owner waits for holders to drop what it has decided to end. Together with the
 * patience that it may have had before (OWNER_PATIENCE_SHARE) it stays below what its askers wait: the owner has
 * decided, and its answer must reach them.
 */
const DROP_WAIT_SHARE = 1 / 3;
/** Objects in one question to a holder. */
const OBJECTS_PER_QUESTION_MAX = 10_000;

/**
 * Objects in one question for their blobs: 1,000 of 512 blobs are answered with 4 MiB. A question whose answer is too
 * much is asked in halves.
 */
const OBJECTS_PER_DESCRIPTION_MAX = 1_000;

/** Answers for this member's own sidecar. */
export function createHolderService(
  options: HolderOptions,
): Omit<LinkServiceImpl<typeof HolderService>, "room" | "take"> {
  return {
    async drop(request) {
      const objects = decodeHeld(request.objects);
      const keys = decodeKeys(request.keys);
      if (keys.length !== objects.length) {
        throw new HbmeshError(
          StatusCode.INVALID,
          `${keys.length} keys were sent for ${objects.length} objects to drop`,
        );
      }
      const dropped = objects.map((object, index) => ({ ...object, key: keys[index] as string }));
      return { codes: encodeCodes(await dropHere(options, dropped, request.epoch, options.requestTimeoutMs)) };
    },
    async describe(request) {
      const objects = decodeHeld(request.objects);
      return { objects: await options.sidecar().describe(objects, options.requestTimeoutMs) };
    },
    async explainHeld(request) {
      const [object] = decodeHeld(request.objects);
      if (object === undefined) {
        throw new HbmeshError(StatusCode.INVALID, "no object was named to explain");
      }
      return explainHere(options, request.keys, object);
    },
  };
}

async function dropHere(
  options: HolderOptions,
  objects: readonly DroppedObject[],
  epoch: bigint,
  timeoutMs: number,
): Promise<number[]> {
  options.onDrop(objects, epoch);
  return options.sidecar().drop(objects, timeoutMs);
}

async function explainHere(options: HolderOptions, key: KeyBatch, object: HeldObject): Promise<HeldExplanation> {
  const sidecar = options.sidecar();
  const [[described], detail] = await Promise.all([
    sidecar.describe([object], options.requestTimeoutMs),
    sidecar.explain(key, options.requestTimeoutMs),
  ]);
  return { code: described?.code ?? StatusCode.NOT_FOUND, blobSizes: described?.blobSizes ?? [], detail };
}

export class Holders {
  readonly #options: HolderOptions;
  #selfId = 0;
  #view: MembershipView | undefined;
  /** By holder: objects that are deleted or replaced, and that it could not be told to drop. */
  readonly #owed = new Map<number, Map<string, OwedDrop>>();
  #retryTimer: Timer | undefined;
  #retrying = false;
  #closed = false;

  constructor(options: HolderOptions) {
    this.#options = options;
  }

  /** A holder that is gone, or has started anew and announces again, is owed nothing that it would not learn then. */
  setView(view: MembershipView): void {
    this.#view = view;
    this.#selfId = view.selfId;
    for (const member of this.#owed.keys()) {
      if (!view.members.has(member)) {
        this.#owed.delete(member);
      }
    }
  }

  close(): void {
    this.#closed = true;
    this.#retryTimer?.cancel();
    this.#owed.clear();
  }

  /**
   * Has these versions, which ended under the ring `epoch`, dropped at every location, and resolves when each holder
   * has answered, can't be reached, or has taken a third of a request's time. Never rejects: what could not be dropped
   * is kept in mind, tried again, and refused when its holder announces it.
   *
   * `isRemoved`: the keys were deleted, of which others are told. Of a version that was replaced they are not: if the
   * newer one's setter dies before it is sealed, the older one is all that is left. Resolves with those that somebody
   * may still have; what becomes of them, superseded.ts decides.
   */
  async dropEverywhere(
    versions: readonly DroppedVersion[],
    epoch: bigint,
    isRemoved: boolean,
  ): Promise<DroppedVersion[]> {
    const { inDoubt, onOwed } = this.#options;
    // Whoever may come back must not bring them back, whatever becomes of this member once it has answered.
    const isDoubtful = inDoubt();
    const buried = isRemoved && isDoubtful ? onOwed(versions.map(withoutLocations)) : undefined;
    const byMember = new Map<number, OwedDrop[]>();
    for (const { key, generation, locations } of versions) {
      for (const { member, slot } of locations) {
        const objects = byMember.get(member) ?? [];
        byMember.set(member, objects);
        objects.push({ key, generation, slot, epoch, isRemoved });
      }
    }
    const dropping = [...byMember].map(([member, objects]) => this.#dropAt(member, objects));
    const [owed] = await Promise.all([Promise.all(dropping), buried]);
    const left = new Set(owed.flat().map(({ key }) => key));
    return isDoubtful ? [...versions] : versions.filter(({ key }) => left.has(key));
  }

  /** Is this version one that the member should have dropped? */
  owesDrop(member: number, object: HeldObject): boolean {
    return this.#owed.get(member)?.has(nameOf(object)) ?? false;
  }

  /** The member has been told again, by the answer to its announcement. */
  settleDrop(member: number, object: HeldObject): void {
    const owed = this.#owed.get(member);
    owed?.delete(nameOf(object));
    if (owed?.size === 0) {
      this.#owed.delete(member);
    }
  }

  async describe(member: number, objects: readonly HeldObject[]): Promise<HeldDescription[]> {
    const described: HeldDescription[] = [];
    let length = OBJECTS_PER_DESCRIPTION_MAX;
    while (described.length < objects.length) {
      const part = objects.slice(described.length, described.length + length);
      try {
        for (const object of await this.#describePart(member, part)) {
          described.push(object);
        }
      } catch (reason) {
        if (part.length === 1 || !(reason instanceof HbmeshError) || reason.code !== StatusCode.OUT_OF_RANGE) {
          throw reason;
        }
        length = Math.ceil(part.length / 2);
      }
    }
    return described;
  }

  async #describePart(member: number, objects: readonly HeldObject[]): Promise<HeldDescription[]> {
    const { sidecar, peers, requestTimeoutMs: timeoutMs } = this.#options;
    if (member === this.#selfId) {
      return sidecar().describe(objects, timeoutMs);
    }
    try {
      const reply = await peers.get(member).holder.describe({ objects: encodeHeld(objects) }, { timeoutMs });
      if (reply.objects.length !== objects.length) {
        throw new HbmeshError(
          StatusCode.DATA_INCONSISTENCY,
          `described ${reply.objects.length} of ${objects.length} objects`,
        );
      }
      return reply.objects;
    } catch (reason) {
      throw peers.errorOf(member, reason);
    }
  }

  /** What this holder's sidecar knows of an object. Rejects with why it can't be asked. */
  async explain(member: number, key: KeyBatch, object: HeldObject): Promise<HeldExplanation> {
    const { peers, requestTimeoutMs } = this.#options;
    if (member === this.#selfId) {
      return explainHere(this.#options, key, object);
    }
    try {
      return await peers
        .get(member)
        .holder.explainHeld({ objects: encodeHeld([object]), keys: key }, { timeoutMs: requestTimeoutMs });
    } catch (reason) {
      throw peers.errorOf(member, reason);
    }
  }

  /** Objects of one holder; those of different epochs are told apart. Resolves with those that it could not be told. */
  async #dropAt(member: number, objects: readonly OwedDrop[]): Promise<OwedDrop[]> {
    const owed: OwedDrop[] = [];
    for (let from = 0; from < objects.length; ) {
      const epoch = objects[from]?.epoch ?? 0n;
      let to = from;
      while (to < objects.length && to - from < OBJECTS_PER_QUESTION_MAX && objects[to]?.epoch === epoch) {
        to++;
      }
      const part = objects.slice(from, to);
      try {
        await this.#askToDrop(member, part, epoch);
        for (const object of part) {
          this.settleDrop(member, object);
        }
      } catch (reason) {
        this.#owe(member, part, reason);
        owed.push(...part);
      }
      from = to;
    }
    return owed;
  }

  async #askToDrop(member: number, objects: readonly DroppedObject[], epoch: bigint): Promise<void> {
    const { peers, requestTimeoutMs } = this.#options;
    const timeoutMs = Math.floor(requestTimeoutMs * DROP_WAIT_SHARE);
    if (member === this.#selfId) {
      await dropHere(this.#options, objects, epoch, timeoutMs);
      return;
    }
    const keys = encodeKeys(objects.map(({ key }) => key));
    const reply = await peers.get(member).holder.drop({ objects: encodeHeld(objects), keys, epoch }, { timeoutMs });
    decodeCodes(reply.codes, objects.length);
  }

  #owe(member: number, objects: readonly OwedDrop[], reason: unknown): void {
    if (this.#closed) {
      return;
    }
    const { log, peers, onOwed } = this.#options;
    const removed = objects.filter(({ isRemoved }) => isRemoved);
    void onOwed(removed.map(({ key, generation, slot }) => ({ key, generation, locations: [{ member, slot }] })));
    if (this.#view?.members.has(member) !== true) {
      return;
    }
    log.warn(
      { node: peers.nameOf(member), objects: objects.length, cause: String(reason) },
      "a holder could not be told to drop objects",
    );
    const owed = this.#owed.get(member) ?? new Map<string, OwedDrop>();
    this.#owed.set(member, owed);
    for (const object of objects) {
      owed.set(nameOf(object), object);
    }
    for (const name of owed.keys()) {
      if (owed.size <= PENDING_DROPS_MAX) {
        break;
      }
      owed.delete(name);
    }
    this.#scheduleRetry();
  }

  #scheduleRetry(): void {
    if (!this.#retrying && !this.#closed && this.#owed.size > 0) {
      this.#retryTimer ??= this.#options.clock.setTimer(DROP_RETRY_MS, () => void this.#retry());
    }
  }

  /** What is owed stays owed until its holder has answered: it may announce it meanwhile. */
  async #retry(): Promise<void> {
    this.#retryTimer = undefined;
    this.#retrying = true;
    await Promise.all([...this.#owed].map(([member, objects]) => this.#dropAt(member, [...objects.values()])));
    this.#retrying = false;
    this.#scheduleRetry();
  }
}

/** What holders are told here is not for others to tell them. */
function withoutLocations({ key, generation }: DroppedVersion): DroppedVersion {
  return { key, generation, locations: [] };
}
