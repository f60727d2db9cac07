/**
 * The real SidecarPort: the control process's queue to its sidecar, over the addon. Messages that the queue has no room
 * for are kept in bounded memory and sent, in order, as room comes.
 */
import { type Clock, createSystemClock, type Timer } from "../base/clock.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { loadAddon, type NativeAddon, type NativeControlPort } from "./addon.js";
import { fromNativeError } from "./native-errors.js";
import type { PortMessage, SidecarInfo, SidecarPort } from "./port.js";

export interface ConnectSidecarOptions {
  /** How long the sidecar may take to answer the greeting. Default 9,000 ms. */
  connectTimeoutMs?: number | undefined;
  /** What the sidecar wants to be told, if it was started with a token. Default: nothing. */
  token?: string | undefined;
  /** Messages that may wait for room in the queue. Default 8,192. */
  backlogMessagesMax?: number | undefined;
  /** Bytes of the messages that may wait. Default 64 MiB. */
  backlogBytesMax?: number | undefined;
  clock?: Clock | undefined;
  /** Default: the built one. Tests give another. */
  addon?: Pick<NativeAddon, "connectControl"> | undefined;
}

export interface NativeSidecarPort extends SidecarPort {
  /**
   * The store's memory as a descriptor of this process, for the next sidecar. It belongs to the caller: it stays open
   * after close(), until fs.closeSync.
   */
  readonly storeFd: number;
}

/** The queue doesn't say when it has room again, so a backlog is tried this often. */
const BACKLOG_RETRY_MS = 1;

/**
 * Rejects with NO_AVAILABLE_WORKER when no sidecar listens for `workerAddress`, RPC_DEADLINE_EXCEEDED when it doesn't
 * answer.
 */
export async function connectSidecar(
  workerAddress: string,
  options: ConnectSidecarOptions = {},
): Promise<NativeSidecarPort> {
  const port = new NativePort(workerAddress, options);
  await port.connect(options);
  return port;
}

class NativePort implements NativeSidecarPort {
  readonly #workerAddress: string;
  readonly #clock: Clock;
  readonly #backlogMessagesMax: number;
  readonly #backlogBytesMax: number;
  readonly #backlog: PortMessage[] = [];
  #backlogBytes = 0;
  #retry: Timer | undefined;
  #native: NativeControlPort | undefined;
  #info: SidecarInfo | undefined;
  #messageHandler: ((message: PortMessage) => void) | undefined;
  #closeHandler: ((reason: Error) => void) | undefined;
  /** Messages that came before there was a handler. */
  readonly #early: PortMessage[] = [];
  #closed: HbmeshError | undefined;

  constructor(workerAddress: string, options: ConnectSidecarOptions) {
    this.#workerAddress = workerAddress;
    this.#clock = options.clock ?? createSystemClock();
    this.#backlogMessagesMax = options.backlogMessagesMax ?? 8_192;
    this.#backlogBytesMax = options.backlogBytesMax ?? 64 * 2 ** 20;
  }

  async connect(options: ConnectSidecarOptions): Promise<void> {
    try {
      this.#native = await (options.addon ?? loadAddon()).connectControl({
        workerAddress: this.#workerAddress,
        token: options.token ?? "",
        connectTimeoutMs: options.connectTimeoutMs ?? 9_000,
        onMessages: (messages) => this.#receive(messages),
        onClosed: (reason) =>
          this.#end(new HbmeshError(StatusCode.RPC_PEER_DEAD, reason, { node: this.#workerAddress })),
      });
    } catch (error) {
      throw fromNativeError(error, { node: this.#workerAddress });
    }
    const { deviceCount, backend, transports } = this.#native;
    this.#info = { deviceCount, backend, transports: parseTransports(transports) };
  }

  get info(): SidecarInfo {
    return this.#connected().info;
  }

  get storeFd(): number {
    return this.#connected().native.storeFd;
  }

  send(message: PortMessage): void {
    if (this.#closed !== undefined) {
      throw this.#closed;
    }
    if (this.#backlog.length === 0 && this.#trySend(message)) {
      return;
    }
    const bytes = this.#backlogBytes + message.payload.byteLength;
    if (this.#backlog.length >= this.#backlogMessagesMax || bytes > this.#backlogBytesMax) {
      throw new HbmeshError(
        StatusCode.TRY_AGAIN,
        `the queue to the sidecar of ${this.#workerAddress} is full, and ${this.#backlog.length} messages of ` +
          `${this.#backlogBytes} bytes wait for room already: try again, and look whether the sidecar is stuck`,
        { node: this.#workerAddress },
      );
    }
    this.#backlog.push(message);
    this.#backlogBytes = bytes;
    this.#retry ??= this.#clock.setTimer(BACKLOG_RETRY_MS, () => this.#flush());
  }

  onMessage(handler: (message: PortMessage) => void): void {
    this.#messageHandler = handler;
    for (const message of this.#early.splice(0)) {
      handler(message);
    }
  }

  onClose(handler: (reason: Error) => void): void {
    this.#closeHandler = handler;
    if (this.#closed !== undefined) {
      handler(this.#closed);
    }
  }

  close(): void {
    this.#native?.close();
    this.#end(
      new HbmeshError(StatusCode.SHUTTING_DOWN, `the port to the sidecar of ${this.#workerAddress} was closed`, {
        node: this.#workerAddress,
      }),
    );
  }

  #connected(): { native: NativeControlPort; info: SidecarInfo } {
    if (this.#native === undefined || this.#info === undefined) {
      throw new Error("a port is used only after connect() has resolved");
    }
    return { native: this.#native, info: this.#info };
  }

  #trySend(message: PortMessage): boolean {
    try {
      return this.#connected().native.send(message);
    } catch (error) {
      throw fromNativeError(error, { node: this.#workerAddress });
    }
  }

  #flush(): void {
    this.#retry = undefined;
    try {
      while (this.#closed === undefined && this.#backlog[0] !== undefined && this.#trySend(this.#backlog[0])) {
        this.#backlogBytes -= this.#backlog.shift()?.payload.byteLength ?? 0;
      }
    } catch (error) {
      // Whoever sent it is gone from here: a message that can't be sent at all ends the session, which tells everybody.
      this.#native?.close();
      this.#end(HbmeshError.from(error));
      return;
    }
    if (this.#closed === undefined && this.#backlog.length > 0) {
      this.#retry = this.#clock.setTimer(BACKLOG_RETRY_MS, () => this.#flush());
    }
  }

  #receive(messages: PortMessage[]): void {
    for (const message of messages) {
      if (this.#messageHandler === undefined) {
        this.#early.push(message);
      } else {
        this.#messageHandler(message);
      }
    }
  }

  #end(reason: HbmeshError): void {
    if (this.#closed !== undefined) {
      return;
    }
    this.#closed = reason;
    this.#retry?.cancel();
    this.#backlog.length = 0;
    this.#backlogBytes = 0;
    this.#closeHandler?.(reason);
  }
}

/** "tcp=127.0.0.1:40123 shm=hbmesh-shm/…", as the sidecar's WELCOME says it. */
export function parseTransports(text: string): { name: string; address: string }[] {
  return text
    .split(" ")
    .filter((part) => part.includes("="))
    .map((part) => {
      const split = part.indexOf("=");
      return { name: part.slice(0, split), address: part.slice(split + 1) };
    });
}
