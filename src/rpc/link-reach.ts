/**
 * LinkReach: whether a peer can be reached, remembered for all calls to it.
 *
 *   reachable --pings stay unanswered while calls wait--> unreachable --a probe connects--> reachable
 *
 * While calls wait and the peer is silent it is pinged. When several pings in a row bring no byte from it, its
 * connection and the calls that wait end, and later calls fail at once, so that a cut costs a caller one wait and no
 * more. A probe connects in the background; calls go through again as soon as it has.
 *
 * Slow is not unreachable. The peer's event loop answers pings, however long its calls take. This end counts only its
 * own ticks, so that a machine that stands still, or gives this process no core, raises no alarm. And a peer that took
 * long to answer lately gets several times as long.
 */
import type { Clock, Timer } from "../base/clock.js";
import { HbmeshError, StatusCode } from "../base/errors.js";

/** What is logged of a change. */
export interface ReachChange {
  isReachable: boolean;
  /** How long it was silent before it counted as unreachable; or how long it was unreachable. */
  forMs: number;
  /** Why it is unreachable. */
  cause: string;
}

export interface LinkReachOptions {
  /** Of the peer's control link, for messages. */
  address: string;
  clock: Clock;
  /** Asks the peer for a sign of life. Does nothing without an open connection. */
  ping: () => void;
  /** Ends the connection, or the attempt to connect, and every call that waits. */
  lose: (why: Error) => void;
  /** Connects anew; settles in bounded time. */
  connect: () => Promise<unknown>;
  /** Does any call wait for an answer, or for the connection? */
  isWaiting: () => boolean;
  onChange?: ((change: ReachChange) => void) | undefined;
}

/** Between two pings of a peer that is silent. */
const PING_MS = 175;
/** Unanswered pings in a row after which a peer is unreachable, and the most for one that answers slowly. */
const PINGS = 3;
const PINGS_MAX = 17;
/** A peer that answers slowly gets so many times its longest round trip. */
const PATIENCE_FACTOR = 3;
/** Half of the longest round trip is forgotten in this time. */
const FORGET_MS = 10_000;
/**
 * After a call whose answer may take the peer's event loop long to put together, the peer gets the most pings for this
 * time: as long as such a call may take.
 */
const LONG_CALL_MS = 5_000;
/** Of calls that have waited this long for a peer that answers pings, the pings are as rare as that. */
const SLOW_PING_MS = 1_000;
/** A peer that answers the first probe within this time after it fell silent was slow: no longer. */
const BUSY_MS_MAX = 2_000;
/** Between two probes. Each also has the time that connecting may take. */
const PROBE_MS = 100;

export class LinkReach {
  readonly #options: LinkReachOptions;
  #timer: Timer | undefined;
  #intervalMs = 0;
  /** Of the call that began last. */
  #calledMs = Number.NEGATIVE_INFINITY;
  #longCalledMs = Number.NEGATIVE_INFINITY;
  /** Pings since a byte came, and when the first of them was sent. */
  #pings = 0;
  #pingedMs = 0;
  /** The last tick sent one. */
  #wasPinged = false;
  /** The longest round trip of a ping, as of #slowestAtMs. */
  #slowestMs = 0;
  #slowestAtMs = 0;
  /** Undefined: it is reachable. */
  #lostMs: number | undefined;
  #cause = "";
  #probeTimer: Timer | undefined;
  #closed = false;

  constructor(options: LinkReachOptions) {
    this.#options = options;
  }

  get isReachable(): boolean {
    return this.#lostMs === undefined;
  }

  /**
   * A call is to be made, and waits from now on. Throws RPC_UNAVAILABLE while the peer is unreachable. `isLong`: its
   * answer may keep the peer's event loop busy, in which it answers no ping.
   */
  called({ isLong = false }: { isLong?: boolean } = {}): void {
    if (this.#lostMs !== undefined) {
      throw this.#unreachable(this.#lostMs);
    }
    this.#calledMs = this.#options.clock.monotonicMs();
    if (isLong) {
      this.#longCalledMs = this.#calledMs;
    }
    if (this.#timer === undefined) {
      this.#pings = 0;
      this.#arm(PING_MS);
    } else if (this.#intervalMs > PING_MS) {
      this.#timer.cancel();
      this.#arm(PING_MS);
    }
  }

