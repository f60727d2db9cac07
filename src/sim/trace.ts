/**
 * What happened in a simulation, as one hash: two runs of one seed must give the same. And how many messages were sent,
 * by what they say.
 */
import { createHash } from "node:crypto";

/** Lines that are hashed together. */
const LINES_PER_UPDATE = 1_000;

export class Trace {
  readonly #hash = createHash("sha256");
  readonly #counts = new Map<string, number>();
  #lines: string[] = [];
  #bytes = 0;

  note(line: string): void {
    this.#lines.push(line);
    if (this.#lines.length >= LINES_PER_UPDATE) {
      this.#flush();
    }
  }

  countMessage(name: string, bytes: number): void {
    this.#counts.set(name, (this.#counts.get(name) ?? 0) + 1);
    this.#bytes += bytes;
  }

  /** Messages since the start, by name, and what they weigh. */
  get counts(): { messages: ReadonlyMap<string, number>; bytes: number } {
    return { messages: new Map(this.#counts), bytes: this.#bytes };
  }

  /** Of everything noted so far. */
  digest(): string {
    this.#flush();
    return this.#hash.copy().digest("hex").slice(0, 16);
  }

  #flush(): void {
    this.#hash.update(this.#lines.join("\n"));
    this.#lines = [];
  }
}

/** How many were sent between two looks at `counts`, most first; those that were not sent are left out. */
export function countedSince(
  before: ReadonlyMap<string, number>,
  after: ReadonlyMap<string, number>,
): Record<string, number> {
  const sent = [...after].map(([name, count]) => [name, count - (before.get(name) ?? 0)] as const);
  return Object.fromEntries(sent.filter(([, count]) => count > 0).sort((a, b) => b[1] - a[1]));
}
