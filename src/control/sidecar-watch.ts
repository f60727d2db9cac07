/**
 * SidecarWatch: does the sidecar still do anything? Its death is told by its socket; one that lives but is stuck, or
 * stopped (SIGSTOP), says nothing, and holds up whoever waits for it: clients, readers, and every change of the ring,
 * in which this worker has to tell what it holds.
 *
 * Asked for its figures every TICK_SHARE of `hangMs`. Silent for SILENT_SHARE of `hangMs` it counts as hung: the worker
 * says so, and holds up the ring no longer; after all of `hangMs` it is to be killed.
 *
 * A loaded machine must not look like that. Time counts by this process's own ticks, each once however late it comes: a
 * machine that stands still, or gives nobody a core, makes no silence. Nor does a tick count at which the sidecar's
 * loop is runnable: it has work, and waits for a core or is at it. What never sleeps and never answers is not found.
 */
import type { Clock, Timer } from "../base/clock.js";
import type { Logger } from "../base/log.js";

export interface SidecarWatchOptions {
  clock: Clock;
  log: Logger;
  /** Silent for so long it is killed. Above 0. */
  hangMs: number;
  /** Resolves when the sidecar has answered; rejects when it is gone. */
  ask: () => Promise<unknown>;
  /** State of its loop, as /proc names it; undefined: not known. */
  stateOf: () => string | undefined;
  onHung: () => void;
  /** It answers again. */
  onBack: () => void;
  onKill: () => void;
}

const TICK_SHARE = 1 / 15;
const SILENT_SHARE = 1 / 3;
const RUNNABLE = "R";

export class SidecarWatch {
  readonly #options: SidecarWatchOptions;
  #timer: Timer | undefined;
  /** It has been asked, and has not answered yet. */
  #isAsked = false;
  #silentMs = 0;
  #isHung = false;
  #ended = false;

  constructor(options: SidecarWatchOptions) {
    this.#options = options;
    this.#arm();
  }

  get isHung(): boolean {
    return this.#isHung;
  }

  /** What is wrong, for people; or empty. */
  get reason(): string {
    const { hangMs } = this.#options;
    const what = `the sidecar has not answered for ${this.#silentMs} ms${this.#state}`;
    return this.#isHung ? `${what}; it is killed and started again after ${hangMs} ms` : "";
  }

  /** Nothing is called any more. */
  end(): void {
    this.#ended = true;
    this.#isHung = false;
    this.#timer?.cancel();
  }

  get #state(): string {
    const state = this.#options.stateOf();
    return state === undefined ? "" : ` (state ${state}${state === "T" ? ": stopped" : ""})`;
  }

  #arm(): void {
    const { clock, hangMs } = this.#options;
    const tickMs = hangMs * TICK_SHARE;
    this.#timer = clock.setTimer(tickMs, () => {
      if (!this.#ended) {
        this.#tick(tickMs);
      }
    });
  }

  #tick(tickMs: number): void {
    const { log, hangMs, stateOf, onHung, onKill } = this.#options;
    if (!this.#isAsked) {
      this.#ask();
    } else if (stateOf() !== RUNNABLE) {
      this.#silentMs = Math.round(this.#silentMs + tickMs);
    }
    if (!this.#isHung && this.#silentMs >= hangMs * SILENT_SHARE) {
      this.#isHung = true;
      log.error({ silentMs: this.#silentMs, state: stateOf() }, "the sidecar does not answer");
      onHung();
    }
    if (this.#silentMs >= hangMs) {
      log.error(
        { silentMs: this.#silentMs, state: stateOf() },
        "the sidecar is killed: it has not answered for too long",
      );
      this.end();
      onKill();
      return;
    }
    this.#arm();
  }

  #ask(): void {
    this.#isAsked = true;
    this.#silentMs = 0;
    this.#options.ask().then(
      () => this.#answered(),
      // Its end is told elsewhere.
      () => undefined,
    );
  }

  #answered(): void {
    this.#isAsked = false;
    this.#silentMs = 0;
    if (this.#isHung && !this.#ended) {
      this.#isHung = false;
      this.#options.log.info({}, "the sidecar answers again");
      this.#options.onBack();
    }
  }
}
