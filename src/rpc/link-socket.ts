/** The sockets under the lean link, with TLS or without: listening, connecting, and what is the same for both. */
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { connect as connectTls, createServer as createTlsServer } from "node:tls";
import { formatAddress, parseAddress } from "../base/address.js";
import type { Clock } from "../base/clock.js";
import type { TlsMaterial } from "../base/credentials.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { listenFault } from "../base/listen-fault.js";
import { closerOf } from "./close-server.js";

/** A host that is gone without a word is noticed after this and ten unanswered probes, a second each. */
const KEEP_ALIVE = { noDelay: true, keepAlive: true, keepAliveInitialDelay: 10_000 } as const;
const MIN_TLS = "TLSv1.3";

export interface ListenOptions {
  /** IP:PORT; port 0 takes a free one. */
  address: string;
  tls: TlsMaterial | undefined;
  /** More connections than these are closed at once. */
  connectionsMax: number;
  handshakeTimeoutMs: number;
  clock: Clock;
  /** Of a connection that may be talked over: after the TLS handshake. */
  onSocket: (socket: Socket) => void;
  /** A handshake failed; its connection is closed. */
  onRefused: (cause: Error) => void;
}

export interface Listener {
  /** With the real port. */
  readonly address: string;
  /** Ends what is still in a handshake or says its last words, too. */
  close: () => Promise<void>;
}

/**
 * Rejects with NOT_READY naming the address when it can't be listened
 * at, INVALID for TLS files that are none.
 */
export async function listenSocket(options: ListenOptions): Promise<Listener> {
  const { host, port } = parseAddress(options.address, "the link address");
  const server = createListener(options);
  const close = closerOf(server);
  server.maxConnections = options.connectionsMax;
  await new Promise<void>((resolve, reject) => {
    const onError = (cause: NodeJS.ErrnoException): void => {
      const message = `can't listen for control processes at ${options.address}: ${listenFault(cause)}`;
      reject(new HbmeshError(StatusCode.NOT_READY, message, { cause }));
    };
    server.once("error", onError);
    server.listen({ host, port }, () => {
      server.off("error", onError);
      resolve();
    });
  });
  return {
    address: formatAddress({ host, port: (server.address() as AddressInfo).port }),
    close: () => close({ graceMs: 0, clock: options.clock }),
  };
}

function createListener({ tls, handshakeTimeoutMs, onSocket, onRefused }: ListenOptions): Server {
  if (tls === undefined) {
    return createServer(KEEP_ALIVE, onSocket);
  }
  const settings = { ...KEEP_ALIVE, ...tls, requestCert: true, rejectUnauthorized: true, minVersion: MIN_TLS } as const;
  try {
    return createTlsServer({ ...settings, handshakeTimeout: handshakeTimeoutMs }, onSocket).on(
      "tlsClientError",
      onRefused,
    );
  } catch (cause) {
    throw badTlsFiles(cause);
  }
}

/** `onOpen` when it may be written to. Throws INVALID for TLS files that are none. */
export function connectSocket(address: string, tls: TlsMaterial | undefined, onOpen: () => void): Socket {
  const { host, port } = parseAddress(address, "the link address");
  if (tls === undefined) {
    return connect({ host, port, ...KEEP_ALIVE }, onOpen);
  }
  try {
    const socket = connectTls({ host, port, ...tls, minVersion: MIN_TLS }, onOpen);
    return socket.setNoDelay(true).setKeepAlive(true, KEEP_ALIVE.keepAliveInitialDelay);
  } catch (cause) {
    throw badTlsFiles(cause);
  }
}

/** How long a host may take to answer whether somebody listens. */
const REFUSAL_TIMEOUT_MS = 300;

/** Does the host answer that nobody listens at this address? Never rejects: no answer is none. */
export function isRefused(address: string, clock: Clock): Promise<boolean> {
  const { host, port } = parseAddress(address, "the link address");
  return new Promise((resolve) => {
    const socket = connect({ host, port });
    const settle = (refused: boolean): void => {
      timer.cancel();
      socket.destroy();
      resolve(refused);
    };
    const timer = clock.setTimer(REFUSAL_TIMEOUT_MS, () => settle(false));
    socket.once("connect", () => settle(false));
    socket.on("error", (cause: NodeJS.ErrnoException) => settle(cause.code === "ECONNREFUSED"));
  });
}

export function badTlsFiles(cause: unknown): HbmeshError {
  const why = cause instanceof Error ? cause.message : String(cause);
  const message = `--tls_cert, --tls_key and --tls_ca don't fit together (${why}): all are PEM, and the key is the certificate's`;
  return new HbmeshError(StatusCode.INVALID, message, { cause });
}
