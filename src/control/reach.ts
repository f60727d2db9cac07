/**
 * Can the members of a cluster connect to each other? One that nobody can connect to (a firewall, a certificate without
 * its IP, an address of another network) would own keys that nobody can ask for, and all of these would be UNKNOWN.
 *
 * So a member joins only after others have connected back to it. Later each member looks at the others in turn, and at
 * those that it could not reach at every turn; who stays out of reach is named in its log and its health.
 */
import { parseIpAddress } from "../base/address.js";
import type { Clock, Timer } from "../base/clock.js";
import { pause } from "../base/deadline.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import type { RandomSource } from "../base/random.js";
import type { Member } from "../gen/hbmesh/v1/cluster_pb.js";
import { DirectoryService, type ReachReply, type ReachRequest } from "../gen/hbmesh/v1/directory_pb.js";
import { fromConnectError } from "../rpc/connect-errors.js";
import { createLinkClient, type LinkClient } from "../rpc/link-client.js";
import type { MembershipView } from "./membership.js";
import type { ControlNetwork } from "./network.js";
import type { Peers } from "./peers.js";

/** How long a connection and its first answer may take. */
const LOOK_TIMEOUT_MS = 1_500;
/**
 * Members that a new one asks: the first by id, which all others have links with (collector.ts), and some at random.
 */
const FIRST_ASKED = 3;
const RANDOM_ASKED = 2;
/** How long a new member tries, and how often. */
const JOIN_PATIENCE_MS = 6_000;
const JOIN_RETRY_MS = 500;
/** Connections back that one member makes for others at a time. */
const BACK_MAX = 16;

/** Errors in each other. */
const CAUSES_MAX = 5;

type Answer = { worker: string; reached: boolean; cause: string };

export interface JoinReachOptions {
  clock: Clock;
  log: Logger;
  random: RandomSource;
  network: ControlNetwork;
  /** This member's own link. */
  linkAddress: string;
  /** Members of now, this one not among them. */
  members: readonly Member[];
  signal: AbortSignal;
}

/**
 * Resolves when others have reached this member, or none of them can tell. Rejects with NOT_READY when most of those
 * who answer can't.
 */
export async function confirmReach(options: JoinReachOptions): Promise<void> {
  const { clock, log, linkAddress, signal } = options;
  const asked = pickAsked(options);
  const untilMs = clock.monotonicMs() + JOIN_PATIENCE_MS;
  for (;;) {
    const answers = (await Promise.all(asked.map((member) => askBack(options, member)))).filter(
      (each) => each !== undefined,
    );
    const refusals = answers.filter(({ reached }) => !reached);
    const causes = refusals.map(({ worker, cause }) => `${worker} says: ${cause}`);
    if (refusals.length * 2 <= answers.length) {
      if (causes.length > 0) {
        log.warn({ linkAddress, causes }, "some workers of the cluster can't reach this one");
      }
      return;
    }
    signal.throwIfAborted();
    if (clock.monotonicMs() >= untilMs) {
      const remedy =
        "let them connect to this address, give one that they reach (--worker_address, --link_address), or a certificate that names it";
      const message = `the other workers can't reach this one at its control link ${linkAddress}, so it does not join (${causes.join("; ")}): ${remedy}`;
      throw new HbmeshError(StatusCode.NOT_READY, message, { node: linkAddress });
    }
    await pause(clock, JOIN_RETRY_MS, signal);
  }
}

function pickAsked({ members, random }: JoinReachOptions): Member[] {
  const sorted = [...members].sort((a, b) => a.id - b.id);
  const rest = sorted.slice(FIRST_ASKED);
  const picked = sorted.slice(0, FIRST_ASKED);
  for (let left = RANDOM_ASKED; left > 0 && rest.length > 0; left--) {
    picked.push(...rest.splice(random.nextBelow(rest.length), 1));
  }
  return picked;
}

/** Undefined: this one can't tell. */
async function askBack({ network, linkAddress }: JoinReachOptions, member: Member): Promise<Answer | undefined> {
  try {
    const { reached, cause } = await withLink(network, member.linkAddress, (peer) =>
      peer.reach({ linkAddress }, { timeoutMs: 2 * LOOK_TIMEOUT_MS }),
    );
    return { worker: member.workerAddress, reached, cause };
  } catch (reason) {
    // One that is gone, cut off, or of an older release says nothing. One that answers and lets this member not in, or
    // is not let in by it, can't be asked by it either.
    return isTurnedAway(reason)
      ? { worker: member.workerAddress, reached: false, cause: fromConnectError(reason, member.linkAddress).message }
      : undefined;
  }
}

/** What TLS, or the end of a connection before it could be used, puts among an error's causes. */
const TURNED_AWAY = /^(ECONNRESET|EPIPE|EPROTO|ERR_TLS|ERR_SSL|ERR_OSSL|CERT_|UNABLE_TO_|SELF_SIGNED_|DEPTH_ZERO_)/;

function isTurnedAway(reason: unknown): boolean {
  if (fromConnectError(reason).code === StatusCode.NOT_AUTHORIZED) {
    return true;
  }
  let cause = reason;
  for (let depth = 0; depth < CAUSES_MAX && cause instanceof Error; depth++) {
    const { code } = cause as NodeJS.ErrnoException;
    if (typeof code === "string" && TURNED_AWAY.test(code)) {
      return true;
    }
    cause = cause.cause;
  }
  return false;
}

/** Rejects with what a connection to this address fails with. */
export async function dial(network: ControlNetwork, linkAddress: string): Promise<void> {
  try {
    await withLink(network, linkAddress, (peer) => peer.witness({}, { timeoutMs: LOOK_TIMEOUT_MS }));
  } catch (reason) {
    throw fromConnectError(reason, linkAddress);
  }
}

