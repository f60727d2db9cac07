/**
 * Departed: objects of this member that were dropped or lost while it was telling an owner of them. Without it, an object that goes between being listed and being told
 * would be known for ever at a place that no longer has it.
 */
import type { HeldObject } from "../decision/index.js";

export interface DepartureWatch {
  /** Did this object go since the watch began? */
  has(object: HeldObject): boolean;
  end(): void;
}

export class Departed {
  readonly #watches = new Set<Set<string>>();

  watch(): DepartureWatch {
    const seen = new Set<string>();
    this.#watches.add(seen);
    return {
      has: (object) => seen.has(nameOf(object)),
      end: () => void this.#watches.delete(seen),
    };
  }

  note(objects: readonly HeldObject[]): void {
    for (const seen of this.#watches) {
      for (const object of objects) {
        seen.add(nameOf(object));
      }
    }
  }
}

/** Generations are never given twice, and so name an object together with its slot. */
export function nameOf(object: HeldObject): string {
  return `${object.slot}:${object.generation}`;
}
