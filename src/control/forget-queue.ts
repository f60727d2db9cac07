/**
 * ForgetQueue: objects of which one owner is still to be told, in the order of their keys' arrival. Putting one in and
 * taking one out cost the same however many wait.
 */
import type { DroppedObject } from "./holders.js";

export interface Forgotten extends DroppedObject {
  attempts: number;
}

export class ForgetQueue {
  /** A key may come with several versions. */
  readonly #byKey = new Map<string, Forgotten[]>();
  #size = 0;

  get size(): number {
    return this.#size;
  }

  has(key: string): boolean {
    return this.#byKey.has(key);
  }

  put(item: Forgotten): void {
    const items = this.#byKey.get(item.key);
    if (items === undefined) {
      this.#byKey.set(item.key, [item]);
    } else {
      items.push(item);
    }
    this.#size++;
  }

  /**
   * The first of `most` keys at most: a key comes once in a question. What else waits under these keys goes to the end.
   */
  take(most: number): Forgotten[] {
    const taken: Forgotten[] = [];
    const left: Forgotten[][] = [];
    for (const [key, items] of this.#byKey) {
      if (taken.length === most) {
        break;
      }
      this.#byKey.delete(key);
      taken.push(items.shift() as Forgotten);
      if (items.length > 0) {
        left.push(items);
      }
    }
    for (const items of left) {
      this.#byKey.set(items[0]?.key as string, items);
    }
    this.#size -= taken.length;
    return taken;
  }

  /** Everything, in no question. */
  takeAll(): Forgotten[] {
    const taken = [...this.#byKey.values()].flat();
    this.#byKey.clear();
    this.#size = 0;
    return taken;
  }

  /** The first of each of these keys. */
  takeOf(keys: readonly string[]): Forgotten[] {
    const taken: Forgotten[] = [];
    for (const key of keys) {
      const items = this.#byKey.get(key);
      const first = items?.shift();
      if (first !== undefined) {
        taken.push(first);
      }
      if (items?.length === 0) {
        this.#byKey.delete(key);
      }
    }
    this.#size -= taken.length;
    return taken;
  }
}
