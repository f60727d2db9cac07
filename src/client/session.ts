/**
 * A client's connection to its worker over time: none yet, connecting, open, lost, closed; and the requests that go
 * over it.
 */
import { formatAddress } from "../base/address.js";
import { type Clock, createSystemClock } from "../base/clock.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { loadAddon, type NativeAddon, type NativeClient } from "../sidecar/addon.js";
import { fromNativeError } from "../sidecar/native-errors.js";
import type { BatchLimits, FlatBatch } from "./arguments.js";
import { KeyedRequest } from "./keyed-request.js";
import type { ClientSettings, HeteroClientDependencies } from "./options.js";
import { type DecodedReply, type ReplyContext, ReplyDecoder } from "./reply.js";
import { type OutgoingRequest, Requests, STOP_GRACE_MS } from "./requests.js";

export interface Connection {
  native: NativeClient;
  requests: Requests;
  decoder: ReplyDecoder;
  layout: NativeAddon["layout"];
  node: string;
}

type State =
  | { t: "new" }
  | { t: "connecting"; done: Promise<void> }
  | { t: "open"; connection: Connection }
  | { t: "lost"; reason: HbmeshError }
  | { t: "closed"; done: Promise<void> };

/** One call about keys. */
export interface Call {
  name: string;
  /** Name of the operation in native/queue/layout.h. */
  op: string;
  args: readonly [bigint, bigint, bigint, bigint];
  keys: readonly string[];
  batch: FlatBatch;
  /** Waiting that the caller asked for, on top of the request timeout. */
  waitMs?: number;
  signal: AbortSignal | undefined;
}

export interface Answer {
  decoded: DecodedReply;
  context: ReplyContext;
  decoder: ReplyDecoder;
}

/** Operations whose bytes leave the caller's device. */
const OUTWARD: ReadonlySet<string> = new Set(["SetD2H", "DevPublish", "DevMSet", "PushLayer"]);

export class ClientSession {
  readonly #settings: ClientSettings;
  readonly #dependencies: HeteroClientDependencies;
  readonly #clock: Clock;
  #state: State = { t: "new" };

  constructor(settings: ClientSettings, dependencies: HeteroClientDependencies) {
    this.#settings = settings;
    this.#dependencies = dependencies;
    this.#clock = dependencies.clock ?? createSystemClock();
  }

  /** As HeteroClient.init. */
  async init(): Promise<void> {
    switch (this.#state.t) {
      case "open":
        return;
      case "connecting":
        return await this.#state.done;
      case "closed":
        throw this.#closedError();
      case "new":
      case "lost": {
        const done = this.#connect();
        this.#state = { t: "connecting", done };
        return await done;
      }
      default:
        return this.#state satisfies never;
    }
  }

  /** As HeteroClient.close. */
  async close(): Promise<void> {
    const state = this.#state;
    const done = state.t === "closed" ? state.done : this.#end(state);
    this.#state = { t: "closed", done };
    await done;
  }

