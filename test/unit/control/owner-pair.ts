/**
 * Member 1, which asks, and member 2, which owns all keys or some: the real Wasm, OwnerCalls and Forgetter, and an
 * owner's service that a test can stand in for.
 */
import { createVirtualClock, type VirtualClock } from "../../../src/base/clock.js";
import type { Logger } from "../../../src/base/log.js";
import { Departed } from "../../../src/control/departed.js";
import { DirectoryOwner, type OwnerReply, type OwnerRequest } from "../../../src/control/directory-owner.js";
import { Forgetter } from "../../../src/control/forgetter.js";
import type { Graves } from "../../../src/control/graves.js";
import type { DroppedObject, Holders } from "../../../src/control/holders.js";
import type { MembershipView } from "../../../src/control/membership.js";
import { OwnerCalls, type OwnerMethod } from "../../../src/control/owner-calls.js";
import type { Peers } from "../../../src/control/peers.js";
import { COMMIT_RECORD_BYTES, type Results } from "../../../src/control/records.js";
import type { Superseded } from "../../../src/control/superseded.js";
import { createDecisions, type Decisions, encodeKeys, writeCommit } from "../../../src/decision/index.js";
import { fromConnectError } from "../../../src/rpc/connect-errors.js";

export const ASKER = 1;
export const OWNER = 2;
export const EPOCH = 5n;
const REQUEST_TIMEOUT_MS = 5_000;

type Serve = (method: OwnerMethod, request: OwnerRequest, signal: AbortSignal, owner: number) => Promise<OwnerReply>;

export interface Warning {
  text: string;
  objects: number;
  cause: string;
}

const nothing = (): void => {};

export class OwnerPair {
  readonly clock: VirtualClock = createVirtualClock();
  readonly decisions: Decisions = createDecisions();
  readonly departed = new Departed();
  readonly warnings: Warning[] = [];
  /** What reached an owner, in order. */
  readonly arrivals: OwnerMethod[] = [];
  readonly owner: DirectoryOwner;
  readonly ownerDecisions: Decisions;
  readonly calls: OwnerCalls;
  readonly forgetter: Forgetter;
  /** Stands in for an owner; at first the one that is here. */
  serve: Serve;

  /** `isOwn`: the keys of member 1 are asked for, so that no link is in between. */
  constructor({ isOwn = false, decisions }: { isOwn?: boolean; decisions?: (real: Decisions) => Decisions } = {}) {
    this.ownerDecisions = isOwn ? this.decisions : createDecisions();
    const { clock } = this;
    const log = {
      warn: ({ objects, cause }: Warning, text: string) => void this.warnings.push({ text, objects, cause }),
      info: nothing,
      debug: nothing,
      error: nothing,
    } as unknown as Logger;
    const holders = {
      dropEverywhere: async () => [],
      owesDrop: () => false,
      settleDrop: nothing,
      describe: async () => [],
    };
    this.owner = new DirectoryOwner({
      decisions: this.ownerDecisions,
      clock,
      holders: holders as unknown as Holders,
      graves: { isOutdated: () => false, outdate: async () => {} } as unknown as Graves,
      superseded: {
        count: 0,
        setView: nothing,
        close: nothing,
        note: nothing,
        isWhole: nothing,
        end: nothing,
      } as unknown as Superseded,
      checkKeys: nothing,
      patienceMs: REQUEST_TIMEOUT_MS / 2,
      deadAfterMs: 30_000,
      mayDecide: () => true,
      decidedUntilMs: () => Number.POSITIVE_INFINITY,
    });
    this.owner.setView(viewOf(isOwn ? ASKER : OWNER, [isOwn ? ASKER : OWNER]));
    this.owner.conclude(EPOCH, [], 0);
    this.serve = async (method, request, signal) => this.owner[method](request, signal);
    const directoryOf = (owner: number) =>
      new Proxy(
        {},
        {
          get:
            (_, method: OwnerMethod) =>
            async (request: OwnerRequest, { signal }: { signal: AbortSignal }) => {
              this.arrivals.push(method);
              return this.serve(method, request, signal, owner);
            },
        },
      );
    const peers = {
      get: (owner: number) => ({ directory: directoryOf(owner) }),
      errorOf: (_: number, reason: unknown) => fromConnectError(reason),
      nameOf: String,
    };
    const options = {
      decisions: decisions?.(this.decisions) ?? this.decisions,
      clock,
      log,
      requestTimeoutMs: REQUEST_TIMEOUT_MS,
    };
    this.calls = new OwnerCalls({
      ...options,
      peers: peers as unknown as Peers,
      owner: this.owner,
      departed: this.departed,
      forgets: { tellFirst: (...question) => this.forgetter.tellFirst(...question) },
    });
    this.forgetter = new Forgetter({ ...options, calls: this.calls });
    this.setRing(EPOCH, isOwn ? ASKER : OWNER);
  }

  /** All keys are this member's from now on. */
  setRing(epoch: bigint, owner: number): void {
    this.decisions.setRing([{ id: owner, weight: 1, name: `h${owner}` }]);
    this.calls.setView({ ...viewOf(ASKER, [ASKER, OWNER, owner]), epoch });
  }

  /** As the sidecar says that it evicted objects. */
  lose(objects: readonly DroppedObject[]): void {
    this.departed.note(objects);
    this.forgetter.add(objects);
  }

  /** A set of one key that reserves and commits in one step. */
  async put(key: string, slot: number): Promise<Results> {
    const answer = await this.calls.commit({
      keys: encodeKeys([key]),
      records: commitRecord(0n, slot),
      reserves: true,
      family: 0,
    });
    return answer.results;
  }

  /** Lets time pass until the promise is settled. */
  async drive<T>(work: Promise<T>, limitMs = 60_000): Promise<T> {
    let settled = false;
    const mark = (): void => {
      settled = true;
    };
    work.then(mark, mark);
    await this.clock.settle();
    for (let passedMs = 0; !settled && passedMs < limitMs; passedMs += 10) {
      await this.clock.advance(10);
    }
    if (!settled) {
      throw new Error(`not settled after ${limitMs} ms of virtual time`);
    }
    return work;
  }

  close(): void {
    this.forgetter.close();
    this.calls.close();
    this.owner.close();
  }
}

export function commitRecord(generation: bigint, slot: number): Uint8Array {
  const record = new Uint8Array(COMMIT_RECORD_BYTES);
  writeCommit(record, 0, { generation, bytes: 100n, slot, member: ASKER });
  return record;
}

export function lostObjects(count: number, first = 0): DroppedObject[] {
  return Array.from({ length: count }, (_, at) => ({
    key: `lost-${first + at}`,
    generation: BigInt(first + at + 1),
    slot: first + at,
  }));
}

/** The owner takes announcements and questions of member 1, too. */
function viewOf(selfId: number, ids: readonly number[]): MembershipView {
  const members = new Map(
    [...new Set([ASKER, ...ids])].map((id) => [
      id,
      { member: { id, weight: ids.includes(id) ? 1 : 0, workerAddress: `h${id}` }, revision: 1n },
    ]),
  );
  return { epoch: EPOCH, selfId, members, left: new Set(), passed: false } as unknown as MembershipView;
}