  /** A byte came from the peer. */
  heard(): void {
    if (this.#pings > 0) {
      this.#noteRoundTrip(this.#options.clock.monotonicMs() - this.#pingedMs);
      this.#pings = 0;
    }
  }

  /** The connection ended: who called knows. */
  ended(): void {
    this.#pings = 0;
  }

  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
    this.#probeTimer?.cancel();
  }

  #arm(intervalMs: number): void {
    this.#intervalMs = intervalMs;
    this.#timer = this.#options.clock.setTimer(intervalMs, () => {
      this.#timer = undefined;
      this.#tick();
    });
  }

  #tick(): void {
    const { clock, isWaiting, ping } = this.#options;
    // Calls that did not wait long enough to see it count, too.
    const isAsked = isWaiting() || this.#pings > 0;
    if (!isAsked || this.#closed || !this.isReachable) {
      this.#wasPinged = false;
      return;
    }
    const nowMs = clock.monotonicMs();
    if (this.#wasPinged && this.#pings === 0 && nowMs - this.#calledMs >= SLOW_PING_MS) {
      this.#wasPinged = false;
      this.#arm(SLOW_PING_MS);
      return;
    }
    if (this.#pings >= this.#pingsMax(nowMs)) {
      this.#lose(nowMs);
      return;
    }
    if (this.#pings === 0) {
      this.#pingedMs = nowMs;
    }
    this.#pings += 1;
    this.#wasPinged = true;
    ping();
    this.#arm(PING_MS);
  }

  #pingsMax(nowMs: number): number {
    if (nowMs - this.#longCalledMs < LONG_CALL_MS) {
      return PINGS_MAX;
    }
    const slowestMs = this.#slowestMs * 0.5 ** ((nowMs - this.#slowestAtMs) / FORGET_MS);
    return Math.min(PINGS_MAX, Math.max(PINGS, Math.ceil((PATIENCE_FACTOR * slowestMs) / PING_MS)));
  }

  #noteRoundTrip(tookMs: number): void {
    const nowMs = this.#options.clock.monotonicMs();
    if (tookMs > this.#slowestMs * 0.5 ** ((nowMs - this.#slowestAtMs) / FORGET_MS)) {
      this.#slowestMs = tookMs;
      this.#slowestAtMs = nowMs;
    }
  }

  #lose(nowMs: number): void {
    const { lose, onChange } = this.#options;
    const silentMs = Math.round(nowMs - this.#pingedMs + PING_MS);
    this.#lostMs = nowMs;
    this.#pings = 0;
    this.#wasPinged = false;
    this.#cause = `no sign of life for ${silentMs} ms`;
    onChange?.({ isReachable: false, forMs: silentMs, cause: this.#cause });
    lose(new Error(this.#cause));
    void this.#probe();
  }

  #unreachable(lostMs: number): HbmeshError {
    const { address, clock } = this.#options;
    const forMs = Math.round(clock.monotonicMs() - lostMs);
    const message = `the control process at ${address} can't be reached, for ${forMs} ms now (${this.#cause}); it is tried in the background: check the network between the two hosts, and that the worker runs`;
    return new HbmeshError(StatusCode.RPC_UNAVAILABLE, message, { node: address });
  }

  /** Never rejects. */
  async #probe(): Promise<void> {
    const { clock, connect } = this.#options;
    const startMs = clock.monotonicMs();
    try {
      await connect();
    } catch (reason) {
      this.#cause = HbmeshError.from(reason).message;
      if (!this.#closed) {
        this.#probeTimer = clock.setTimer(PROBE_MS, () => void this.#probe());
      }
      return;
    }
    this.#reached(startMs);
  }

  #reached(probedMs: number): void {
    const nowMs = this.#options.clock.monotonicMs();
    const forMs = Math.round(nowMs - (this.#lostMs ?? nowMs));
    // It was not cut off, but slow, or stopped for a moment.
    const silentMs = nowMs - this.#pingedMs;
    if (probedMs - (this.#lostMs ?? 0) < PROBE_MS && silentMs <= BUSY_MS_MAX) {
      this.#noteRoundTrip(silentMs);
    }
    this.#lostMs = undefined;
    this.#options.onChange?.({ isReachable: true, forMs, cause: "" });
  }
}
