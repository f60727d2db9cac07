/**
 * Forgetter: tells the owners which objects this member no longer has (expired, evicted, their session ended), in
 * batches, one at a time for each owner. What an owner can't be told now is told again for a while; after that readers
 * find out by themselves, and report it.
 *
 * A key that this member has anew must not reach its owner before what the owner is still to forget under it: it would
 * take the new object for one that exists already. OwnerCalls therefore has the Forgetter tell that first.
 */
import { Canceller } from "../base/cancel.js";
import type { Clock, Timer } from "../base/clock.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import { type Decisions, decodeKeys, encodeKeys, encodeResults, type KeyBatch } from "../decision/index.js";
import { ForgetQueue, type Forgotten } from "./forget-queue.js";
import type { DroppedObject } from "./holders.js";
import { KEYS_PER_CALL_MAX } from "./layout-constants.js";
import type { EarlierForgets, OwnerAnswer, OwnerCalls, Question } from "./owner-calls.js";

export interface ForgetterOptions {
  decisions: Decisions;
  clock: Clock;
  log: Logger;
  calls: Pick<OwnerCalls, "view" | "askOwner">;
}

/** What waits for one owner, and whether it can be told. */
interface OwnerQueue {
  owner: number;
  waiting: ForgetQueue;
  /** A batch is under way. */
  isBusy: boolean;
  /** Runs after a failure: until it fires nothing is tried. */
  retry: Timer | undefined;
}

/** Objects that may wait to be told of; the oldest of the longest queue are given up first. */
const PENDING_MAX = 200_000;
const ATTEMPTS_MAX = 60;
const RETRY_MS = 500;
const TOLD_ANEW = "the ring is changing";

export class Forgetter implements EarlierForgets {
  readonly #options: ForgetterOptions;
  readonly #ending = new Canceller();
  readonly #queues = new Map<number, OwnerQueue>();
  /** Objects in all queues. */
  #count = 0;
  /** The ring by which the queues are filled. */
  #epoch = 0n;
  /** By key of which an owner is being told: settles when it has answered. */
  readonly #asked = new Map<string, Promise<unknown>>();
  /** Queues that are looked at after this turn. */
  readonly #due = new Set<OwnerQueue>();

  constructor(options: ForgetterOptions) {
    this.#options = options;
  }

