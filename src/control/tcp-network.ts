/**
 * The ControlNetwork of real life: the lean link over TCP.
 */
import type { Clock } from "../base/clock.js";
import type { Credentials } from "../base/credentials.js";
import type { Logger } from "../base/log.js";
import { createLinkServer } from "../rpc/link-server.js";
import { isRefused } from "../rpc/link-socket.js";
import { createLinkTransport } from "../rpc/link-transport.js";
import type { ControlNetwork } from "./network.js";

/** `credentials`: what members show to each other. */
export function createTcpNetwork(clock: Clock, log: Logger, credentials: Credentials): ControlNetwork {
  return {
    listen: (address, routes, onEnd) => createLinkServer({ address, routes, clock, log, credentials, onEnd }),
    connect(address, events) {
      const transport = createLinkTransport(address, { clock, credentials, ...events });
      return { transport, close: () => transport.close() };
    },
    isRefused: (address) => isRefused(address, clock),
  };
}
