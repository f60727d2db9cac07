/**
 * Graves: versions that were ended while a holder of them could not be told, and so may be announced once more. The owner that ended them refuses that, by its tombstones and by the drops that it owes; but a key may have
 * another owner by then, which knows neither. So each change of the ring hands graves over to those who own their keys now, and a member that leaves as planned hands all of its own to others.
 *
 * What is in a grave is true for ever (generations are never given twice), so it needs no epoch, and telling it twice does no harm. A holder that announces before its grave has arrived is believed for that long: the new owner
 * takes the key up, and drops it when the grave comes. The graves of an owner that dies are lost with it.
 */
import type { Clock, Timer } from "../base/clock.js";
import { withDeadline } from "../base/deadline.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import { type Decisions, decodeKey, encodeKeys, encodeResults, keyCountOf } from "../decision/index.js";
import type { DroppedVersion, Holders } from "./holders.js";
import type { KeyCheck } from "./key-check.js";
import { KEYS_PER_CALL_MAX } from "./layout-constants.js";
import type { MembershipView } from "./membership.js";
import { versionsThatEnded } from "./owner-checks.js";
import type { Peers } from "./peers.js";
import { checkRecordCount, RESULT_RECORD_BYTES, Results } from "./records.js";

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
/** A member that leaves gives its graves to so many others. */
const HEIRS = 2;

export class Graves {
  readonly #options: GravesOptions;
  /** By key: the newest version that was ended, and who could not be told. */
  readonly #graves = new Map<string, DroppedVersion>();
  #view: MembershipView | undefined;
  #retryTimer: Timer | undefined;

  constructor(options: GravesOptions) {
    this.#options = options;
  }

  get count(): number {
    return this.#graves.size;
  }

  /** These versions have ended, and their holders could not be told, or may not all be known. */
  add(versions: readonly DroppedVersion[]): void {
    for (const version of versions) {
      const before = this.#graves.get(version.key);
      if (before === undefined || before.generation <= version.generation) {
        this.#graves.delete(version.key);
        this.#graves.set(version.key, version);
      }
    }
    for (const key of this.#graves.keys()) {
      if (this.#graves.size <= GRAVES_MAX) {
        break;
      }
      this.#graves.delete(key);
    }
  }

  /** Hands over what others own now. Resolves when each has taken it, or does not answer soon; then it is told again and again. Never rejects. */
  async setView(view: MembershipView): Promise<void> {
    this.#view = view;
    this.#retryTimer?.cancel();
    this.#retryTimer = undefined;
    if (this.#graves.size === 0) {
      return;
    }
    const graves = [...this.#graves.values()];
    const groups = this.#options.decisions.groupByOwner(encodeKeys(graves.map(({ key }) => key)));
    const told = await Promise.all(
      groups.map(async ({ member, indexes }) => {
        const mine = Array.from(indexes, (index) => graves[index] as DroppedVersion);
        return member === 0 || member === view.selfId || (await this.#tell(member, mine, OWNER_WAIT_MS));
      }),
    );
    groups.forEach(({ member, indexes }, at) => {
      if (told[at] === true && member !== view.selfId) {
        for (const index of indexes) {
          const grave = graves[index] as DroppedVersion;
          if (member !== 0 && this.#graves.get(grave.key) === grave) {
            this.#graves.delete(grave.key);
          }
        }
      }
    });
    if (told.includes(false) && this.#view === view) {
      this.#retryTimer = this.#options.clock.setTimer(RETRY_MS, () => void this.setView(view));
    }
  }

  /** This member leaves as planned: others keep its graves, and hand them on when the ring changes. Never rejects. */
  async bequeath(): Promise<void> {
    const { selfId, members } = this.#view ?? { selfId: 0, members: new Map() };
    this.#retryTimer?.cancel();
    const heirs = [...members.keys()].filter((id) => id !== selfId).sort((a, b) => a - b);
    const graves = [...this.#graves.values()];
    if (graves.length > 0) {
      const told = await Promise.all(heirs.slice(0, HEIRS).map((heir) => this.#tell(heir, graves, OWNER_WAIT_MS)));
      if (!told.includes(true)) {
        this.#options.log.warn(
          { keys: graves.length },
          "nobody could be told which keys were deleted where a holder was out of reach",
        );
      }
    }
  }

  close(): void {
    this.#retryTimer?.cancel();
    this.#view = undefined;
  }

  /** The serving half. `records` are ResultRecords: generation, and the locations that could not be told. */
  take(request: { keys: Uint8Array; records: Uint8Array }): { results: Uint8Array } {
    const { checkKeys, decisions, holders } = this.#options;
    const { keys, records } = request;
    checkKeys(keys, KEYS_PER_CALL_MAX);
    checkRecordCount(records, RESULT_RECORD_BYTES, keys);
    if (this.#view === undefined) {
      throw new HbmeshError(
        StatusCode.NOT_READY,
        "this worker has not joined its cluster yet, or is leaving; try again",
      );
    }
    const bytes = decisions.directory.entomb(keys, records);
    const told = new Results(records, keyCountOf(keys));
    const versions = Array.from({ length: told.count }, (_, index) => ({
      key: decodeKey(keys, index),
      generation: told.generation(index),
      locations: told.locations(index),
    }));
    this.add(versions);
    // Both what the former owner could not drop, and what was announced here before this came.
    const known = versionsThatEnded(keys, new Results(bytes, told.count));
    void holders.dropEverywhere([...versions, ...known], this.#view.epoch);
    return { results: new Uint8Array(0) };
  }

  async #tell(member: number, graves: readonly DroppedVersion[], timeoutMs: number): Promise<boolean> {
    const { clock, peers } = this.#options;
    try {
      for (let from = 0; from < graves.length; from += KEYS_PER_CALL_MAX) {
        const part = graves.slice(from, from + KEYS_PER_CALL_MAX);
        const records = encodeResults(
          part.map(({ generation, locations }) => ({
            code: StatusCode.OK,
            existed: false,
            otherFamily: false,
            generation,
            bytes: 0n,
            family: 0,
            locations: [...locations],
          })),
        );
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