  add(objects: readonly DroppedObject[]): void {
    if (this.#ending.aborted || objects.length === 0) {
      return;
    }
    this.#followRing();
    this.#put(
      objects.map(({ key, generation, slot, wasWhole = false }) => ({ key, generation, slot, wasWhole, attempts: 0 })),
    );
  }

  /**
   * Tells this owner what it is to forget under these keys, and waits for what it is being told already. Resolves with
   * what the owner said instead if it can't be told; undefined, at once, if there is nothing to tell.
   */
  tellFirst(owner: number, epoch: bigint, keys: KeyBatch): Promise<OwnerAnswer | undefined> | undefined {
    if (this.#count === 0 && this.#asked.size === 0) {
      return undefined;
    }
    this.#followRing();
    const waiting = this.#queues.get(owner)?.waiting;
    const mine = decodeKeys(keys).filter((key) => this.#asked.has(key) || waiting?.has(key) === true);
    return mine.length === 0 ? undefined : this.#tellFirst(owner, epoch, mine);
  }

  close(): void {
    this.#ending.abort(new HbmeshError(StatusCode.SHUTTING_DOWN, "this worker is shutting down"));
    for (const { retry } of this.#queues.values()) {
      retry?.cancel();
    }
    this.#queues.clear();
    this.#count = 0;
  }

  async #tellFirst(owner: number, epoch: bigint, keys: readonly string[]): Promise<OwnerAnswer | undefined> {
    while (!this.#ending.aborted) {
      const asked = new Set(keys.map((key) => this.#asked.get(key)).filter((each) => each !== undefined));
      if (asked.size > 0) {
        await Promise.all(asked);
        continue;
      }
      const items = this.#queues.get(owner)?.waiting.takeOf(keys) ?? [];
      this.#count -= items.length;
      if (items.length === 0) {
        break;
      }
      const said = await this.#ask(owner, epoch, items);
      if (!isSettled(said)) {
        // Whoever asked has its own limit, and this did not cost the objects one of their attempts.
        this.#put(items);
        return said;
      }
      this.#noteRefused(said, items);
    }
    return undefined;
  }

  /** What is added in one turn goes together. */
  #schedule(queue: OwnerQueue): void {
    if (queue.isBusy || queue.retry !== undefined) {
      return;
    }
    if (this.#due.size === 0) {
      queueMicrotask(() => {
        const due = [...this.#due];
        this.#due.clear();
        for (const each of due) {
          this.#send(each);
        }
      });
    }
    this.#due.add(queue);
  }

  #send(queue: OwnerQueue): void {
    if (this.#ending.aborted || queue.isBusy || queue.retry !== undefined) {
      return;
    }
    this.#followRing();
    const items = queue.waiting.take(KEYS_PER_CALL_MAX);
    this.#count -= items.length;
    if (items.length > 0) {
      queue.isBusy = true;
      void this.#tell(queue, items);
    } else if (this.#queues.get(queue.owner) === queue) {
      this.#queues.delete(queue.owner);
    }
  }

  /** Never rejects. */
  async #tell(queue: OwnerQueue, items: Forgotten[]): Promise<void> {
    const said = await this.#ask(queue.owner, this.#epoch, items);
    queue.isBusy = false;
    if (this.#ending.aborted) {
      return;
    }
    if (isSettled(said)) {
      this.#noteRefused(said, items);
    } else {
      queue.retry = this.#options.clock.setTimer(RETRY_MS, () => {
        queue.retry = undefined;
        this.#schedule(queue);
      });
      this.#keep(items, said.t === "failed" ? said.error.message : TOLD_ANEW);
    }
    this.#schedule(queue);
  }

  /** Never rejects. */
  #ask(owner: number, epoch: bigint, items: readonly Forgotten[]): Promise<OwnerAnswer> {
    const asking = this.#askOwner(owner, epoch, items).catch(
      (reason: unknown): OwnerAnswer => ({ t: "failed", error: HbmeshError.from(reason) }),
    );
    const mine = new Map<string, Promise<unknown>>();
    for (const { key } of items) {
      const before = this.#asked.get(key);
      const both = before === undefined ? asking : Promise.all([before, asking]);
      mine.set(key, both);
      this.#asked.set(key, both);
    }
    return asking.then((said) => {
      for (const [key, each] of mine) {
        if (this.#asked.get(key) === each) {
          this.#asked.delete(key);
        }
      }
      return said;
    });
  }

  async #askOwner(owner: number, epoch: bigint, items: readonly Forgotten[]): Promise<OwnerAnswer> {
    const { calls } = this.#options;
    const { selfId } = calls.view;
    const keys = encodeKeys(items.map(({ key }) => key));
    const records = encodeResults(
      items.map(({ generation, slot, wasWhole = false }) => ({
        code: StatusCode.OK,
        existed: wasWhole,
        otherFamily: false,
        generation,
        bytes: 0n,
        family: 0,
        locations: [{ member: selfId, slot }],
      })),
    );
    const question: Question = { method: "forgetLocations", keys, signal: this.#ending };
    return calls.askOwner(owner, epoch, { keys, records, existence: 0, waitMs: 0, last: false }, question);
  }

  /** For another attempt. */
  #keep(items: readonly Forgotten[], cause: string): void {
    const again = items.map((item) => ({ ...item, attempts: item.attempts + 1 }));
    const kept = again.filter(({ attempts }) => attempts < ATTEMPTS_MAX);
    if (kept.length < again.length) {
      this.#giveUp(again.length - kept.length, cause);
    }
    this.#put(kept);
  }

  /** After a change of the ring everything goes to the owners of now. */
  #followRing(): void {
    if (this.#count === 0) {
      this.#epoch = this.#epochNow;
      return;
    }
    const epoch = this.#epochNow;
    if (epoch === this.#epoch) {
      return;
    }
    this.#epoch = epoch;
    const waiting: Forgotten[][] = [];
    for (const queue of this.#queues.values()) {
      waiting.push(queue.waiting.takeAll());
    }
    this.#count = 0;
    for (const items of waiting) {
      this.#put(items);
    }
  }

  /** 0 before this member has joined: nobody is told then. */
  get #epochNow(): bigint {
    try {
      return this.#options.calls.view.epoch;
    } catch {
      return 0n;
    }
  }

  #put(items: readonly Forgotten[]): void {
    for (let from = 0; from < items.length; from += KEYS_PER_CALL_MAX) {
      const part = items.slice(from, from + KEYS_PER_CALL_MAX);
      let owners: Uint32Array;
      try {
        owners = this.#options.decisions.ownersOf(encodeKeys(part.map(({ key }) => key)));
      } catch (reason) {
        this.#giveUp(part.length, String(reason));
        continue;
      }
      part.forEach((item, index) => this.#putAt(owners[index] ?? 0, item));
    }
    this.#limit();
  }

  #putAt(owner: number, item: Forgotten): void {
    if (owner === 0 || this.#ending.aborted) {
      return;
    }
    let queue = this.#queues.get(owner);
    if (queue === undefined) {
      queue = { owner, waiting: new ForgetQueue(), isBusy: false, retry: undefined };
      this.#queues.set(owner, queue);
    }
    queue.waiting.put(item);
    this.#count++;
    this.#schedule(queue);
  }

  /** An owner that finds fault with the question does so every time. */
  #noteRefused(said: OwnerAnswer, items: readonly Forgotten[]): void {
    if (said.t === "failed") {
      this.#giveUp(items.length, said.error.message);
    }
  }

  #giveUp(objects: number, cause: string): void {
    this.#options.log.warn(
      { objects, cause },
      "an owner could not be told that objects are gone; readers will find out by themselves",
    );
  }

  #limit(): void {
    const over = this.#count - PENDING_MAX;
    while (this.#count > PENDING_MAX) {
      const queues = [...this.#queues.values()];
      const { waiting } = queues.reduce((longest, each) => (each.waiting.size > longest.waiting.size ? each : longest));
      this.#count -= waiting.take(this.#count - PENDING_MAX).length;
    }
    if (over > 0) {
      this.#options.log.warn(
        { objects: over },
        "too many objects are gone that owners can't be told of; forgot the oldest",
      );
    }
  }
}

/** Is there nothing more to tell? */
function isSettled(said: OwnerAnswer): boolean {
  return said.t === "results" || (said.t === "failed" && said.error.code === StatusCode.INVALID);
}
