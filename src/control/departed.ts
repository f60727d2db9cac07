/**
 * Departed: objects of this member that were dropped or lost while it was telling an owner of them. Without it, an
 * object that goes between being listed and being told would be known for ever at a place that no longer has it.
 */
import type { HeldObject } from "../decision/index.js";

export interface DepartureWatch {
  /** Did this object go since the watch began? */
  has(object: HeldObject): boolean;
  /** These go on being watched when it is narrowed. */
  keep(objects: readonly HeldObject[]): void;
  /**
   * From now on only what is kept is watched: a watch may last as long as an owner can't be reached, while objects come
   * and go.
   */
  narrow(): void;
  /** These need not be watched any more. */
  release(objects: readonly HeldObject[]): void;
  end(): void;
  /** Objects that it remembers. */
  readonly size: number;
}

export class Departed {
  readonly #watches = new Set<Watch>();

  watch(): DepartureWatch {
    const watch: Watch = new Watch(() => void this.#watches.delete(watch));
    this.#watches.add(watch);
    return watch;
  }

  note(objects: readonly HeldObject[]): void {
    for (const watch of this.#watches) {
      watch.note(objects);
    }
  }
}

class Watch implements DepartureWatch {
  readonly #onEnd: () => void;
  readonly #seen = new Set<string>();
  readonly #kept = new Set<string>();
  #isNarrow = false;

  constructor(onEnd: () => void) {
    this.#onEnd = onEnd;
  }

  get size(): number {
    return this.#seen.size;
  }

  note(objects: readonly HeldObject[]): void {
    for (const object of objects) {
      const name = nameOf(object);
      if (!this.#isNarrow || this.#kept.has(name)) {
        this.#seen.add(name);
      }
    }
  }

  has(object: HeldObject): boolean {
    return this.#seen.has(nameOf(object));
  }

  keep(objects: readonly HeldObject[]): void {
    for (const object of objects) {
      this.#kept.add(nameOf(object));
    }
  }

  narrow(): void {
    this.#isNarrow = true;
    for (const name of this.#seen) {
      if (!this.#kept.has(name)) {
        this.#seen.delete(name);
      }
    }
  }

  release(objects: readonly HeldObject[]): void {
    for (const object of objects) {
      const name = nameOf(object);
      this.#kept.delete(name);
      this.#seen.delete(name);
    }
  }

  end(): void {
    this.#onEnd();
    this.#seen.clear();
    this.#kept.clear();
  }
}

/** Generations are never given twice, and so name an object together with its slot. */
export function nameOf(object: HeldObject): string {
  return `${object.slot}:${object.generation}`;
}
