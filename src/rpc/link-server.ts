/**
 * The serving end of the lean link. A connection that breaks the rules, that floods or that goes silent in the middle
 * of something is closed, and only that one; a request that fails answers an error and leaves the connection as it is.
 *
 * What a peer can occupy is bounded: connections, requests that run and their bytes, answers that it doesn't take, and
 * the time for a greeting and for a frame.
 */
import type { Socket } from "node:net";
import type { Clock } from "../base/clock.js";
import { type Credentials, NO_CREDENTIALS } from "../base/credentials.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import { limitedWarn } from "../base/log-limit.js";
import { LinkConnection } from "./link-connection.js";
import type { LinkRoutes } from "./link-routes.js";
import { listenSocket } from "./link-socket.js";

export interface LinkServerOptions {
  /** IP:PORT to listen at; port 0 takes a free one. */
  address: string;
  routes: LinkRoutes;
  clock: Clock;
  log: Logger;
  /** What peers show, and what is shown to them. Default: nothing. */
  credentials?: Credentials | undefined;
  /** Requests of one connection that may run at once; more answer TRY_AGAIN. Default 4,096. */
  runningMax?: number;
  /** Bytes of the requests of one connection that may run at once; more answer TRY_AGAIN. Default 256 MiB. */
  runningBytesMax?: number;
  /** A connection that hasn't greeted by then is closed. Default 5,000. */
  helloTimeoutMs?: number;
  /**
   * A frame that has begun and isn't complete by then, and answers of which the peer takes nothing for so long, close
   * the connection. Default 30,000.
   */
  stallTimeoutMs?: number;
  /** Bytes of answers that the peer has not taken: above it nothing more is read from it. Default 8 MiB. */
  unsentPauseBytes?: number;
  /** Above this its connection is closed. Default 64 MiB. */
  unsentBytesMax?: number;
  /** A connection that had greeted has ended; with the IP address that it came from. */
  onEnd?: ((host: string) => void) | undefined;
  /** Connections; further ones are closed at once. Default 4,096. */
  connectionsMax?: number;
  /** Of them those that have not greeted yet; a further one pushes out the oldest. Default 256. */
  greetingMax?: number;
}

export interface LinkServer {
  /** With the real port. */
  readonly address: string;
  /** Connections that are open. */
  readonly connections: number;
  /** Ends every connection; running requests are aborted. */
  close(): Promise<void>;
}

/** Rejects with NOT_READY naming the address when it can't be listened at. */
export async function createLinkServer(options: LinkServerOptions): Promise<LinkServer> {
  const { credentials = NO_CREDENTIALS, helloTimeoutMs = 5_000, greetingMax = 256, clock } = options;
  const refused = limitedWarn(options.log, clock);
  const connections = new Set<LinkConnection>();
  /** Those that nothing is known of yet, oldest first. */
  const greeting = new Set<LinkConnection>();
  const take = (socket: Socket): void => {
    const { remoteAddress = "" } = socket;
    const connection = new LinkConnection(socket, options, {
      onReady: () => greeting.delete(connection),
      onRefused: (peer, cause) => refused({ peer, cause }, "closing a control link that broke the rules"),
      onEnd: () => {
        connections.delete(connection);
        if (!greeting.delete(connection)) {
          options.onEnd?.(remoteAddress);
        }
      },
    });
    connections.add(connection);
    greeting.add(connection);
    const [oldest] = greeting;
    if (greeting.size > greetingMax) {
      oldest?.end(new HbmeshError(StatusCode.TRY_AGAIN, "too many peers have connected without a greeting"));
    }
  };
  const listener = await listenSocket({
    address: options.address,
    tls: credentials.tls,
    connectionsMax: options.connectionsMax ?? 4_096,
    handshakeTimeoutMs: helloTimeoutMs,
    clock: options.clock,
    onSocket: take,
    onRefused: (cause) => refused({ cause: cause.message }, "refused a control link: its TLS handshake failed"),
  });
  return {
    address: listener.address,
    get connections() {
      return connections.size;
    },
    async close() {
      for (const connection of connections) {
        connection.end(new HbmeshError(StatusCode.SHUTTING_DOWN, "this control process is shutting down"));
      }
      await listener.close();
    },
  };
}
