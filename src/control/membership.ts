/**
 * Membership: who is in the cluster, as the store says, and this process as one of them.
 *
 *   hbmesh/<cluster>/settings/key_rule       the rule that all members keep; written by the first
 *   hbmesh/<cluster>/settings/cluster_token  what tells that a worker has the token of all members, or that they have
 *                                            none; written by the first
 *   hbmesh/<cluster>/next_member_id          counter, compare-and-swap
 *   hbmesh/<cluster>/members/<id>            Member, bound to the member's lease
 *   hbmesh/<cluster>/members/<id>/leaves     empty, bound to the same lease: written by a member before it leaves as
 *                                            planned, so that the others know that its bytes go with it
 *
 * The epoch is the revision of the last change under members/. Every member that has seen the same changes has the same
 * epoch: it counts only changes that came as such, and the first one that counts is this member's own record. After a
 * gap in the watch a member writes its record again, and so gives all of them a new one.
 *
 * A store that has lost its data gives ids, and revisions, from the beginning. So a record is only ever written where
 * none of another worker is: who finds its id taken goes on under another one. And who comes back puts back what must
 * be there for all: the counter, above all ids that it knows, and the settings.
 *
 * A view is published at once; only when many changes come in a row it takes several of them, the more the larger the
 * cluster is: a thousand that start would else build a ring of a thousand a thousand times.
 */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { Clock, Timer } from "../base/clock.js";
import type { KeyRuleChoice } from "../base/config.js";
import { createDeferred, type Deferred, pause, withDeadline } from "../base/deadline.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import type { RandomSource } from "../base/random.js";
import { type Member, MemberSchema } from "../gen/hbmesh/v1/cluster_pb.js";
import type { Store, WatchBatch } from "../metadata/store.js";
import { MemberIds } from "./member-ids.js";

export interface MemberEntry {
  member: Member;
  /** Revision of its record: another one means that the member has started anew. */
  revision: bigint;
}

export interface MembershipView {
  epoch: bigint;
  /** This process. */
  selfId: number;
  /** Live members by id, at most one for each worker address: the one that joined last. */
  members: ReadonlyMap<number, MemberEntry>;
  /**
   * Ids of those that have left as planned, as far as this member saw it; of another id that is gone it may still run,
   * unseen.
   */
  left: ReadonlySet<number>;
  /** A member came and went between the view before and this one. Others may have had a view with it. */
  passed: boolean;
}

/** What a member says of itself, its id apart. */
export type SelfDescription = Pick<
  Member,
  "workerAddress" | "linkAddress" | "transports" | "weight" | "hostId" | "deviceCount" | "remoteH2dDeviceIds"
>;

export interface MembershipOptions {
  store: Store;
  clock: Clock;
  log: Logger;
  random: RandomSource;
  clusterName: string;
  keyRule: KeyRuleChoice;
  /** The same text for every member with the same token, and one for those without (ClusterToken.mark). */
  tokenMark: string;
  leaseMs: number;
  /** What must hold before others see this member: given those who are members by then. Rejects: it does not join. */
  beforeJoin?: ((members: readonly Member[], signal: AbortSignal) => Promise<void>) | undefined;
  /** Asked each time the record is written. */
  describeSelf: () => SelfDescription;
  /** Called in order, for every new epoch. */
  onView: (view: MembershipView) => void;
  /** The lease was renewed, or the record was written. */
  onRenewed: () => void;
  /** This member can't go on: another process took over its address. */
  onEvicted: (reason: HbmeshError) => void;
}

const LEAVES_SUFFIX = "/leaves";
const RETRY_MS = 500;
const WARN_INTERVAL_MS = 10_000;
/** So many views may follow each other at once, and one more every so often. */
const VIEWS_AT_ONCE = 8;
const VIEW_INTERVAL_MS = 100;
/** Above so many members a view counts for several: what a ring costs grows with them. */
const MEMBERS_PER_VIEW = 250;
/** How long joining waits to see its own record. */
const JOIN_TIMEOUT_MS = 10_000;

export class Membership {
  readonly #options: MembershipOptions;
  readonly #ids: MemberIds;
  readonly #ending = new AbortController();
  readonly #known = new Map<string, MemberEntry>();
  /** Ids that left as planned, until a store that has lost its data gives one again. */
  readonly #left = new Set<number>();
  /** Of the record that was written before, if any. */
  #lastRevision: bigint | undefined;
  readonly #firstSnapshot = createDeferred<void>();
  readonly #joined: Deferred<void> = createDeferred<void>();
  #selfId = 0;
  #self: SelfDescription | undefined;
  #leaseId: bigint | undefined;
  #leaseUntilMs = Number.NEGATIVE_INFINITY;
  /** Of the record that was written last; undefined while another one is being written. */
  #recordRevision: bigint | undefined;
  #view: MembershipView | undefined;
  /** Views that may be published at once, as of #creditMs. */
  #credit = VIEWS_AT_ONCE;
  #creditMs = 0;
  /** Epoch of the view that is to be published next. */
  #nextEpoch = 0n;
  #publishTimer: Timer | undefined;
  #passed = false;
  #tasks: Promise<void>[] = [];
  #writing: Promise<void> = Promise.resolve();
  /** By warning: when it was given last, since the store was lost. */
  readonly #warnedMs = new Map<string, number>();

