/**
 * SidecarSupervisor: keeps one sidecar running. When it dies, everything that waited for it fails, and another one is
 * started that adopts the objects of the first. A sidecar that dies again and again ends the worker, with the cause.
 */
import type { Clock } from "../base/clock.js";
import { pause } from "../base/deadline.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import type { PortMessage } from "../sidecar/port.js";
import type { SpawnedSidecar, SpawnSidecar, TakeOverSidecar } from "./contract.js";
import { SidecarLink } from "./sidecar-link.js";
import { SidecarWatch } from "./sidecar-watch.js";

export interface SupervisorOptions {
  clock: Clock;
  log: Logger;
  workerAddress: string;
  spawn: SpawnSidecar;
  /** For the first one. */
  takeOver?: TakeOverSidecar | undefined;
  /** Restarts within RESTART_WINDOW_MS before it gives up. */
  restartsMax: number;
  /** A sidecar that has not answered for so long is killed (sidecar-watch.ts); 0: none is. */
  hangMs: number;
  onRequest: (message: PortMessage, link: SidecarLink) => void;
  /** Called at each start, the first included. */
  onUp: (link: SidecarLink) => void;
  onDown: (reason: HbmeshError) => void;
  /** It does not answer, and lives. */
  onHung: () => void;
  /** It answers again. */
  onBack: () => void;
  /** No further restart. */
  onGiveUp: (reason: HbmeshError) => void;
}

const RESTART_WINDOW_MS = 60_000;
const RESTART_PAUSE_MS = 200;
const SHUTDOWN_TIMEOUT_MS = 10_000;
/** The longest that a timer takes. */
const NEVER_MS = 2 ** 31 - 1;

type State = { t: "starting" } | { t: "up"; spawned: SpawnedSidecar; link: SidecarLink } | { t: "ended" };

export class SidecarSupervisor {
  readonly #options: SupervisorOptions;
  readonly #ending = new AbortController();
  readonly #restarts: number[] = [];
  #state: State = { t: "starting" };
  #work: Promise<void> = Promise.resolve();
  #watch: SidecarWatch | undefined;

  constructor(options: SupervisorOptions) {
    this.#options = options;
  }

  /** Throws NOT_READY while there is no sidecar. */
  get link(): SidecarLink {
    if (this.#state.t !== "up") {
      const { workerAddress } = this.#options;
      const message = `the sidecar of worker ${workerAddress} is being restarted; try again`;
      throw new HbmeshError(StatusCode.NOT_READY, message, { node: workerAddress });
    }
    return this.#state.link;
  }

  get isUp(): boolean {
    return this.#state.t === "up";
  }

  /** It is up, and does not answer. */
  get isHung(): boolean {
    return this.#watch?.isHung === true;
  }

  /** Why it can't do its work, for people; or empty. */
  get notReadyReason(): string {
    return this.isUp ? (this.#watch?.reason ?? "") : "the sidecar is being restarted";
  }

  /**
   * Takes over what an earlier control process left running, else starts a sidecar. Rejects when the first one doesn't
   * start: that is a fault of the configuration, which a restart would repeat.
   */
  async start(): Promise<void> {
    const { spawn, takeOver, log } = this.#options;
    const taken = await takeOver?.().catch((reason: unknown) => {
      log.warn({ cause: String(reason) }, "a sidecar runs at this worker's address, but could not be taken over");
      return undefined;
    });
    this.#take(taken ?? (await spawn()));
  }

  /** Ends the sidecar, after its transfers. Never rejects. */
  async close(): Promise<void> {
    this.#ending.abort();
    this.#watch?.end();
    await this.#work;
    if (this.#state.t === "up") {
      const { spawned, link } = this.#state;
      this.#state = { t: "ended" };
      await link.shutdown(SHUTDOWN_TIMEOUT_MS).catch((reason: unknown) => {
        this.#options.log.warn({ cause: String(reason) }, "the sidecar did not shut down by itself");
      });
      link.close();
      await spawned.stop();
    }
    this.#state = { t: "ended" };
  }

  #take(spawned: SpawnedSidecar): void {
    const { clock, workerAddress, onRequest, onUp } = this.#options;
    const link = new SidecarLink(spawned.port, { clock, workerAddress });
    this.#state = { t: "up", spawned, link };
    this.#watch = this.#createWatch(spawned, link);
    onUp(link);
    // Last: what the port has kept is for those who were told of the link, and a port that closed meanwhile is a death.
    link.attach(
      (message) => onRequest(message, link),
      (reason) => this.#died(spawned, reason),
    );
  }

  #createWatch(spawned: SpawnedSidecar, link: SidecarLink): SidecarWatch | undefined {
    const { clock, log, hangMs, onHung, onBack } = this.#options;
    if (hangMs === 0) {
      return undefined;
    }
    return new SidecarWatch({
      clock,
      log,
      hangMs,
      // It ends with the port, or with an answer.
      ask: () => link.stats(NEVER_MS),
      loadOf: () => spawned.load?.(),
      onHung,
      onBack,
      onKill: () => (spawned.kill === undefined ? spawned.port.close() : spawned.kill()),
    });
  }

  #died(spawned: SpawnedSidecar, reason: HbmeshError): void {
    if (this.#state.t !== "up" || this.#state.spawned !== spawned || this.#ending.signal.aborted) {
      return;
    }
    this.#state = { t: "starting" };
    this.#watch?.end();
    this.#options.log.error({ cause: reason.message }, "the sidecar is gone");
    this.#options.onDown(reason);
    this.#work = this.#restart(spawned);
  }

  /** `dead` keeps the memory with the objects open until its successor has adopted them. */
  async #restart(dead: SpawnedSidecar): Promise<void> {
    const { clock, log, spawn, restartsMax, onGiveUp, workerAddress } = this.#options;
    let cause: unknown;
    // One that lives without its port still has the worker's address.
    await dead.end?.();
    while (!this.#ending.signal.aborted) {
      const nowMs = clock.monotonicMs();
      while (this.#restarts[0] !== undefined && this.#restarts[0] < nowMs - RESTART_WINDOW_MS) {
        this.#restarts.shift();
      }
      if (this.#restarts.length >= restartsMax) {
        const why = cause === undefined ? "" : ` (${String(cause)})`;
        const message = `the sidecar of worker ${workerAddress} ended ${restartsMax + 1} times within a minute${why}; see its log, then start the worker again`;
        this.#state = { t: "ended" };
        onGiveUp(new HbmeshError(StatusCode.RUNTIME_ERROR, message, { node: workerAddress, cause }));
        break;
      }
      this.#restarts.push(nowMs);
      try {
        const spawned = await spawn(dead.storeFd);
        log.info({ restarts: this.#restarts.length }, "the sidecar was restarted");
        await dead.stop();
        if (this.#ending.signal.aborted) {
          await spawned.stop();
          return;
        }
        this.#take(spawned);
        return;
      } catch (reason) {
        cause = reason;
        log.error({ cause: String(reason) }, "the sidecar could not be restarted");
        await pause(clock, RESTART_PAUSE_MS * this.#restarts.length, this.#ending.signal);
      }
    }
    await dead.stop();
  }
}
