/**
 * Graves: versions that ended while a holder of them could not be told, or not all holders may be known, and so may be
 * announced once more. The owner that ended them refuses that, by its tombstones and by the drops that it owes; but a
 * key may have another owner by then, which knows neither. So each change of the ring tells graves to those who own
 * their keys now; and since the owner may die before that, it gives each to HEIRS other members at once, which do the
 * same.
 *
 * Two kinds, with a limit each, so that neither makes the other forgotten. Deleted versions, and replaced ones
 * (superseded.ts), have tombstones at the key's owner. Outdated ones are all that are older than a version whose last
 * holder evicted it, or let it expire, while somebody was away. A busy worker makes very many of these, most of keys of
 * which nobody has a version: they take no tombstones, and are looked at only when a holder announces.
 *
 * What is in a grave is true for ever (generations are never given twice), so it needs no epoch, and telling it twice
 * does no harm. A holder that announces before its grave has arrived is believed for that long: the new owner takes the
 * key up, and drops it when the grave comes. Graves are lost when their owner and its heirs die before the ring
 * changes.
 */
import type { Clock, Timer } from "../base/clock.js";
import { withDeadline } from "../base/deadline.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import {
  type Decisions,
  decodeKey,
  encodeKeys,
  encodeResults,
  FAMILY_ANY,
  type KeyBatch,
  keyCountOf,
  type Location,
} from "../decision/index.js";
import type { DroppedVersion, Holders } from "./holders.js";
import type { KeyCheck } from "./key-check.js";
import { KEYS_PER_CALL_MAX } from "./layout-constants.js";
import type { MemberEntry, MembershipView } from "./membership.js";
import { versionsThatEnded } from "./owner-checks.js";
import type { Peers } from "./peers.js";
import { checkRecordCount, pickKeys, pickRecords, RESULT_RECORD_BYTES, Results } from "./records.js";

export interface GravesOptions {
  decisions: Decisions;
  clock: Clock;
  log: Logger;
  peers: Peers;
  holders: Holders;
  checkKeys: KeyCheck;
  requestTimeoutMs: number;
}

/** Versions that are kept in mind; the oldest are forgotten first. */
const GRAVES_MAX = 65_536;
const RETRY_MS = 1_000;
/** An owner that has not taken its graves after this time is told later. */
const OWNER_WAIT_MS = 1_000;
/** So many others keep what a member buries, too. */
const HEIRS = 2;

interface Grave extends DroppedVersion {
  isOutdated: boolean;
  /** The record of the owner that has been told of it. */
  toldTo?: MemberEntry | undefined;
}

export class Graves {
  readonly #options: GravesOptions;
  /** By key: the newest version that was ended, and who could not be told. */
  readonly #graves = new Map<string, Grave>();
  /** By key: the newest of those that are outdated. */
  readonly #outdated = new Map<string, Grave>();
  #view: MembershipView | undefined;
  #retryTimer: Timer | undefined;

  constructor(options: GravesOptions) {
    this.#options = options;
  }

  get count(): number {
    return this.#graves.size + this.#outdated.size;
  }

  /**
   * These versions have ended here, and their holders could not be told, or may not all be known. Resolves when others
   * keep them too, or don't answer soon. Never rejects.
   */
  async bury(versions: readonly DroppedVersion[]): Promise<void> {
    await this.#tellHeirs(this.#keep(versions, false));
  }

  /**
   * These versions, and all before them, are outdated, and the directory here knows nothing newer any more.
   * `mayReturn`: one who is away may have them; else somebody here, who is about to announce. Never rejects.
   */
  async outdate(versions: readonly DroppedVersion[], mayReturn: boolean): Promise<void> {
    const news = this.#keep(versions, true);
    if (mayReturn) {
      await this.#tellHeirs(news);
    }
  }

