/**
 * Forgetter: tells the owners which objects this member no longer has (expired, evicted, their session ended), in batches, one at a time for each owner. What an owner
 * can't be told now is told again for a while; after that readers find out by themselves, and report it.
 */
import type { Clock, Timer } from "../base/clock.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import { type Decisions, encodeKeys, encodeResults } from "../decision/index.js";
import type { DroppedObject } from "./holders.js";
import { KEYS_PER_CALL_MAX } from "./layout-constants.js";
import type { OwnerCalls, Question } from "./owner-calls.js";

export interface ForgetterOptions {
  decisions: Decisions;
  clock: Clock;
  log: Logger;
  calls: OwnerCalls;
}

interface Item extends DroppedObject {
  attempts: number;
}

/** Objects that may wait to be told of; the oldest are given up first. */
const PENDING_MAX = 200_000;
const ATTEMPTS_MAX = 60;
const RETRY_MS = 500;

export class Forgetter {
  readonly #options: ForgetterOptions;
  readonly #ending = new AbortController();
  /** Owners that are being told something. */
  readonly #busy = new Set<number>();
  #pending: Item[] = [];
  #scheduled = false;
  #retryTimer: Timer | undefined;

  constructor(options: ForgetterOptions) {
    this.#options = options;
  }

  add(objects: readonly DroppedObject[]): void {
    if (this.#ending.signal.aborted || objects.length === 0) {
      return;
    }
    for (const object of objects) {
      this.#pending.push({ ...object, attempts: 0 });
    }
    this.#limit();
    this.#schedule();
  }

  close(): void {
    this.#ending.abort(new HbmeshError(StatusCode.SHUTTING_DOWN, "this worker is shutting down"));
    this.#retryTimer?.cancel();
    this.#pending = [];
  }

  /** What is added in one turn goes together. */
  #schedule(): void {
    if (!this.#scheduled) {
      this.#scheduled = true;
      queueMicrotask(() => {
        this.#scheduled = false;
        try {
          this.#send();
        } catch (reason) {
          this.#giveUp(this.#pending.splice(0).length, String(reason));
        }
      });
    }
  }

  #send(): void {
    if (this.#pending.length === 0 || this.#ending.signal.aborted) {
      return;
    }
    // A key comes once in a batch; of two versions of it, the older one goes first.
    const batch = new Map<string, Item>();
    const left: Item[] = [];
    for (const item of this.#pending) {
      if (batch.has(item.key)) {
        left.push(item);
      } else {
        batch.set(item.key, item);
      }
    }
    this.#pending = left;
    const items = [...batch.values()];
    const { decisions } = this.#options;
    for (const { member, indexes } of decisions.groupByOwner(encodeKeys([...batch.keys()]))) {
      const mine = Array.from(indexes, (index) => items[index] as Item);
      if (member === 0) {
        continue;
      }
      const now = this.#busy.has(member) ? [] : mine.slice(0, KEYS_PER_CALL_MAX);
      this.#pending.push(...mine.slice(now.length));
      if (now.length > 0) {
        this.#busy.add(member);
        void this.#tell(member, now);
      }
    }
  }

  /** Never rejects. */
  async #tell(owner: number, items: Item[]): Promise<void> {
    const { calls } = this.#options;
    let isTold = false;
    let isHopeless = false;
    let cause = "";
    try {
      const { epoch, selfId } = calls.view;
      const keys = encodeKeys(items.map(({ key }) => key));
      const records = encodeResults(
        items.map(({ generation, slot }) => ({
          code: StatusCode.OK,
          existed: false,
          otherFamily: false,
          generation,
          bytes: 0n,
          family: 0,
          locations: [{ member: selfId, slot }],
        })),
      );
      const question: Question = { method: "forgetLocations", keys, signal: this.#ending.signal };
      const part = { keys, records, existence: 0, waitMs: 0, last: false };
      const said = await calls.askOwner(owner, epoch, part, question);
      isTold = said.t === "results";
      cause = said.t === "failed" ? said.error.message : "the ring is changing";
      isHopeless = said.t === "failed" && said.error.code === StatusCode.INVALID;
    } catch (reason) {
      cause = HbmeshError.from(reason).message;
    }
    this.#busy.delete(owner);
    if (this.#ending.signal.aborted) {
      return;
    }
    if (isHopeless) {
      this.#giveUp(items.length, cause);
    } else if (!isTold) {
      this.#keep(items, cause);
    }
    if (isTold || isHopeless) {
      this.#scheduleIfAny();
    }
  }

  #scheduleIfAny(): void {
    if (this.#pending.length > 0) {
      this.#schedule();
    }
  }

  /** For another attempt, before what came later. */
  #keep(items: readonly Item[], cause: string): void {
    const again = items.map((item) => ({ ...item, attempts: item.attempts + 1 }));
    const kept = again.filter(({ attempts }) => attempts < ATTEMPTS_MAX);
    if (kept.length < again.length) {
      this.#giveUp(again.length - kept.length, cause);
    }
    this.#pending = [...kept, ...this.#pending];
    this.#limit();
    this.#retryTimer ??= this.#options.clock.setTimer(RETRY_MS, () => {
      this.#retryTimer = undefined;
      this.#schedule();
    });
  }

  #giveUp(objects: number, cause: string): void {
    this.#options.log.warn(
      { objects, cause },
      "an owner could not be told that objects are gone; readers will find out by themselves",
    );
  }

  #limit(): void {
    const over = this.#pending.length - PENDING_MAX;
    if (over > 0) {
      this.#pending.splice(0, over);
      this.#options.log.warn(
        { objects: over },
        "too many objects are gone that owners can't be told of; forgot the oldest",
      );
    }
  }
}
