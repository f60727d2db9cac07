/**
 * What a simulated sidecar holds: objects by slot and by key. Lives as long as the host's shared memory, over the
 * deaths of the processes that use it. Bytes are not kept: an object's content is a number that says which set it comes
 * from.
 */

export interface SimObject {
  key: string;
  slot: number;
  generation: bigint;
  content: number;
  isSealed: boolean;
  /** Of another host's object. */
  isCopy: boolean;
  /** Versions that were dropped while it was not known which one this is. */
  dropped: bigint[];
}

/** Bytes of every object; the directory keeps sizes, nothing depends on them. */
export const OBJECT_BYTES = 65_536n;

export class SimMemory {
  readonly #bySlot = new Map<number, SimObject>();
  readonly #sealed = new Map<string, SimObject>();
  #nextSlot = 1;

  allocate(key: string, content: number): SimObject {
    const object: SimObject = {
      key,
      slot: this.#nextSlot++,
      generation: 0n,
      content,
      isSealed: false,
      isCopy: false,
      dropped: [],
    };
    this.#bySlot.set(object.slot, object);
    return object;
  }

  /** False: it was dropped meanwhile. An older version of the key goes. */
  seal(object: SimObject): boolean {
    if (this.#bySlot.get(object.slot) !== object) {
      return false;
    }
    if (object.dropped.includes(object.generation)) {
      this.drop(object);
      return false;
    }
    const before = this.#sealed.get(object.key);
    if (before !== undefined) {
      this.#bySlot.delete(before.slot);
    }
    object.isSealed = true;
    this.#sealed.set(object.key, object);
    return true;
  }

  drop(object: SimObject): void {
    this.#bySlot.delete(object.slot);
    if (this.#sealed.get(object.key) === object) {
      this.#sealed.delete(object.key);
    }
  }

  /** What is in the slot if it is this version, or may be: its owner may know it before this host does. */
  at(slot: number, generation: bigint): SimObject | undefined {
    const object = this.#bySlot.get(slot);
    const isIt =
      object?.generation === generation || (object?.generation === 0n && !object.dropped.includes(generation));
    return isIt ? object : undefined;
  }

  dropVersion(slot: number, generation: bigint): void {
    const object = this.at(slot, generation);
    if (object?.generation === 0n) {
      object.dropped.push(generation);
    } else if (object !== undefined) {
      this.drop(object);
    }
  }

  sealed(key: string): SimObject | undefined {
    return this.#sealed.get(key);
  }

  allSealed(): SimObject[] {
    return [...this.#sealed.values()];
  }

  /** A sidecar that adopts the memory frees what was not sealed. */
  dropUnsealed(): void {
    for (const object of [...this.#bySlot.values()]) {
      if (!object.isSealed) {
        this.#bySlot.delete(object.slot);
      }
    }
  }
}
