/**
 * Drain: what a member does before it leaves as planned. It takes no new objects, and has others take over what it
 * holds, at a bounded rate, round after round until nothing is left; holds, reads and deletes go on meanwhile. It stays
 * a member: whoever asked for it (hbmesh stop) then ends the worker, or lets it stay.
 *
 *   none -> moving -> moved         may leave: nothing is left, or what is left was to be left behind
 *              |  \-> refused       no room for all of it (at the beginning: then nothing was moved; or when
 *              |                    others have filled up)
 *              \----> stopped       by who asked, because the time is over, or because the sidecar ended
 *
 * After `refused` and `stopped` the worker takes new objects again, and what was moved stays where it is. An object is
 * dropped here only when the other member has it sealed and its owner knows it there: a kill of either process in
 * between loses nothing, and leaves a copy too many at most.
 */
import type { Clock } from "../base/clock.js";
import { pause } from "../base/deadline.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import { RateLimit } from "../base/rate-limit.js";
import type { Decisions } from "../decision/index.js";
import type { DrainState } from "../gen/hbmesh/v1/cluster_pb.js";
import type { DroppedObject } from "./holders.js";
import { type LeavingList, type LeavingObject, listLeaving } from "./leaving-list.js";
import type { OwnerCalls } from "./owner-calls.js";
import type { Peers } from "./peers.js";
import type { SidecarLink } from "./sidecar-link.js";
import { askRoom, askToTake } from "./taking.js";

export interface DrainOptions {
  decisions: Decisions;
  clock: Clock;
  log: Logger;
  calls: OwnerCalls;
  peers: Peers;
  /** Throws NOT_READY while there is none, NOT_FOUND if this member never has one. */
  sidecar: () => SidecarLink;
  requestTimeoutMs: number;
  /** These are about to be dropped here, and their owners are to be told. */
  onMoved: (objects: readonly DroppedObject[]) => void;
}

export interface DrainSettings {
  /** 0: no limit. */
  bytesPerSecond: number;
  /** 0: no limit. */
  timeLimitMs: number;
  /** What finds no room, or is not moved in time, goes with the worker. */
  leaveBehind: boolean;
}

export type DrainStatus = Omit<DrainState, "$typeName" | "$unknown">;

/** One question to the member that takes over: so much at once, or one object. */
const BATCH_BYTES_MAX = 64 * 2 ** 20;
const BATCH_OBJECTS_MAX = 256;
/** Of the rate, in one question: smaller pieces follow the rate more closely. */
const BATCH_SECONDS = 0.25;
const ROUND_PAUSE_MS = 200;
/** Rounds that move nothing, one after the other, before the rest counts as not movable. */
const IDLE_ROUNDS_MAX = 10;
/** Of a worker that moves nothing and was never asked to. */
export const NO_DRAIN: DrainStatus = {
  state: "none",
  reason: "",
  objects: 0n,
  bytes: 0n,
  objectsMoved: 0n,
  bytesMoved: 0n,
  objectsElsewhere: 0n,
  objectsEnded: 0n,
  objectsLeft: 0n,
  bytesLeft: 0n,
  deviceCached: 0n,
  published: 0n,
  milliseconds: 0n,
};

interface Run {
  settings: DrainSettings;
  readonly rate: RateLimit;
  readonly ending: AbortController;
  readonly startMs: number;
  /** Members that take nothing since they leave, too. */
  readonly leavingToo: Set<number>;
  /** Members that could not be asked in the last round, and why. */
  readonly unasked: Map<number, string>;
}

/** What is left after a round. */
interface Rest {
  /** Moved, or not to be moved any more. */
  settled: number;
  left: LeavingObject[];
  /** Of these, which no member has room for. */
  unplaced: LeavingObject[];
  undecided: number;
}

export class Drain {
  readonly #options: DrainOptions;
  #status: DrainStatus = NO_DRAIN;
  #run: Run | undefined;
  #running: Promise<void> = Promise.resolve();
  #endMs = 0;

  constructor(options: DrainOptions) {
    this.#options = options;
  }

