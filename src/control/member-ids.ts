/**
 * MemberIds: what the members of a cluster share in the store beside their records: the counter that gives ids, and the
 * settings that all must have alike.
 *
 * A store that has lost its data (or is an older backup) has neither. So an id is drawn above all that are in use, and
 * a member that comes back puts back what is missing: the counter, above every id that it knows, and the settings.
 */
import type { Clock } from "../base/clock.js";
import { pause } from "../base/deadline.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import type { RandomSource } from "../base/random.js";
import type { Store } from "../metadata/store.js";

export interface MemberIdsOptions {
  store: Store;
  clock: Clock;
  log: Logger;
  random: RandomSource;
  clusterName: string;
  keyRule: string;
  tokenMark: string;
}

const MEMBER_ID_MAX = 65_535;
/** Longest wait after so many processes took the id that this one wanted; each time twice as long. */
const ID_RETRY_MS = 4;
const ID_RETRIES_MAX = 5;

export class MemberIds {
  /** Of all keys of this cluster in the store. */
  readonly prefix: string;
  readonly membersPrefix: string;
  readonly #options: MemberIdsOptions;
  readonly #signal: AbortSignal;
  /** That any member has had, as far as this one knows. */
  #highest = 0;

  constructor(options: MemberIdsOptions, signal: AbortSignal) {
    this.#options = options;
    this.#signal = signal;
    this.prefix = `hbmesh/${options.clusterName}/`;
    this.membersPrefix = `${this.prefix}members/`;
  }

  /** The member whose record this is, or of what stands below its record. */
  idOf(key: string): number {
    const id = Number.parseInt(key.slice(this.membersPrefix.length), 10) || 0;
    this.#highest = Math.max(this.#highest, id);
    return id;
  }

  /**
   * What all members must have alike. The first one writes it; who comes with something else is refused before it is
   * seen by the others.
   */
  async agree(): Promise<void> {
    const { keyRule, tokenMark, clusterName } = this.#options;
    await this.#agreeOn("key_rule", keyRule, (agreed) => {
      return `cluster ${clusterName} has the key rule ${agreed} and this worker ${keyRule}; start it with the cluster's`;
    });
    await this.#agreeOn("cluster_token", tokenMark, () => {
      const remedy = "start all workers of a cluster with the same --cluster_token_file, or all without";
      return `cluster ${clusterName} has another cluster token than this worker, or one of both has none; ${remedy}`;
    });
  }

  async #agreeOn(setting: string, own: string, describe: (agreed: string) => string): Promise<void> {
    const { store } = this.#options;
    const signal = this.#signal;
    const key = `${this.prefix}settings/${setting}`;
    const entry = await store.get(key, { signal });
    if (entry === undefined && (await store.put(key, Buffer.from(own), { expectedRevision: 0n, signal })).written) {
      return;
    }
    const { value } = entry ?? (await store.get(key, { signal })) ?? { value: Buffer.from(own) };
    const agreed = Buffer.from(value).toString("utf8");
    if (agreed !== own) {
      throw new HbmeshError(StatusCode.INVALID, describe(agreed));
    }
  }

  /**
   * Those that start at the same time draw apart: all at once they would ask the store as often as there are pairs of
   * them.
   */
  async take(): Promise<number> {
    const { store, clock, random } = this.#options;
    const signal = this.#signal;
    for (let retries = 0; ; retries++) {
      const { id: next, revision } = await this.#nextId();
      const { entries } = await store.getPrefix(this.membersPrefix, { signal });
      for (const { key } of entries) {
        this.idOf(key);
      }
      const id = Math.max(next, this.#highest + 1);
      if (id > MEMBER_ID_MAX) {
        const message = `all ${MEMBER_ID_MAX} member ids of the cluster were used; start it anew under another cluster name`;
        throw new HbmeshError(StatusCode.OUT_OF_RANGE, message);
      }
      const value = Buffer.from(String(id + 1));
      if ((await store.put(this.#counter, value, { expectedRevision: revision, signal })).written) {
        return id;
      }
      const longestMs = ID_RETRY_MS * 2 ** Math.min(retries, ID_RETRIES_MAX);
      await pause(clock, random.nextFraction() * longestMs, signal);
    }
  }

  /** What the store says, and the revision at which it was written: 0n if there is nothing. */
  async #nextId(): Promise<{ id: number; revision: bigint }> {
    const entry = await this.#options.store.get(this.#counter, { signal: this.#signal });
    const id = entry === undefined ? 1 : Number(Buffer.from(entry.value).toString("utf8"));
    if (!Number.isInteger(id) || id < 1) {
      throw new HbmeshError(
        StatusCode.DATA_INCONSISTENCY,
        `the store's ${this.#counter} is no member id; delete it while no worker runs`,
      );
    }
    return { id, revision: entry?.modifyRevision ?? 0n };
  }

  /** After this member was out: is what all need still there? */
  async putBack(): Promise<void> {
    const { store, log } = this.#options;
    const signal = this.#signal;
    for (;;) {
      const { id, revision } = await this.#nextId();
      if (id > this.#highest) {
        break;
      }
      const value = Buffer.from(String(this.#highest + 1));
      if ((await store.put(this.#counter, value, { expectedRevision: revision, signal })).written) {
        log.error(
          { nextId: id, highestId: this.#highest },
          "the store has lost data: members have higher ids than it would give; put right",
        );
        break;
      }
    }
    await this.agree().catch((reason: unknown) => {
      if (HbmeshError.from(reason).code !== StatusCode.INVALID) {
        throw reason;
      }
      log.error({ cause: String(reason) }, "the store has lost data, and a worker has joined that does not fit");
    });
  }

  get #counter(): string {
    return `${this.prefix}next_member_id`;
  }
}
