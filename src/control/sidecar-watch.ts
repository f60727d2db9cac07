/**
 * SidecarWatch: does the sidecar still do anything? Its death is told by its socket; one that lives but is stuck,
 * stopped (SIGSTOP), or spins, says nothing, and holds up whoever waits for it: clients, readers, and every change of
 * the ring, in which this worker has to tell what it holds.
 *
 * Asked for its figures every TICK_SHARE of `hangMs`. Silent for SILENT_SHARE of `hangMs` it counts as hung: the worker
 * says so, and holds up the ring no longer; after all of `hangMs` it is to be killed.
 *
 * A loaded machine must not look like that. Time counts by this process's own ticks, each once however late it comes: a
 * machine that stands still, or gives nobody a core, makes no silence. Of a tick at which the sidecar's loop is
 * runnable only the time counts in which it had a core: while it waits for one it can't answer, but what computes for
 * all of `hangMs` without an answer spins.
 */
import type { Clock, Timer } from "../base/clock.js";
import type { Logger } from "../base/log.js";
import type { ThreadLoad } from "../base/processes.js";

export interface SidecarWatchOptions {
  clock: Clock;
  log: Logger;
  /** Silent for so long it is killed. Above 0. */
  hangMs: number;
  /** Resolves when the sidecar has answered; rejects when it is gone. */
  ask: () => Promise<unknown>;
  /** What its loop does; undefined: not known. */
  loadOf: () => ThreadLoad | undefined;
  onHung: () => void;
  /** It answers again. */
  onBack: () => void;
  onKill: () => void;
}

const TICK_SHARE = 1 / 15;
const SILENT_SHARE = 1 / 3;
const RUNNABLE = "R";
const MEANINGS: ReadonlyMap<string, string> = new Map([
  ["T", ": stopped"],
  [RUNNABLE, ": computing"],
]);

export class SidecarWatch {
  readonly #options: SidecarWatchOptions;
  #timer: Timer | undefined;
  /** It has been asked, and has not answered yet. */
  #isAsked = false;
  #silentMs = 0;
  /** What its loop had used of a core at the last tick. */
  #cpuMs = 0;
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
    const state = this.#options.loadOf()?.state;
    return state === undefined ? "" : ` (state ${state}${MEANINGS.get(state) ?? ""})`;
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
    const { log, hangMs, loadOf, onHung, onKill } = this.#options;
    const load = loadOf();
    const usedMs = (load?.cpuMs ?? 0) - this.#cpuMs;
    this.#cpuMs = load?.cpuMs ?? 0;
    if (!this.#isAsked) {
      this.#ask();
    } else {
      const silentMs = load?.state === RUNNABLE ? Math.min(tickMs, usedMs) : tickMs;
      this.#silentMs = Math.round(this.#silentMs + silentMs);
    }
    if (!this.#isHung && this.#silentMs >= hangMs * SILENT_SHARE) {
      this.#isHung = true;
      log.error({ silentMs: this.#silentMs, ...load }, "the sidecar does not answer");
      onHung();
    }
    if (this.#silentMs >= hangMs) {
      log.error({ silentMs: this.#silentMs, ...load }, "the sidecar is killed: it has not answered for too long");
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
