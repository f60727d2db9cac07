/**
 * DeathWatch: takes the record of a member whose process died out of the store at once, where its lease would keep it
 * for seconds.
 *
 * A member is suspected when a control link to or from it ends, though nobody closed it. It is dead for sure when its
 * host answers and refuses a connection to its link address: nobody listens there any more, and nobody else ever will,
 * since a process that takes its place has an id of its own. A host that is gone, cut off or stopped answers nothing;
 * that one's lease decides.
 *
 * Who looks: the first few members by id, the suspect apart. All others have links with them, since they conclude there
 * (collector.ts).
 */
import { canonicalHost, parseAddress } from "../base/address.js";
import type { Clock } from "../base/clock.js";
import { pause } from "../base/deadline.js";
import type { Logger } from "../base/log.js";
import { COLLECTORS_MAX } from "./collector.js";
import type { MembershipView } from "./membership.js";

export interface DeathWatchOptions {
  clock: Clock;
  log: Logger;
  view: () => MembershipView | undefined;
  /** Does its host answer, and nobody listen at this address? */
  isRefused: (address: string) => Promise<boolean>;
  /** Takes the record of this member out of the store. */
  remove: (id: number) => Promise<void>;
}

/** A process that ends closes its links before, or after, it stops listening: it is looked at more than once. */
const LOOKS = 4;
const LOOK_MS = 50;
/** Members at one address that are looked at when a link from it ends. */
const SUSPECTS_MAX = 64;

export class DeathWatch {
  readonly #options: DeathWatchOptions;
  readonly #ending = new AbortController();
  readonly #looking = new Set<number>();
  /**
   * Ids are never used again. One that was removed and came back was alive, behind something that refuses: its lease
   * decides from then on.
   */
  readonly #removed = new Set<number>();

  constructor(options: DeathWatchOptions) {
    this.#options = options;
  }

  close(): void {
    this.#ending.abort();
  }

  /** A link to this member ended. */
  suspect(id: number): void {
    void this.#look(id);
  }

  /** A link from this IP address ended. */
  suspectHost(host: string): void {
    // A listener of both families sees IPv4 peers as ::ffff:10.0.0.1.
    const from = canonicalHost(host);
    const members = [...(this.#options.view()?.members.values() ?? [])];
    const there = members.filter(({ member }) => parseAddress(member.linkAddress, "a link address").host === from);
    for (const { member } of there.slice(0, SUSPECTS_MAX)) {
      void this.#look(member.id);
    }
  }

  /** Never rejects. */
  async #look(id: number): Promise<void> {
    const { clock, log, isRefused, remove } = this.#options;
    if (!this.#isMine(id) || this.#looking.has(id) || this.#removed.has(id)) {
      return;
    }
    this.#looking.add(id);
    try {
      for (let look = 1; look <= LOOKS && !this.#ending.signal.aborted; look++) {
        const member = this.#options.view()?.members.get(id)?.member;
        if (member === undefined) {
          return;
        }
        if (await isRefused(member.linkAddress)) {
          log.warn(
            { member: id, node: member.workerAddress },
            "a worker's control process is dead: its host refuses connections to it",
          );
          this.#removed.add(id);
          await remove(id);
          return;
        }
        await pause(clock, LOOK_MS, this.#ending.signal);
      }
    } catch (reason) {
      log.warn(
        { member: id, cause: String(reason) },
        "could not take a dead worker out of the store; its lease will end",
      );
    } finally {
      this.#looking.delete(id);
    }
  }

  #isMine(id: number): boolean {
    const view = this.#options.view();
    if (view === undefined || id === view.selfId || !view.members.has(id)) {
      return false;
    }
    const others = [...view.members.keys()].filter((member) => member !== id).sort((a, b) => a - b);
    return others.slice(0, COLLECTORS_MAX).includes(view.selfId);
  }
}
