/**
 * Superseded: versions that were replaced here, and that somebody may still have who could not be told, or is away. As
 * soon as the newer version is known to be whole they are buried like deleted ones (graves.ts): then they stay ended
 * even if the newer version is evicted, expires, or is lost before their holder is back.
 *
 * Not at once: an owner decides for the newer version before its setter has sealed it. If that one dies in between, the
 * older version is all that is left, and must be found. So this owner asks the setter's worker. What it is told settles
 * it: whole, or not there. A worker that is gone, and not back in time, counts as one that had sealed it: its set was
 * answered, and an old version in place of a newer one is worse than none.
 */
import type { Clock, Timer } from "../base/clock.js";
import { StatusCode } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import { type Decisions, encodeKeys, FAMILY_ANY, type Location } from "../decision/index.js";
import type { Graves } from "./graves.js";
import type { DroppedVersion, Holders } from "./holders.js";
import { HELD_SEALED, KEYS_PER_CALL_MAX } from "./layout-constants.js";
import type { MembershipView } from "./membership.js";
import { Results } from "./records.js";

export interface SupersededVersion extends DroppedVersion {
  newer: { generation: bigint; location: Location };
}

export interface SupersededOptions {
  decisions: Decisions;
  clock: Clock;
  log: Logger;
  holders: Pick<Holders, "describe">;
  graves: Pick<Graves, "bury" | "entomb">;
  /** How long a worker may be away and come back. */
  deadAfterMs: number;
}

/** Versions that wait to be settled; the oldest are forgotten first. */
const SUPERSEDED_MAX = 65_536;
/** The setter's worker gets this owner's answer first, and seals. */
const FIRST_ASK_MS = 20;
const RETRY_MS = 1_000;
/** Denied so often, with RETRY_MS between, it was never sealed: that it was lost, its holder would have told before. */
const DENIALS_MAX = 3;

interface Waiting extends SupersededVersion {
  /** Of the newer version's holder, which may have another id when it is back. */
  address: string;
  denials: number;
  /** Since when its worker is no member; undefined: it is one. */
  awaySinceMs: number | undefined;
}

export class Superseded {
  readonly #options: SupersededOptions;
  /** By key and newer generation. */
  readonly #waiting = new Map<string, Waiting>();
  #view: MembershipView | undefined;
  readonly #idByAddress = new Map<string, number>();
  #timer: Timer | undefined;
  #isAsking = false;
  #closed = false;

  constructor(options: SupersededOptions) {
    this.#options = options;
  }

  get count(): number {
    return this.#waiting.size;
  }

  setView(view: MembershipView): void {
    this.#view = view;
    this.#idByAddress.clear();
    for (const [id, { member }] of view.members) {
      this.#idByAddress.set(member.workerAddress, id);
    }
  }

  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
    this.#waiting.clear();
  }

  /**
   * These were replaced, which the setter of the newer version is told now. One whose worker is no member any more is
   * not told, and has sealed nothing.
   */
  note(versions: readonly SupersededVersion[]): void {
    for (const version of versions) {
      const address = this.#view?.members.get(version.newer.location.member)?.member.workerAddress;
      if (address !== undefined) {
        const name = nameOf(version.key, version.newer.generation);
        this.#waiting.set(name, { ...version, address, denials: 0, awaySinceMs: undefined });
      }
    }
    let over = this.#waiting.size - SUPERSEDED_MAX;
    if (over > 0) {
      const { log } = this.#options;
      log.warn({ versions: over }, "too many versions were replaced that somebody may still have; forgot the oldest");
    }
    for (const name of this.#waiting.keys()) {
      if (over-- <= 0) {
        break;
      }
      this.#waiting.delete(name);
    }
    this.#askAfter(FIRST_ASK_MS);
  }

  /** A holder has, or had, all of this version. */
  isWhole(key: string, generation: bigint): void {
    const version = this.#waiting.get(nameOf(key, generation));
    if (version !== undefined) {
      this.#settle([version]);
    }
  }

  /** For versions of which the newer one is known to be whole. */
  end(versions: readonly DroppedVersion[]): void {
    if (versions.length > 0) {
      this.#options.graves.entomb(versions);
      void this.#options.graves.bury(versions);
    }
  }

  #askAfter(delayMs: number): void {
    if (!this.#isAsking && !this.#closed && this.#waiting.size > 0) {
      this.#timer?.cancel();
      this.#timer = this.#options.clock.setTimer(delayMs, () => void this.#askAll());
    }
  }

  /** Never rejects. */
  async #askAll(): Promise<void> {
    this.#isAsking = true;
    const byMember = new Map<number, Waiting[]>();
    const absent: Waiting[] = [];
    for (const version of this.#waiting.values()) {
      const member = this.#idByAddress.get(version.address);
      if (member === undefined) {
        absent.push(version);
      } else {
        version.awaySinceMs = undefined;
        const versions = byMember.get(member) ?? [];
        byMember.set(member, versions);
        versions.push(version);
      }
    }
    const asking = Promise.all([...byMember].map(([member, versions]) => this.#ask(member, versions)));
    try {
      this.#giveUpAbsent(absent);
    } catch (reason) {
      this.#options.log.warn({ cause: String(reason) }, "could not settle versions that were replaced; trying again");
    } finally {
      await asking;
      this.#isAsking = false;
      this.#askAfter(RETRY_MS);
    }
  }

  /** Never rejects. */
  async #ask(member: number, versions: readonly Waiting[]): Promise<void> {
    const objects = versions.map(({ newer }) => ({ slot: newer.location.slot, generation: newer.generation }));
    try {
      const described = await this.#options.holders.describe(member, objects);
      this.#settle(versions.filter((_, at) => ((described[at]?.flags ?? 0) & HELD_SEALED) !== 0));
      versions.forEach((version, at) => {
        const isThere = described[at]?.code === StatusCode.OK;
        version.denials = isThere ? 0 : version.denials + 1;
        if (version.denials >= DENIALS_MAX) {
          this.#forget(version);
        }
      });
    } catch {
      // Asked again.
    }
  }

  /** The workers of the newer versions are no members. A worker that had many is absent for all of them at once. */
  #giveUpAbsent(versions: readonly Waiting[]): void {
    const { clock, deadAfterMs } = this.#options;
    const nowMs = clock.monotonicMs();
    const over: Waiting[] = [];
    for (const version of versions) {
      version.awaySinceMs ??= nowMs;
      if (nowMs - version.awaySinceMs >= deadAfterMs && !this.#isBack(version)) {
        over.push(version);
      }
    }
    for (let from = 0; from < over.length; from += KEYS_PER_CALL_MAX) {
      this.#settle(over.slice(from, from + KEYS_PER_CALL_MAX));
    }
  }

  /** Has somebody else brought it back? Then it is none of these any more. */
  #isBack(version: Waiting): boolean {
    const known = new Results(this.#options.decisions.directory.lookup(encodeKeys([version.key]), FAMILY_ANY), 1);
    const isBack = known.code(0) === StatusCode.OK && known.generation(0) <= version.generation;
    if (isBack) {
      this.#forget(version);
    }
    return isBack;
  }

  /** The newer version was whole: these have ended, whatever becomes of it. */
  #settle(versions: readonly Waiting[]): void {
    this.end(versions);
    for (const version of versions) {
      this.#forget(version);
    }
  }

  #forget({ key, newer }: Waiting): void {
    this.#waiting.delete(nameOf(key, newer.generation));
  }
}

function nameOf(key: string, generation: bigint): string {
  return `${generation}:${key}`;
}
