/** One line of a result: a rate beside its limit, measured in the same rounds. */
import { median } from "./statistics.js";

export interface RateRow {
  name: string;
  /** 10^9 bytes a second: medians over the rounds. */
  gbps: number;
  limitGbps: number;
  ratio: number;
  /** What the limit is: "one copy", "raw sockets". */
  against: string;
  /** Copy threads or connections, of both. */
  lanes: number;
  /** Time as a multiple of that of one transfer; only where one source serves several readers. */
  timesOne?: number;
}

/** Seconds and bytes a second of the limit, one a round. */
export class RateSamples {
  readonly #name: string;
  readonly #bytes: number;
  readonly #against: string;
  readonly #seconds: number[] = [];
  readonly #limits: number[] = [];
  lanes = 1;

  constructor(name: string, bytes: number, against: string) {
    this.#name = name;
    this.#bytes = bytes;
    this.#against = against;
  }

  add(seconds: number, limitBytesPerSecond: number): void {
    this.#seconds.push(seconds);
    this.#limits.push(limitBytesPerSecond);
  }

  medianSeconds(): number {
    return median(this.#seconds);
  }

  row(): RateRow {
    const rate = this.#bytes / this.medianSeconds();
    const limit = median(this.#limits);
    const figures = { gbps: rate / 1e9, limitGbps: limit / 1e9, ratio: rate / limit };
    return { name: this.#name, ...figures, against: this.#against, lanes: this.lanes };
  }
}