async function withLink<T>(
  network: ControlNetwork,
  linkAddress: string,
  use: (peer: LinkClient<typeof DirectoryService>) => Promise<T>,
): Promise<T> {
  const connection = network.connect(linkAddress);
  try {
    return await use(createLinkClient(DirectoryService, connection.transport));
  } finally {
    connection.close();
  }
}

/** The serving half: connects back to a member that is about to join. */
export function createReachService(
  network: ControlNetwork,
): (request: Pick<ReachRequest, "linkAddress">) => Promise<Pick<ReachReply, "reached" | "cause">> {
  let running = 0;
  return async ({ linkAddress }) => {
    const { port } = parseIpAddress(linkAddress, "the link address");
    if (port === 0) {
      throw new HbmeshError(StatusCode.INVALID, `the link address ${linkAddress} has port 0`);
    }
    if (running >= BACK_MAX) {
      throw new HbmeshError(StatusCode.TRY_AGAIN, `${BACK_MAX} connections back are under way already; try again`);
    }
    running++;
    try {
      await dial(network, linkAddress);
      return { reached: true, cause: "" };
    } catch (reason) {
      return { reached: false, cause: HbmeshError.from(reason).message };
    } finally {
      running--;
    }
  };
}

export interface ReachWatchOptions {
  clock: Clock;
  log: Logger;
  peers: Peers;
  /** The warning has begun, has ended, or is about others. */
  onChange: () => void;
}

/** Between two looks. */
const TURN_MS = 2_000;
/** Out of reach for so long, a member is named: one that is dead is none any more by then (its lease). */
const NAMED_AFTER_MS = 5_000;
/** Members out of reach that are looked at in one turn. */
const LOOKS_MAX = 8;
/** Members that a sentence names. */
const NAMED_MAX = 3;

interface OutOfReach {
  sinceMs: number;
  cause: string;
  named: boolean;
}

export class ReachWatch {
  readonly #options: ReachWatchOptions;
  /** By member id. */
  readonly #out = new Map<number, OutOfReach>();
  /** Whom to look at: new members first, then all in turn. */
  #queue: number[] = [];
  #view: MembershipView | undefined;
  #timer: Timer | undefined;
  #closed = false;

  constructor(options: ReachWatchOptions) {
    this.#options = options;
  }

  setView(view: MembershipView): void {
    const isOther = (id: number): boolean => id !== view.selfId && view.members.has(id);
    const fresh = [...view.members.keys()].filter((id) => isOther(id) && this.#view?.members.has(id) !== true);
    this.#queue = [...fresh, ...this.#queue.filter((id) => isOther(id) && !fresh.includes(id))];
    let isChanged = false;
    for (const [id, { named }] of this.#out) {
      if (!isOther(id)) {
        this.#out.delete(id);
        isChanged ||= named;
      }
    }
    this.#view = view;
    this.#arm();
    if (isChanged) {
      this.#options.onChange();
    }
  }

  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
  }

  /** Who can't be reached, for people; or empty. */
  get warning(): string {
    const nowMs = this.#options.clock.monotonicMs();
    const named = [...this.#out].filter(([, { named }]) => named);
    const texts = named.slice(0, NAMED_MAX).map(([id, { sinceMs, cause }]) => {
      const seconds = Math.round((nowMs - sinceMs) / 1_000);
      return `worker ${this.#options.peers.nameOf(id)} can't be reached for ${seconds} s, and keys that it owns are UNKNOWN here: ${cause}`;
    });
    const others = named.length > NAMED_MAX ? [`nor can ${named.length - NAMED_MAX} others`] : [];
    return [...texts, ...others].join("; ");
  }

  #arm(): void {
    if (!this.#closed && this.#queue.length > 0) {
      this.#timer ??= this.#options.clock.setTimer(TURN_MS, () => {
        this.#timer = undefined;
        void this.#turn();
        this.#arm();
      });
    }
  }

  /** Never rejects. */
  async #turn(): Promise<void> {
    const [next, ...rest] = this.#queue;
    if (next === undefined) {
      return;
    }
    this.#queue = [...rest, next];
    const again = [...this.#out.keys()].filter((id) => id !== next).slice(0, LOOKS_MAX);
    await Promise.all([next, ...again].map((id) => this.#look(id)));
  }

  async #look(id: number): Promise<void> {
    const { clock, peers } = this.#options;
    try {
      await peers.get(id).directory.witness({}, { timeoutMs: LOOK_TIMEOUT_MS });
      this.#reached(id);
    } catch (reason) {
      if (!this.#closed && this.#view?.members.has(id) === true) {
        const since = this.#out.get(id);
        const cause = peers.errorOf(id, reason).message;
        this.#out.set(id, { sinceMs: since?.sinceMs ?? clock.monotonicMs(), cause, named: since?.named ?? false });
        this.#name(id);
      }
    }
  }

  #name(id: number): void {
    const { clock, log, peers, onChange } = this.#options;
    const out = this.#out.get(id);
    if (out !== undefined && !out.named && clock.monotonicMs() - out.sinceMs >= NAMED_AFTER_MS) {
      out.named = true;
      const facts = { member: id, node: peers.nameOf(id), cause: out.cause };
      log.warn(facts, "a worker of the cluster can't be reached: keys that it owns are UNKNOWN here");
      onChange();
    }
  }

  #reached(id: number): void {
    const { log, peers, onChange } = this.#options;
    const wasNamed = this.#out.get(id)?.named === true;
    this.#out.delete(id);
    if (wasNamed) {
      log.info({ member: id, node: peers.nameOf(id) }, "a worker of the cluster is reached again");
      onChange();
    }
  }
}