  get status(): DrainStatus {
    const sinceMs = this.#run?.startMs ?? 0;
    const untilMs = this.isMoving ? this.#options.clock.monotonicMs() : this.#endMs;
    return { ...this.#status, milliseconds: BigInt(Math.round(this.#status.state === "none" ? 0 : untilMs - sinceMs)) };
  }

  get isMoving(): boolean {
    return this.#status.state === "moving";
  }

  /** Does this member take no new objects? */
  get isLeaving(): boolean {
    return this.isMoving || this.#status.state === "moved";
  }

  /** Why a member that leaves isn't ready. */
  get leavingReason(): string {
    const { state, objects, objectsLeft } = this.#status;
    return state === "moved"
      ? "the worker has moved its objects to others, and waits to be stopped"
      : `the worker is leaving and moves its objects to others: ${objectsLeft} of ${objects} are left`;
  }

  /**
   * Begins; or goes on with other settings. Throws NOT_FOUND where there is no sidecar: then there is nothing to move.
   */
  start(settings: DrainSettings): DrainStatus {
    const { clock } = this.#options;
    if (this.isMoving && this.#run !== undefined) {
      this.#run.settings = settings;
      this.#run.rate.bytesPerSecond = settings.bytesPerSecond;
      return this.status;
    }
    this.#options.sidecar();
    const rate = new RateLimit(clock, settings.bytesPerSecond);
    const run: Run = {
      settings,
      rate,
      ending: new AbortController(),
      startMs: clock.monotonicMs(),
      leavingToo: new Set(),
      unasked: new Map(),
    };
    this.#run = run;
    this.#status = { ...NO_DRAIN, state: "moving" };
    this.#running = this.#work(run);
    return this.status;
  }

  /** New objects are taken again. Resolves when nothing is being moved any more. */
  async stop(reason: string): Promise<DrainStatus> {
    this.#run?.ending.abort(new HbmeshError(StatusCode.INTERRUPTED, reason));
    await this.#running;
    if (this.#status.state === "moved") {
      await this.#end(this.#run as Run, "stopped", reason);
    }
    return this.status;
  }

  /** The worker ends: nothing is begun any more. */
  async close(): Promise<void> {
    this.#run?.ending.abort(new HbmeshError(StatusCode.SHUTTING_DOWN, "the worker is shutting down"));
    await this.#running;
  }

  /** Never rejects. */
  async #work(run: Run): Promise<void> {
    const { signal } = run.ending;
    const timer = this.#options.clock.setTimer(0, () => this.#watchTime(run));
    try {
      const { state, reason } = await this.#moveAll(run);
      await this.#end(run, state, reason);
    } catch (caught) {
      const error = HbmeshError.from(signal.aborted ? signal.reason : caught);
      const isLeft = signal.aborted && run.settings.leaveBehind && error.code === StatusCode.RPC_DEADLINE_EXCEEDED;
      await this.#end(run, isLeft ? "moved" : "stopped", error.message);
    } finally {
      timer.cancel();
    }
  }

  /** Settings may change, so the limit is looked at again and again. */
  #watchTime(run: Run): void {
    const { clock } = this.#options;
    const { timeLimitMs } = run.settings;
    if (run.ending.signal.aborted || this.#run !== run || !this.isMoving) {
      return;
    }
    if (timeLimitMs > 0 && clock.monotonicMs() - run.startMs >= timeLimitMs) {
      const message = `the time limit of ${timeLimitMs} ms is over`;
      run.ending.abort(new HbmeshError(StatusCode.RPC_DEADLINE_EXCEEDED, message));
      return;
    }
    clock.setTimer(ROUND_PAUSE_MS, () => this.#watchTime(run));
  }