  constructor(options: MembershipOptions) {
    this.#options = options;
    this.#ids = new MemberIds(options, this.#ending.signal);
  }

  /** Undefined before join(). */
  get view(): MembershipView | undefined {
    return this.#view;
  }

  /** Until when the lease lasts at least: from before the store was asked to renew it. */
  get leaseUntilMs(): number {
    return this.#leaseUntilMs;
  }

  /** Is the record in the view the one that was written last? */
  get isRecordCurrent(): boolean {
    return (
      this.#recordRevision !== undefined && this.#view?.members.get(this.#selfId)?.revision === this.#recordRevision
    );
  }

  get selfId(): number {
    return this.#selfId;
  }

  /** Resolves once this member's record is in the view. On failure nothing of it is left in the store. */
  async join(): Promise<void> {
    await this.#ids.agree();
    this.#selfId = await this.#ids.take();
    this.#tasks.push(this.#watch());
    const limits = { clock: this.#options.clock, timeoutMs: JOIN_TIMEOUT_MS, signal: this.#ending.signal };
    await withDeadline(this.#firstSnapshot.promise, { ...limits, what: "reading the members from the store" });
    const others = [...this.#known.values()].map(({ member }) => member);
    await this.#options.beforeJoin?.(
      others.filter(({ workerAddress }) => workerAddress !== this.#options.describeSelf().workerAddress),
      this.#ending.signal,
    );
    await this.#writeSelf();
    await withDeadline(this.#joined.promise, { ...limits, what: "joining the cluster" });
    this.#tasks.push(this.#renewLease());
    await this.#removePredecessors();
  }

  /** Writes this member's record again; everyone then gets a new epoch, and takes this member for newly started. */
  announceSelf(): Promise<void> {
    return this.#writeSelf();
  }

  /** Takes the record of another member out, whose process is dead. */
  async removeDead(id: number): Promise<void> {
    await this.#options.store.delete(`${this.#ids.membersPrefix}${id}`, { signal: this.#ending.signal });
  }

  /** The others learn at once that this member is gone. Never rejects. */
  async leave(): Promise<void> {
    this.#ending.abort(new HbmeshError(StatusCode.SHUTTING_DOWN, "this member is leaving the cluster"));
    this.#publishTimer?.cancel();
    await Promise.all([...this.#tasks, this.#writing]);
    if (this.#leaseId !== undefined) {
      const leaves = `${this.#ownKey}${LEAVES_SUFFIX}`;
      const written = { leaseId: this.#leaseId, timeoutMs: 2_000 };
      // Without it the others wait for a while whether this member comes back.
      await this.#options.store.put(leaves, new Uint8Array(0), written).catch(() => {});
      await this.#options.store.revokeLease(this.#leaseId, { timeoutMs: 2_000 }).catch((reason: unknown) => {
        this.#options.log.warn(
          { cause: String(reason) },
          "could not take back the lease; the others notice when it ends",
        );
      });
    }
  }

  get #ownKey(): string {
    return `${this.#ids.membersPrefix}${this.#selfId}`;
  }

  #isOwn({ workerAddress, linkAddress }: Member): boolean {
    // They don't change: the link's is known before it joins.
    this.#self ??= this.#options.describeSelf();
    return workerAddress === this.#self.workerAddress && linkAddress === this.#self.linkAddress;
  }

  /** One write at a time: two leases must not race for the record. */
  #writeSelf(): Promise<void> {
    const work = this.#writing.then(async () => {
      const { clock, store, leaseMs, onRenewed } = this.#options;
      const { signal } = this.#ending;
      this.#recordRevision = undefined;
      for (let attempt = 0; ; attempt++) {
        const askedMs = clock.monotonicMs();
        if (this.#leaseId === undefined) {
          if (this.#view !== undefined) {
            await this.#ids.putBack();
          }
          this.#leaseId = await store.grantLease(leaseMs, { signal });
          this.#leaseUntilMs = askedMs + leaseMs;
        }
        try {
          this.#recordRevision = await this.#putRecord(this.#leaseId);
          this.#lastRevision = this.#recordRevision;
          onRenewed();
          return;
        } catch (reason) {
          // The lease ended before it was used: take another one, once.
          if (attempt > 0 || !(reason instanceof HbmeshError) || reason.code !== StatusCode.NOT_FOUND) {
            throw reason;
          }
          this.#leaseId = undefined;
        }
      }
    });
    this.#writing = work.catch(() => {});
    return work;
  }

  /**
   * Where no other worker has written its own. Returns the revision, which is none that this record had before: a store
   * that has lost its data counts anew.
   */
  async #putRecord(leaseId: bigint): Promise<bigint> {
    const { store, log, describeSelf } = this.#options;
    const { signal } = this.#ending;
    for (;;) {
      const there = await store.get(this.#ownKey, { signal });
      if (there !== undefined && !this.#isOwn(decodeMember(there.value))) {
        const before = this.#selfId;
        this.#selfId = await this.#ids.take();
        log.error(
          { before, member: this.#selfId },
          "another worker has this one's member id; going on under a new one",
        );
        continue;
      }
      const value = toBinary(MemberSchema, create(MemberSchema, { id: this.#selfId, ...describeSelf() }));
      const record = { leaseId, expectedRevision: there?.modifyRevision ?? 0n, signal };
      const { written, revision } = await store.put(this.#ownKey, value, record);
      if (written && revision !== this.#lastRevision) {
        return revision;
      }
    }
  }

  /** Records of earlier processes with this worker address: they are dead, since this process has the address. */
  async #removePredecessors(): Promise<void> {
    const address = this.#options.describeSelf().workerAddress;
    for (const [key, { member }] of this.#known) {
      if (member.workerAddress === address && member.id < this.#selfId) {
        await this.#options.store.delete(key).catch(() => {});
      }
    }
  }

  async #renewLease(): Promise<void> {
    const { store, clock, log, leaseMs, onRenewed } = this.#options;
    const { signal } = this.#ending;
    let waitMs = leaseMs / 3;
    for (;;) {
      await pause(clock, waitMs, signal);
      if (signal.aborted) {
        return;
      }
      const leaseId = this.#leaseId;
      const askedMs = clock.monotonicMs();
      try {
        const alive =
          leaseId !== undefined && (await store.keepAlive(leaseId, { signal, timeoutMs: Math.ceil(leaseMs / 3) }));
        if (!alive) {
          log.warn({ leaseMs }, "the store ended this worker's lease; joining again");
          // Another lease: the end of the record was seen before, and it has been written again.
          if (this.#leaseId === leaseId) {
            this.#leaseId = undefined;
            await this.#writeSelf();
          }
        } else if (this.#leaseId === leaseId) {
          this.#leaseUntilMs = askedMs + leaseMs;
          this.#storeIsBack();
          onRenewed();
        }
        waitMs = leaseMs / 3;
      } catch (reason) {
        if (!signal.aborted) {
          this.#warnOfStore("could not renew this worker's lease", reason);
        }
        waitMs = Math.min(RETRY_MS, leaseMs / 20);
      }
    }
  }

  /** At once, and then now and then: what is tried again goes on twice a second. */
  #warnOfStore(what: string, reason: unknown): void {
    const { clock, log } = this.#options;
    const nowMs = clock.monotonicMs();
    if (nowMs - (this.#warnedMs.get(what) ?? Number.NEGATIVE_INFINITY) >= WARN_INTERVAL_MS) {
      this.#warnedMs.set(what, nowMs);
      log.warn({ cause: String(reason) }, what);
    }
  }

  #storeIsBack(): void {
    if (this.#warnedMs.size > 0) {
      this.#warnedMs.clear();
      this.#options.log.info({}, "the store is reached again");
    }
  }

  async #watch(): Promise<void> {
    const { store, clock } = this.#options;
    const { signal } = this.#ending;
    const prefix = this.#ids.membersPrefix;
    while (!signal.aborted) {
      try {
        for await (const batch of store.watch(prefix, { signal })) {
          await this.#take(batch);
        }
      } catch (reason) {
        if (!signal.aborted) {
          this.#warnOfStore("lost sight of the store; the members stay as they were", reason);
        }
        await pause(clock, RETRY_MS, signal);
      }
    }
  }

  async #take(batch: WatchBatch): Promise<void> {
    if (batch.snapshot) {
      this.#known.clear();
    }
    const own = this.#ownKey;
    let changedAt = 0n;
    let ownEndedAt: bigint | undefined;
    for (const { entry, deleted } of batch.events) {
      const id = this.#ids.idOf(entry.key);
      if (entry.key.endsWith(LEAVES_SUFFIX)) {
        this.#left.add(id);
        continue;
      }
      const before = this.#known.get(entry.key);
      this.#passed ||= before !== undefined && this.#view?.members.get(before.member.id) !== before;
      if (deleted) {
        this.#known.delete(entry.key);
        ownEndedAt = entry.key === own ? entry.modifyRevision : ownEndedAt;
      } else {
        const member = decodeMember(entry.value);
        this.#known.set(entry.key, { member, revision: entry.modifyRevision });
        ownEndedAt = entry.key === own && !this.#isOwn(member) ? entry.modifyRevision : ownEndedAt;
        if (before?.member.workerAddress !== member.workerAddress) {
          this.#left.delete(id);
        }
      }
      changedAt = entry.modifyRevision > changedAt ? entry.modifyRevision : changedAt;
    }
    if (batch.snapshot) {
      this.#firstSnapshot.resolve();
      // While it joins, too: a record that was written while the watch was broken never comes as a change.
      if (this.#view !== undefined || this.#hasRecord) {
        await this.#returnOrEnd();
      }
      return;
    }
    if (changedAt === 0n) {
      return;
    }
    if (this.#hasRecord) {
      this.#publishSoon(changedAt);
    } else if (ownEndedAt !== undefined && this.#view !== undefined && !this.#ending.signal.aborted) {
      // Once: what others write until this member's next record is seen is no reason for another one.
      await this.#returnOrEnd(ownEndedAt);
    }
  }

  /**
   * This member's record was deleted (at this revision), or may have been unseen: its lease ended, or another process
   * has its address now.
   */
  async #returnOrEnd(endedAt?: bigint): Promise<void> {
    const { workerAddress } = this.#options.describeSelf();
    for (const { member } of this.#known.values()) {
      if (member.workerAddress === workerAddress && member.id > this.#selfId) {
        const message = `another process joined as worker ${workerAddress}; only one may run at an address`;
        this.#options.onEvicted(new HbmeshError(StatusCode.INTERRUPTED, message, { node: workerAddress }));
        this.#recordRevision = undefined;
        return;
      }
    }
    const isAnothers = this.#known.has(this.#ownKey) && !this.#hasRecord;
    const isOld = endedAt === undefined || this.#recordRevision === undefined || this.#recordRevision < endedAt;
    if (isOld || isAnothers) {
      this.#recordRevision = undefined;
      await this.#writeSelf();
    }
  }

  #publishSoon(epoch: bigint): void {
    const { clock } = this.#options;
    this.#nextEpoch = epoch;
    const nowMs = clock.monotonicMs();
    this.#credit = Math.min(VIEWS_AT_ONCE, this.#credit + (nowMs - this.#creditMs) / VIEW_INTERVAL_MS);
    this.#creditMs = nowMs;
    if (this.#credit >= this.#viewCost && this.#publishTimer === undefined) {
      this.#publish();
      return;
    }
    this.#publishTimer ??= clock.setTimer((this.#viewCost - this.#credit) * VIEW_INTERVAL_MS, () => {
      this.#publishTimer = undefined;
      // Without its own record this member has no place in a view; it writes it again.
      if (this.#hasRecord && !this.#ending.signal.aborted) {
        this.#publish();
      }
    });
  }

  get #hasRecord(): boolean {
    const own = this.#known.get(this.#ownKey);
    return own !== undefined && this.#isOwn(own.member);
  }

  get #viewCost(): number {
    return Math.min(VIEWS_AT_ONCE, Math.max(1, this.#known.size / MEMBERS_PER_VIEW));
  }

  #publish(): void {
    const byAddress = new Map<string, MemberEntry>();
    for (const entry of this.#known.values()) {
      const other = byAddress.get(entry.member.workerAddress);
      if (other === undefined || other.member.id < entry.member.id) {
        byAddress.set(entry.member.workerAddress, entry);
      }
    }
    const sorted = [...byAddress.values()].sort((a, b) => a.member.id - b.member.id);
    const members = new Map(sorted.map((entry) => [entry.member.id, entry]));
    // One that another process at its address followed at once was never in a view of this member's.
    const hidden = [...this.#known.values()].some((entry) => {
      const { id } = entry.member;
      return members.get(id) !== entry && this.#view?.members.get(id) !== entry;
    });
    const view = { epoch: this.#nextEpoch, selfId: this.#selfId, members, left: new Set(this.#left) };
    this.#view = { ...view, passed: this.#passed || hidden };
    this.#credit -= this.#viewCost;
    this.#passed = false;
    this.#joined.resolve();
    this.#options.onView(this.#view);
  }
}

/** What the same bytes say is kept with them: where the members of a cluster live in one process they share it. */
const decoded = new WeakMap<Uint8Array, Member>();

function decodeMember(value: Uint8Array): Member {
  let member = decoded.get(value);
  if (member === undefined) {
    member = fromBinary(MemberSchema, value);
    decoded.set(value, member);
  }
  return member;
}
