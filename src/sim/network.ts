/**
 * The network of a simulation: control links between hosts, with a latency, that can be cut and healed. Messages are
 * encoded and decoded as on the wire.
 *
 * A message over a cut link is lost without a sign: its sender finds out as over a real one (rpc/link-reach.ts). A
 * connection to a process that died on a host that lives is refused.
 */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { Transport } from "@connectrpc/connect";
import type { Clock } from "../base/clock.js";
import { createDeferred, withDeadline } from "../base/deadline.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { RandomSource } from "../base/random.js";
import type { ConnectionEvents, ControlConnection, ControlNetwork } from "../control/network.js";
import { toConnectError } from "../rpc/index.js";
import { LinkReach } from "../rpc/link-reach.js";
import { type LinkRoutes, methodName } from "../rpc/link-routes.js";
import { type SimLink, SimLinks } from "./links.js";
import type { SimProcess } from "./process.js";
import type { Trace } from "./trace.js";

interface Listening {
  process: SimProcess;
  routes: LinkRoutes;
}

/** How long a host is asked whether anyone listens there. */
const CONNECT_TIMEOUT_MS = 1_000;
/** One direction, in steps: 0.05 to 0.4 ms. */
const LATENCY_STEP_MS = 0.05;
const LATENCY_STEPS = 8;

export class SimNetwork {
  readonly #clock: Clock;
  readonly #random: RandomSource;
  readonly #trace: Trace;
  readonly #listening = new Map<string, Listening>();
  readonly #cutLinks = new Set<string>();
  readonly #lostHosts = new Set<number>();
  readonly #links: SimLinks;
  #nextPort = 1;

  constructor(clock: Clock, random: RandomSource, trace: Trace) {
    this.#clock = clock;
    this.#random = random;
    this.#trace = trace;
    const reaches = (from: number, to: number): boolean => this.reaches(from, to);
    this.#links = new SimLinks({ clock, latencyMs: () => this.latencyMs(), reaches });
  }

  cutLink(one: number, other: number): void {
    this.#cutLinks.add(linkName(one, other));
  }

  healLink(one: number, other: number): void {
    this.#cutLinks.delete(linkName(one, other));
  }

  /** Nothing reaches this host any more, and nothing comes from it. */
  loseHost(host: number): void {
    this.#lostHosts.add(host);
  }

  healHost(host: number): void {
    this.#lostHosts.delete(host);
  }

  reaches(from: number, to: number): boolean {
    return !(this.#lostHosts.has(from) || this.#lostHosts.has(to) || this.#cutLinks.has(linkName(from, to)));
  }

  /** Time that a message takes on its way. */
  latencyMs(): number {
    return LATENCY_STEP_MS * (1 + this.#random.nextBelow(LATENCY_STEPS));
  }

  /** The network as one process has it. */
  forProcess(process: SimProcess): ControlNetwork {
    return {
      listen: async (_, routes, onEnd) => {
        const address = `${ipOf(process.host)}:${this.#nextPort++}`;
        this.#listening.set(address, { process, routes });
        process.onDeath(() => this.#listening.delete(address));
        this.#links.add(process, (host) => onEnd?.(ipOf(host)));
        return { address, close: async () => void this.#listening.delete(address) };
      },
      connect: (address, events) => this.#connect(process, address, events),
      isRefused: (address) => this.#isRefused(process, address),
    };
  }

  #connect(process: SimProcess, address: string, { onLost, onReach }: ConnectionEvents = {}): ControlConnection {
    const link: SimLink = { from: process, onLost: () => onLost?.(), to: undefined };
    const calls = new Set<SimCall>();
    const reach: LinkReach = new LinkReach({
      address,
      clock: process.clock,
      ping: () => void this.#ping(link, address, reach).catch(() => {}),
      connect: () => this.#ping(link, address, reach),
      lose: ({ message }) => {
        for (const call of calls) {
          call.lose(`can't be reached (${message})`);
        }
      },
      isWaiting: () => calls.size > 0,
      onChange: onReach,
    });
    const close = (): void => {
      reach.close();
      this.#links.close(link);
      for (const call of calls) {
        call.lose("was closed");
      }
    };
    return { transport: this.#transport(link, address, { reach, calls }), close };
  }

  /** Resolves when the process has answered. */
  async #ping(link: SimLink, address: string, reach: LinkReach): Promise<void> {
    const { from } = link;
    const pong = createDeferred<void>();
    const { post, find, targetHost } = this.#options(link, address, "ping");
    post(from.host, targetHost, "ping", 0, () => {
      const target = find();
      const answer = (settle: () => void): void => {
        post(targetHost, from.host, "pong", 0, () => from.enter(settle));
      };
      if (target === undefined) {
        answer(() => pong.reject(new Error("it refused the connection")));
        return;
      }
      target.process.enter(() => {
        answer(() => {
          reach.heard();
          pong.resolve();
        });
      });
    });
    const limits = { clock: from.clock, timeoutMs: CONNECT_TIMEOUT_MS, what: `connecting to ${address}` };
    await withDeadline(pong.promise, limits);
  }

  /** A question to the host itself; one that can't be reached does not answer. */
  async #isRefused(from: SimProcess, address: string): Promise<boolean> {
    const host = hostOf(address);
    const answer = new Promise<boolean>((resolve) => {
      const travel = (arrive: () => void): void => {
        if (this.reaches(from.host, host)) {
          this.#clock.setTimer(this.latencyMs(), arrive);
        }
      };
      travel(() => {
        const isRefused = !this.#listening.has(address);
        travel(() => from.enter(() => resolve(isRefused)));
      });
    });
    const limits = { clock: from.clock, timeoutMs: CONNECT_TIMEOUT_MS, what: `connecting to ${address}` };
    return withDeadline(answer, limits).catch(() => false);
  }

  #transport(link: SimLink, address: string, { reach, calls }: { reach: LinkReach; calls: Set<SimCall> }): Transport {
    const { from } = link;
    return {
      unary: async (method, signal, timeoutMs, _header, input) => {
        reach.called();
        const request = toBinary(method.input, create(method.input, input));
        const call = new SimCall(this.#options(link, address, method.name), timeoutMs);
        calls.add(call);
        try {
          call.send((routes) => routes.methods.indexOf(methodName(method)), request);
          const what = `${method.name} at ${address}`;
          const reply = await withDeadline(call.reply, { clock: from.clock, timeoutMs, signal, what });
          reach.heard();
          const message = fromBinary(method.output, reply);
          const headers = { header: new Headers(), trailer: new Headers() };
          return { stream: false, service: method.parent, method, ...headers, message };
        } catch (reason) {
          call.cancel();
          throw toConnectError(reason);
        } finally {
          calls.delete(call);
        }
      },
      stream: () => Promise.reject(new Error("no streams over the control link")),
    };
  }

  #options(link: SimLink, address: string, name: string): SimCallOptions {
    return {
      from: link.from,
      address,
      targetHost: hostOf(address),
      name,
      find: () => {
        const found = this.#listening.get(address);
        if (found !== undefined) {
          this.#links.opened(link, found.process);
        }
        return found;
      },
      post: (sender, receiver, say, bytes, deliver) => {
        this.#trace.countMessage(say, bytes);
        this.#trace.note(`${this.#clock.monotonicMs()} ${sender}>${receiver} ${say} ${bytes}`);
        if (this.reaches(sender, receiver)) {
          this.#clock.setTimer(this.latencyMs(), () => {
            if (this.reaches(sender, receiver)) {
              deliver();
            }
          });
        }
      },
    };
  }
}

