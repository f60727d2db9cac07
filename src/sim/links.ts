/**
 * Which simulated processes have an open control link, so that the end of one reaches the other: a process that dies on
 * a host that lives has its connections closed by that host.
 */
import type { Clock } from "../base/clock.js";
import type { SimProcess } from "./process.js";

export interface SimLink {
  from: SimProcess;
  /** At the end that made it: the other one is gone. */
  onLost: () => void;
  /** The process that it leads to, once a message has reached it. */
  to: SimProcess | undefined;
}

export interface SimLinksOptions {
  clock: Clock;
  latencyMs: () => number;
  reaches: (from: number, to: number) => boolean;
}

export class SimLinks {
  readonly #options: SimLinksOptions;
  /** By process: the links from it and to it. */
  readonly #links = new Map<SimProcess, Set<SimLink>>();
  /** By process that listens: what is to be told of links to it that end. */
  readonly #onEnd = new Map<SimProcess, (host: number) => void>();

  constructor(options: SimLinksOptions) {
    this.#options = options;
  }

  /** Must be called for each process before it has links. */
  add(process: SimProcess, onEnd: (host: number) => void): void {
    this.#onEnd.set(process, onEnd);
    this.#links.set(process, new Set());
    process.onDeath(() => {
      const links = this.#links.get(process) ?? new Set();
      this.#links.delete(process);
      this.#onEnd.delete(process);
      for (const link of links) {
        this.#forget(link);
        if (link.from === process) {
          this.#tellTarget(link);
        } else {
          this.#travel(process, link.from, link.onLost);
        }
      }
    });
  }

  /** A message came through it. */
  opened(link: SimLink, to: SimProcess): void {
    if (link.to === to) {
      return;
    }
    this.#forget(link);
    link.to = to;
    this.#links.get(link.from)?.add(link);
    this.#links.get(to)?.add(link);
  }

  /** Closed by the one who made it. */
  close(link: SimLink): void {
    this.#forget(link);
    this.#tellTarget(link);
  }

  #tellTarget({ from, to }: SimLink): void {
    if (to !== undefined) {
      this.#travel(from, to, () => this.#onEnd.get(to)?.(from.host));
    }
  }

  #forget(link: SimLink): void {
    this.#links.get(link.from)?.delete(link);
    if (link.to !== undefined) {
      this.#links.get(link.to)?.delete(link);
    }
  }

  #travel(from: SimProcess, to: SimProcess, tell: () => void): void {
    const { clock, latencyMs, reaches } = this.#options;
    if (reaches(from.host, to.host)) {
      clock.setTimer(latencyMs(), () => (reaches(from.host, to.host) ? to.enter(tell) : undefined));
    }
  }
}