  async #end(run: Run, state: "moved" | "refused" | "stopped", reason: string): Promise<void> {
    const { clock, log, sidecar, requestTimeoutMs } = this.#options;
    this.#endMs = clock.monotonicMs();
    this.#status = { ...this.#status, state, reason };
    const { objectsMoved, bytesMoved, objectsLeft } = this.#status;
    const facts = { objectsMoved: Number(objectsMoved), bytesMoved: Number(bytesMoved), left: Number(objectsLeft) };
    log.info({ state, reason, ...facts, ms: Math.round(this.#endMs - run.startMs) }, "moving objects to others ended");
    if (state !== "moved") {
      // A sidecar that is being restarted takes objects anyway.
      await Promise.resolve()
        .then(() => sidecar().setLeaving(false, requestTimeoutMs))
        .catch(() => {});
    }
  }

  async #moveAll(run: Run): Promise<{ state: "moved" | "refused"; reason: string }> {
    const { clock, sidecar, requestTimeoutMs } = this.#options;
    const { signal } = run.ending;
    let idle = 0;
    for (let round = 0; ; round++) {
      signal.throwIfAborted();
      // Before the list: what is sealed by then is in it.
      const setsUnderWay = await sidecar().setLeaving(true, requestTimeoutMs);
      const list = await listLeaving({ sidecar: sidecar(), calls: this.#options.calls, requestTimeoutMs, signal });
      this.#count(list);
      const isWhole = round > 0 || run.settings.leaveBehind;
      if (this.#targets().length === 0 && list.objects.length + list.undecided > 0) {
        const reason = "there is no other worker to move them to";
        return { state: run.settings.leaveBehind ? "moved" : "refused", reason };
      }
      const rest = await this.#round(run, list, isWhole);
      if (rest.left.length === 0 && rest.undecided === 0 && setsUnderWay === 0) {
        return { state: "moved", reason: "" };
      }
      const isFull = rest.unplaced.length > 0 && rest.unplaced.length === rest.left.length && rest.undecided === 0;
      idle = rest.settled > 0 || setsUnderWay > 0 ? 0 : idle + 1;
      const isStuck = idle >= IDLE_ROUNDS_MAX || (isFull && setsUnderWay === 0 && (round > 0 || !isWhole));
      if (isStuck || (round === 0 && rest.unplaced.length > 0 && !run.settings.leaveBehind)) {
        const what = rest.unplaced.length > 0 ? this.#describeUnplaced(run, rest.unplaced) : describeStuck(rest);
        return { state: run.settings.leaveBehind ? "moved" : "refused", reason: what };
      }
      if (rest.left.length > 0 || setsUnderWay > 0) {
        await pause(clock, ROUND_PAUSE_MS, signal);
      }
    }
  }

  /** `isWhole`: moves what has a place although not all has one. */
  async #round(run: Run, list: LeavingList, isWhole: boolean): Promise<Rest> {
    const { plan, unplaced } = await this.#place(run, list.objects);
    if (unplaced.length > 0 && !isWhole) {
      return { settled: 0, left: list.objects, unplaced, undecided: list.undecided };
    }
    const failed: LeavingObject[] = [];
    let settled = 0;
    await Promise.all(
      [...plan].map(async ([member, objects]) => {
        // What is in memory first: that makes the room which those on the SSD tier need to come back.
        const inOrder = [...objects.filter((each) => !each.isSpilled), ...objects.filter((each) => each.isSpilled)];
        const missed = await this.#moveTo(run, member, inOrder);
        settled += objects.length - missed.length;
        failed.push(...missed);
      }),
    );
    return { settled, left: [...unplaced, ...failed], unplaced, undecided: list.undecided };
  }

  /** By member: what it is to take over. A copy that is somewhere already is kept there. */
  async #place(
    run: Run,
    objects: readonly LeavingObject[],
  ): Promise<{
    plan: Map<number, LeavingObject[]>;
    unplaced: LeavingObject[];
  }> {
    const { decisions } = this.#options;
    const plan = new Map<number, LeavingObject[]>();
    const put = (member: number, object: LeavingObject): void => {
      const objects = plan.get(member) ?? [];
      plan.set(member, objects);
      objects.push(object);
    };
    const wanted: LeavingObject[] = [];
    for (const object of objects) {
      const member = object.elsewhere.find((each) => !run.leavingToo.has(each));
      if (member === undefined) {
        wanted.push(object);
      } else {
        put(member, object);
      }
    }
    const unplaced: LeavingObject[] = [];
    if (wanted.length > 0) {
      const targets = this.#targets();
      const rooms = await Promise.all(targets.map((id) => this.#askRoom(run, id)));
      const sizes = BigUint64Array.from(wanted, (object) => BigInt(object.extentBytes));
      decisions.placeMoves(sizes, BigUint64Array.from(rooms)).forEach((place, index) => {
        const object = wanted[index] as LeavingObject;
        const member = targets[place - 1];
        if (member === undefined) {
          unplaced.push(object);
        } else {
          put(member, object);
        }
      });
    }
    return { plan, unplaced };
  }

  /** One that can't be asked gets nothing, and is named if not all finds room. */
  async #askRoom(run: Run, member: number): Promise<bigint> {
    const { peers, requestTimeoutMs } = this.#options;
    const { roomBytes, fault } = await askRoom(peers, member, requestTimeoutMs);
    run.unasked.delete(member);
    if (fault !== undefined) {
      run.unasked.set(member, fault.message);
    }
    return roomBytes;
  }

  #describeUnplaced({ unasked }: Run, objects: readonly LeavingObject[]): string {
    const what = `${objects.length} objects with ${sumOf(objects)} bytes`;
    const causes = [...unasked.values()].join("; ");
    if (unasked.size === 0) {
      return `the other workers have no room for ${what}`;
    }
    return unasked.size === this.#targets().length
      ? `no other worker can be reached to take ${what}: ${causes}`
      : `the other workers that can be reached have no room for ${what}; not reached: ${causes}`;
  }

  /** Other members that have a sidecar. */
  #targets(): number[] {
    const { members, selfId } = this.#options.calls.view;
    const others = [...members.values()].map(({ member }) => member);
    return others.filter(({ id, transports }) => id !== selfId && transports.length > 0).map(({ id }) => id);
  }