interface SimCallOptions {
  from: SimProcess;
  address: string;
  targetHost: number;
  name: string;
  find: () => Listening | undefined;
  /** Has a message delivered from host to host after a while, unless it is lost. */
  post: (sender: number, receiver: number, say: string, bytes: number, deliver: () => void) => void;
}

/** One call on its way there and back. */
class SimCall {
  readonly #options: SimCallOptions;
  readonly #timeoutMs: number | undefined;
  readonly #result = createDeferred<Uint8Array>();
  readonly #handling = new AbortController();
  #isOver = false;

  constructor(options: SimCallOptions, timeoutMs: number | undefined) {
    this.#options = options;
    this.#timeoutMs = timeoutMs;
    this.#result.promise.catch(() => {});
  }

  get reply(): Promise<Uint8Array> {
    return this.#result.promise;
  }

  send(indexOf: (routes: LinkRoutes) => number, request: Uint8Array): void {
    const { from, find, post, name, targetHost } = this.#options;
    post(from.host, targetHost, name, request.byteLength, () => {
      const target = find();
      if (target === undefined) {
        from.enter(() => this.lose("refused the connection"));
        return;
      }
      target.process.enter(() => this.#handle(target, indexOf(target.routes), request));
    });
  }

  #handle({ process, routes }: Listening, index: number, request: Uint8Array): void {
    const { from, post, name } = this.#options;
    const { signal } = this.#handling;
    const answer = (say: string, bytes: number, settle: () => void): void => {
      takeBack();
      if (!process.isDead && !signal.aborted) {
        post(process.host, from.host, `${name} ${say}`, bytes, () => from.enter(settle));
      }
    };
    const takeBack = process.onDeath(() => {
      post(process.host, from.host, `${name} reset`, 0, () => from.enter(() => this.lose("was reset")));
    });
    const call = async (): Promise<Uint8Array> => routes.call(index, request, { signal, timeoutMs: this.#timeoutMs });
    call().then(
      (reply) => answer("reply", reply.byteLength, () => this.#result.resolve(reply)),
      (reason: unknown) => answer("error", 0, () => this.#result.reject(HbmeshError.from(reason))),
    );
  }

  lose(how: string): void {
    const { address } = this.#options;
    const message = `the control process at ${address} ${how}`;
    this.#result.reject(new HbmeshError(StatusCode.RPC_UNAVAILABLE, message, { node: address }));
  }

  /** The caller gave up: the other side is told, and ends what it does. */
  cancel(): void {
    if (!this.#isOver) {
      this.#isOver = true;
      const { from, find, post, name, targetHost } = this.#options;
      const cancel = (): void => this.#handling.abort(CANCELLED);
      post(from.host, targetHost, `${name} cancel`, 0, () => find()?.process.enter(cancel));
    }
  }
}

/** Made once: each would keep its stack. */
const CANCELLED = new HbmeshError(StatusCode.RPC_CANCELLED, "the caller gave up");

/** The address of a host: its number in the last three bytes, so that each host has one of its own. */
export function ipOf(host: number): string {
  return `10.${host >> 16}.${(host >> 8) & 255}.${host & 255}`;
}

function hostOf(address: string): number {
  const [, high = 0, middle = 0, low = 0] = (address.split(":")[0] as string).split(".").map(Number);
  return (high << 16) | (middle << 8) | low;
}

function linkName(one: number, other: number): string {
  return one < other ? `${one}-${other}` : `${other}-${one}`;
}