  /** Is this version of a key of the batch an outdated one? */
  isOutdated(keys: KeyBatch, index: number, generation: bigint): boolean {
    const outdated = this.#outdated.size === 0 ? undefined : this.#outdated.get(decodeKey(keys, index));
    return outdated !== undefined && generation <= outdated.generation;
  }

  /** The directory here refuses these versions from now on, and what it knows of them is dropped. */
  entomb(versions: readonly DroppedVersion[]): void {
    this.#entomb(
      encodeKeys(versions.map(({ key }) => key)),
      recordsOf(versions.map((version) => ({ ...version, isOutdated: false }))),
      [],
    );
  }

  async #tellHeirs(news: readonly Grave[]): Promise<void> {
    if (news.length > 0) {
      await Promise.all(this.#heirs.map((heir) => this.#tell(heir, news, OWNER_WAIT_MS)));
    }
  }

  /** Returns those of which something was not known. */
  #keep(versions: readonly DroppedVersion[], isOutdated: boolean): Grave[] {
    const graves = isOutdated ? this.#outdated : this.#graves;
    const news = new Map<string, Grave>();
    for (const { key, generation, locations } of versions) {
      const before = graves.get(key);
      const known = before?.generation === generation ? before.locations : [];
      const further = locations.filter((location) => !known.some((other) => isSame(location, other)));
      if (
        before === undefined ||
        before.generation < generation ||
        (before.generation === generation && further.length > 0)
      ) {
        graves.delete(key);
        const version = { key, generation, locations: [...known, ...further], isOutdated };
        graves.set(key, version);
        news.set(key, version);
      }
    }
    for (const key of graves.keys()) {
      if (graves.size <= GRAVES_MAX) {
        break;
      }
      graves.delete(key);
    }
    return [...news.values()];
  }

  /**
   * Tells those who own the keys now. Resolves when each has taken its graves, or does not answer soon; then it is told
   * again and again. Never rejects.
   */
  async setView(view: MembershipView): Promise<void> {
    this.#view = view;
    this.#retryTimer?.cancel();
    this.#retryTimer = undefined;
    if (this.count === 0) {
      return;
    }
    const graves = this.#all;
    const groups = this.#options.decisions.groupByOwner(encodeKeys(graves.map(({ key }) => key)));
    const told = await Promise.all(
      groups.map(async ({ member, indexes }) => {
        const owner = view.members.get(member);
        const untold = Array.from(indexes, (index) => graves[index] as Grave).filter(({ toldTo }) => toldTo !== owner);
        if (owner === undefined || member === view.selfId || untold.length === 0) {
          return true;
        }
        const isTold = await this.#tell(member, untold, OWNER_WAIT_MS);
        for (const grave of isTold ? untold : []) {
          grave.toldTo = owner;
        }
        return isTold;
      }),
    );
    if (told.includes(false) && this.#view === view) {
      this.#retryTimer = this.#options.clock.setTimer(RETRY_MS, () => void this.setView(view));
    }
  }

  /** This member leaves as planned: others keep its graves, and tell them on when the ring changes. Never rejects. */
  async bequeath(): Promise<void> {
    this.#retryTimer?.cancel();
    const graves = this.#all;
    if (graves.length > 0) {
      const told = await Promise.all(this.#heirs.map((heir) => this.#tell(heir, graves, OWNER_WAIT_MS)));
      if (!told.includes(true)) {
        this.#options.log.warn(
          { keys: graves.length },
          "nobody could be told which keys were deleted where a holder was out of reach",
        );
      }
    }
  }

  get #all(): Grave[] {
    return [...this.#graves.values(), ...this.#outdated.values()];
  }

  /** The next members by id, so that each has about as much to keep. */
  get #heirs(): number[] {
    const { selfId, members } = this.#view ?? { selfId: 0, members: new Map<number, MemberEntry>() };
    const others = [...members.keys()].filter((id) => id !== selfId).sort((a, b) => a - b);
    const next = others.findIndex((id) => id > selfId);
    const inOrder = next < 0 ? others : [...others.slice(next), ...others.slice(0, next)];
    return inOrder.slice(0, HEIRS);
  }

  close(): void {
    this.#retryTimer?.cancel();
    this.#view = undefined;
  }

  /**
   * The serving half. `records` are ResultRecords: generation, and the locations that could not be told. Those with the
   * flag existed are outdated.
   */
  take(request: { keys: Uint8Array; records: Uint8Array }): { results: Uint8Array } {
    const { checkKeys } = this.#options;
    const { keys, records } = request;
    checkKeys(keys, KEYS_PER_CALL_MAX);
    checkRecordCount(records, RESULT_RECORD_BYTES, keys);
    if (this.#view === undefined) {
      throw new HbmeshError(
        StatusCode.NOT_READY,
        "this worker has not joined its cluster yet, or is leaving; try again",
      );
    }
    const told = new Results(records, keyCountOf(keys));
    const indexes = [...Array(told.count).keys()];
    for (const isOutdated of [false, true]) {
      const part = indexes.filter((index) => told.existed(index) === isOutdated);
      const versions = part.map((index) => ({
        key: decodeKey(keys, index),
        generation: told.generation(index),
        locations: told.locations(index),
      }));
      this.#keep(versions, isOutdated);
      const ended = isOutdated ? this.#knownOf(keys, part, told) : part;
      // Both what the former owner could not drop, and what was announced here before this came.
      this.#entomb(pickKeys(keys, ended), pickRecords(records, RESULT_RECORD_BYTES, ended), versions);
    }
    return { results: new Uint8Array(0) };
  }

  /** Of these positions, those of which the directory here knows that version of the key, or an older one. */
  #knownOf(keys: KeyBatch, indexes: readonly number[], told: Results): number[] {
    if (indexes.length === 0) {
      return [];
    }
    const { directory } = this.#options.decisions;
    const known = new Results(directory.lookup(pickKeys(keys, indexes), FAMILY_ANY), indexes.length);
    return indexes.filter(
      (index, at) => known.code(at) === StatusCode.OK && known.generation(at) <= told.generation(index),
    );
  }

  #entomb(keys: KeyBatch, records: Uint8Array, further: readonly DroppedVersion[]): void {
    const { decisions, holders } = this.#options;
    const count = keyCountOf(keys);
    const known =
      count === 0 ? [] : versionsThatEnded(keys, new Results(decisions.directory.entomb(keys, records), count));
    void holders.dropEverywhere([...further, ...known], this.#view?.epoch ?? 0n, true);
  }

  async #tell(member: number, graves: readonly Grave[], timeoutMs: number): Promise<boolean> {
    const { clock, peers } = this.#options;
    try {
      for (const part of partsOf(graves)) {
        const records = recordsOf(part);
        const keys = encodeKeys(part.map(({ key }) => key));
        const asking = peers.get(member).directory.entomb({ keys, records }, { timeoutMs });
        await withDeadline(asking, { clock, timeoutMs, what: "handing over which keys were deleted" });
      }
      return true;
    } catch {
      return false;
    }
  }
}

/** A question names a key once: those of one kind do. */
function partsOf(graves: readonly Grave[]): Grave[][] {
  const parts: Grave[][] = [];
  for (const isOutdated of [false, true]) {
    const same = graves.filter((grave) => grave.isOutdated === isOutdated);
    for (let from = 0; from < same.length; from += KEYS_PER_CALL_MAX) {
      parts.push(same.slice(from, from + KEYS_PER_CALL_MAX));
    }
  }
  return parts;
}

function recordsOf(graves: readonly Grave[]): Uint8Array {
  return encodeResults(
    graves.map(({ generation, locations, isOutdated }) => ({
      code: StatusCode.OK,
      existed: isOutdated,
      otherFamily: false,
      generation,
      bytes: 0n,
      family: 0,
      locations: [...locations],
    })),
  );
}

function isSame(one: Location, other: Location): boolean {
  return one.member === other.member && one.slot === other.slot;
}
