/**
 * Holders: dropping and describing objects where they are. The serving half answers for this member's sidecar; the asking half reaches any member, and keeps
 * in mind what could not be dropped.
 */
import type { ServiceImpl } from "@connectrpc/connect";
import type { Clock, Timer } from "../base/clock.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import { decodeHeld, encodeHeld, type HeldObject, type Location } from "../decision/index.js";
import type { HolderService } from "../gen/hbmesh/v1/directory_pb.js";
import type { MembershipView } from "./membership.js";
import type { Peers } from "./peers.js";
import { decodeCodes, encodeCodes } from "./records.js";
import type { DescribedObject, SidecarLink } from "./sidecar-link.js";

export interface HolderOptions {
  clock: Clock;
  log: Logger;
  peers: Peers;
  /** This member's sidecar; throws NOT_READY while there is none. */
  sidecar: () => SidecarLink;
  requestTimeoutMs: number;
}

/** Objects that one holder may still have to drop; the oldest are forgotten first. */
const PENDING_DROPS_MAX = 100_000;
const DROP_RETRY_MS = 1_000;
/** Objects in one question to a holder. */
const OBJECTS_PER_QUESTION_MAX = 10_000;

/** Answers for this member's own sidecar. */
export function createHolderService(options: HolderOptions): ServiceImpl<typeof HolderService> {
  return {
    async drop(request) {
      const objects = decodeHeld(request.objects);
      return { codes: encodeCodes(await options.sidecar().drop(objects, options.requestTimeoutMs)) };
    },
    async describe(request) {
      const objects = decodeHeld(request.objects);
      return { objects: await options.sidecar().describe(objects, options.requestTimeoutMs) };
    },
  };
}

export class Holders {
  readonly #options: HolderOptions;
  #selfId = 0;
  #view: MembershipView | undefined;
  /** By holder: objects that are deleted or replaced, and that it could not be told to drop. */
  readonly #owed = new Map<number, Map<string, HeldObject>>();
  #retryTimer: Timer | undefined;
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
   * Has these versions dropped at every location, and resolves when each holder has answered or can't be reached. Never rejects: what could not be dropped is
   * kept in mind, tried again, and refused when its holder announces it.
   */
  async dropEverywhere(versions: readonly { generation: bigint; locations: readonly Location[] }[]): Promise<void> {
    const byMember = new Map<number, HeldObject[]>();
    for (const { generation, locations } of versions) {
      for (const { member, slot } of locations) {
        const objects = byMember.get(member) ?? [];
        byMember.set(member, objects);
        objects.push({ generation, slot });
      }
    }
    await Promise.all([...byMember].map(([member, objects]) => this.#dropAt(member, objects)));
  }

  /** Is this version one that the member should have dropped? */
  owesDrop(member: number, object: HeldObject): boolean {
    return this.#owed.get(member)?.has(nameOf(object)) ?? false;
  }

  /** The member has been told again, by the answer to its announcement. */
  settleDrop(member: number, object: HeldObject): void {
    this.#owed.get(member)?.delete(nameOf(object));
  }

  async describe(member: number, objects: readonly HeldObject[]): Promise<DescribedObject[]> {
    const { sidecar, peers, requestTimeoutMs } = this.#options;
    const described: DescribedObject[] = [];
    for (let from = 0; from < objects.length; from += OBJECTS_PER_QUESTION_MAX) {
      const part = objects.slice(from, from + OBJECTS_PER_QUESTION_MAX);
      if (member === this.#selfId) {
        described.push(...(await sidecar().describe(part, requestTimeoutMs)));
        continue;
      }
      try {
        const reply = await peers
          .get(member)
          .holder.describe({ objects: encodeHeld(part) }, { timeoutMs: requestTimeoutMs });
        if (reply.objects.length !== part.length) {
          throw new HbmeshError(
            StatusCode.DATA_INCONSISTENCY,
            `described ${reply.objects.length} of ${part.length} objects`,
          );
        }
        described.push(...reply.objects);
      } catch (reason) {
        throw peers.errorOf(member, reason);
      }
    }
    return described;
  }

  async #dropAt(member: number, objects: readonly HeldObject[]): Promise<void> {
    for (let from = 0; from < objects.length; from += OBJECTS_PER_QUESTION_MAX) {
      const part = objects.slice(from, from + OBJECTS_PER_QUESTION_MAX);
      try {
        await this.#askToDrop(member, part);
      } catch (reason) {
        this.#owe(member, part, reason);
      }
    }
  }

  async #askToDrop(member: number, objects: readonly HeldObject[]): Promise<void> {
    const { sidecar, peers, requestTimeoutMs } = this.#options;
    if (member === this.#selfId) {
      await sidecar().drop(objects, requestTimeoutMs);
      return;
    }
    const reply = await peers
      .get(member)
      .holder.drop({ objects: encodeHeld(objects) }, { timeoutMs: requestTimeoutMs });
    decodeCodes(reply.codes, objects.length);
  }

  #owe(member: number, objects: readonly HeldObject[], reason: unknown): void {
    if (this.#closed || this.#view?.members.has(member) !== true) {
      return;
    }
    const { log, peers, clock } = this.#options;
    log.warn(
      { node: peers.nameOf(member), objects: objects.length, cause: String(reason) },
      "a holder could not be told to drop objects",
    );
    const owed = this.#owed.get(member) ?? new Map<string, HeldObject>();
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
    this.#retryTimer ??= clock.setTimer(DROP_RETRY_MS, () => void this.#retry());
  }

  async #retry(): Promise<void> {
    this.#retryTimer = undefined;
    const owed = [...this.#owed].map(([member, objects]) => [member, [...objects.values()]] as const);
    for (const [member, objects] of owed) {
      this.#owed.delete(member);
      await this.#dropAt(member, objects);
    }
  }
}

function nameOf(object: HeldObject): string {
  return `${object.slot}:${object.generation}`;
}