  async #end(state: State): Promise<void> {
    if (state.t === "connecting") {
      await state.done.catch(() => undefined); // whoever called init() is told
    }
    if (state.t === "open") {
      await state.connection.native.close();
    }
  }

  /** The worker's IP:PORT while connected; else HOST:PORT as it was given. */
  get node(): string {
    return this.#state.t === "open" ? this.#state.connection.node : this.#given;
  }

  get #given(): string {
    return formatAddress({ host: this.#settings.host, port: this.#settings.port });
  }

  async #connect(): Promise<void> {
    // The native client looks a name up, and tries each address that it leads to.
    let node = this.#given;
    try {
      const addon = this.#dependencies.addon ?? loadAddon();
      let connection: Connection | undefined;
      const native = await addon.connectClient({
        workerAddress: node,
        token: this.#settings.token,
        connectTimeoutMs: Math.ceil(this.#settings.connectTimeoutMs),
        spinMicros: Math.ceil(this.#settings.spinMicros),
        floorBytesPerSecond: BigInt(Math.ceil(this.#settings.floorBytesPerSecond)),
        onClosed: (reason) => this.#lose(connection, reason, node),
      });
      node = native.workerAddress;
      const requests = new Requests(native, node, this.#clock);
      connection = { native, requests, decoder: new ReplyDecoder(addon.layout), layout: addon.layout, node };
      if (this.#state.t === "closed") {
        await native.close();
        throw this.#closedError();
      }
      this.#state = { t: "open", connection };
    } catch (error) {
      const failure = fromNativeError(error, { node });
      if (this.#state.t === "connecting") {
        this.#state = { t: "new" };
      }
      throw failure;
    }
  }

  #lose(connection: Connection | undefined, reason: string, node: string): void {
    if (this.#state.t === "open" && this.#state.connection === connection) {
      void connection.native.close(); // nothing is outstanding any more; never rejects
      this.#state = { t: "lost", reason: new HbmeshError(StatusCode.CLIENT_WORKER_DISCONNECT, reason, { node }) };
    }
  }

  #closedError(): HbmeshError {
    return new HbmeshError(StatusCode.SHUTTING_DOWN, "the client was closed: make a new one");
  }

  /** Throws NOT_READY, CLIENT_WORKER_DISCONNECT or SHUTTING_DOWN when there is none. */
  connection(): Connection {
    switch (this.#state.t) {
      case "open":
        return this.#state.connection;
      case "lost":
        throw this.#state.reason;
      case "closed":
        throw this.#closedError();
      case "new":
      case "connecting":
        throw new HbmeshError(StatusCode.NOT_READY, "the client is not connected: await init() first");
      default:
        return this.#state satisfies never;
    }
  }

  limit(name: string): number {
    return this.connection().layout.limits[name] ?? 0;
  }

  batchLimits(): BatchLimits {
    const { layout, native, node } = this.connection();
    return { keysMax: layout.limits.KeysPerCallMax ?? 0, deviceCount: native.deviceCount, node };
  }

  /** Sends a call and decodes its answer. Rejects when the whole call failed. */
  async ask(call: Call): Promise<Answer> {
    const connection = this.connection();
    const timeoutMs = this.#timeoutMs(call);
    const { reply, stopped } = await connection.requests.send({ ...this.#outgoing(call, connection), timeoutMs });
    const context = this.#context(call, connection);
    const decoded = connection.decoder.decode(reply, context);
    if (stopped !== undefined && wasCutShort(decoded, stopped)) {
      throw stopped;
    }
    for (const answer of decoded.answers) {
      if (stopped !== undefined && answer.code === StatusCode.RPC_CANCELLED) {
        // The sidecar only knows that it was told to stop.
        Object.assign(answer, { code: stopped.code, message: stopped.message });
      }
    }
    return { decoded, context, decoder: connection.decoder };
  }

  /**
   * Sends a call whose keys end one by one. `limited`: the whole may take the request timeout, what the caller waits
   * and the time of its bytes; else only its acceptance must come within the request timeout.
   */
  open(call: Call, limited: boolean): KeyedRequest {
    const connection = this.connection();
    const timeoutMs = limited ? this.#timeoutMs(call) : undefined;
    const request = new KeyedRequest(
      connection.requests,
      { ...this.#outgoing(call, connection), timeoutMs },
      { decoder: connection.decoder, context: this.#context(call, connection), clock: this.#clock },
    );
    if (!limited) {
      this.#limitAcceptance(request);
    }
    return request;
  }

  #limitAcceptance(request: KeyedRequest): void {
    const { requestTimeoutMs } = this.#settings;
    const timer = this.#clock.setTimer(requestTimeoutMs, () =>
      request.stop(
        new HbmeshError(
          StatusCode.RPC_DEADLINE_EXCEEDED,
          `waited ${requestTimeoutMs} ms for worker ${request.node} to accept ${request.what}: ` +
            "look at the worker's log, or give a longer request timeout",
          { node: request.node },
        ),
      ),
    );
    const cancel = (): void => timer.cancel();
    request.accepted.then(cancel, cancel);
  }

  #timeoutMs(call: Call): number {
    return this.#settings.requestTimeoutMs + (call.waitMs ?? 0) + this.#transferMs(call);
  }

  #transferMs(call: Call): number {
    return Math.ceil((Number(call.batch.totalBytes) / this.#settings.floorBytesPerSecond) * 1000);
  }

  #outgoing(call: Call, connection: Connection): Omit<OutgoingRequest, "timeoutMs"> {
    const op = connection.layout.ops[call.op];
    if (op === undefined) {
      throw new HbmeshError(
        StatusCode.NOT_SUPPORTED,
        `the native addon has no operation ${call.op}: run npm run setup`,
      );
    }
    const { args, batch, keys, signal, name } = call;
    const what = name.includes(" ")
      ? name
      : `${name} of ${keys.length} ${keys.length === 1 ? "key" : "keys"} (first ${JSON.stringify(keys[0])})`;
    return { op, args, batch, keys, what, signal, stopMs: STOP_GRACE_MS + this.#transferMs(call) };
  }

  #context(call: Call, { node, native }: Connection): ReplyContext {
    return {
      keys: call.keys,
      node,
      backend: native.backend,
      outward: OUTWARD.has(call.op),
      hasBlobSizes: call.op === "GetMeta",
    };
  }
}

/**
 * Whether a request that was stopped ends as one that failed. Who aborts wants no result of what was left undone; after
 * a time limit, keys that were done in time are worth telling.
 */
function wasCutShort(decoded: DecodedReply, stopped: HbmeshError): boolean {
  const cancelled = decoded.answers.filter((answer) => answer.code === StatusCode.RPC_CANCELLED).length;
  return stopped.code === StatusCode.RPC_DEADLINE_EXCEEDED ? cancelled === decoded.answers.length : cancelled > 0;
}
