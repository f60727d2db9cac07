/**
 * Ending a listening server within a bound, whatever its clients do.
 *
 * `server.close()` alone waits until every connection has ended, and a client that keeps one open, or goes on asking
 * over it, decides when. Node's own ways to end them miss those that are still in a TLS handshake. So every connection
 * is kept track of from its first moment, below TLS.
 */
import type { Server, Socket } from "node:net";
import type { Clock } from "../base/clock.js";
import { pause } from "../base/deadline.js";

const LOOK_MS = 20;

export interface CloseOptions {
  clock: Clock;
  /** How long to wait for what is under way. */
  graceMs: number;
  /** Is something under way that is worth waiting for? Default: nothing is. */
  isBusy?: () => boolean;
  /** Ends connections on which nothing is under way; called again and again while others are waited for. */
  endIdle?: () => void;
}

/** Call it before the server listens. Resolves when the server and all of its connections have ended. */
export function closerOf(server: Server): (options: CloseOptions) => Promise<void> {
  const connections = new Set<Socket>();
  server.on("connection", (socket: Socket) => {
    connections.add(socket);
    socket.once("close", () => connections.delete(socket));
  });
  return async ({ clock, graceMs, isBusy = () => false, endIdle }) => {
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    const untilMs = clock.monotonicMs() + graceMs;
    endIdle?.();
    while (isBusy() && clock.monotonicMs() < untilMs) {
      await pause(clock, LOOK_MS);
      endIdle?.();
    }
    for (const socket of connections) {
      socket.destroy();
    }
    await closed;
  };
}