  /** Returns those that could not be moved now. */
  async #moveTo(run: Run, member: number, objects: readonly LeavingObject[]): Promise<LeavingObject[]> {
    const { calls, log, peers, requestTimeoutMs } = this.#options;
    const { signal } = run.ending;
    const missed: LeavingObject[] = [];
    for (let from = 0; from < objects.length; ) {
      const batch = this.#batchFrom(run, objects, from);
      from += batch.length;
      const isHere = (object: LeavingObject): boolean => object.elsewhere.length === 0;
      await run.rate.take(sumOf(batch.filter(isHere)), signal);
      signal.throwIfAborted();
      try {
        const question = { selfId: calls.view.selfId, objects: batch, requestTimeoutMs };
        const codes = await askToTake(peers, member, question, signal);
        if (codes.includes(StatusCode.SCALING)) {
          run.leavingToo.add(member);
        }
        missed.push(...(await this.#takeAnswer(batch, codes)));
      } catch (reason) {
        signal.throwIfAborted();
        log.warn({ cause: String(reason) }, "a member could not be told to take objects over; trying again");
        return [...missed, ...batch, ...objects.slice(from)];
      }
    }
    return missed;
  }

  #batchFrom(run: Run, objects: readonly LeavingObject[], from: number): LeavingObject[] {
    const { bytesPerSecond } = run.settings;
    const most = bytesPerSecond === 0 ? BATCH_BYTES_MAX : Math.min(BATCH_BYTES_MAX, bytesPerSecond * BATCH_SECONDS);
    let to = from;
    let bytes = 0;
    while (to < objects.length && to - from < BATCH_OBJECTS_MAX) {
      bytes += objects[to]?.bytes ?? 0;
      if (to > from && bytes > most) {
        break;
      }
      to++;
    }
    return objects.slice(from, to);
  }

  /** What the other member has is dropped here. Returns what it could not take. */
  async #takeAnswer(batch: readonly LeavingObject[], codes: readonly number[]): Promise<LeavingObject[]> {
    const { onMoved, sidecar, requestTimeoutMs } = this.#options;
    const codeOf = (index: number): number => codes[index] ?? StatusCode.TRY_AGAIN;
    const moved = batch.filter((_, index) => codeOf(index) === StatusCode.OK);
    const ended = batch.filter((_, index) => codeOf(index) === StatusCode.NOT_FOUND);
    if (moved.length > 0) {
      onMoved(moved);
      await sidecar().drop(moved, requestTimeoutMs);
    }
    const elsewhere = moved.filter((object) => object.elsewhere.length > 0);
    const { objectsMoved, bytesMoved, objectsElsewhere, objectsEnded, objectsLeft, bytesLeft } = this.#status;
    this.#status = {
      ...this.#status,
      objectsMoved: objectsMoved + BigInt(moved.length - elsewhere.length),
      bytesMoved: bytesMoved + BigInt(sumOf(moved) - sumOf(elsewhere)),
      objectsElsewhere: objectsElsewhere + BigInt(elsewhere.length),
      objectsEnded: objectsEnded + BigInt(ended.length),
      objectsLeft: objectsLeft - BigInt(moved.length + ended.length),
      bytesLeft: bytesLeft - BigInt(sumOf(moved) + sumOf(ended)),
    };
    return batch.filter((_, index) => codeOf(index) !== StatusCode.OK && codeOf(index) !== StatusCode.NOT_FOUND);
  }

  #count(list: LeavingList): void {
    const left = BigInt(list.objects.length + list.undecided);
    const bytesLeft = BigInt(sumOf(list.objects));
    const { objectsMoved, bytesMoved, objectsElsewhere, objectsEnded } = this.#status;
    this.#status = {
      ...this.#status,
      objects: left + objectsMoved + objectsElsewhere + objectsEnded,
      bytes: bytesLeft + bytesMoved,
      objectsLeft: left,
      bytesLeft,
      deviceCached: BigInt(list.deviceCached),
      published: BigInt(list.published),
    };
  }
}

function sumOf(objects: readonly LeavingObject[]): number {
  return objects.reduce((sum, { bytes }) => sum + bytes, 0);
}

function describeStuck({ left, undecided }: Rest): string {
  return `${left.length} objects could not be moved, and the owners of ${undecided} could not tell of them; see the worker's log`;
}
