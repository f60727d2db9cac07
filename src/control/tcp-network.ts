/**
 * The ControlNetwork of real life: the lean link over TCP.
 */
import type { Clock } from "../base/clock.js";
import type { Logger } from "../base/log.js";
import { createLinkServer } from "../rpc/link-server.js";
import { createLinkTransport } from "../rpc/link-transport.js";
import type { ControlNetwork } from "./network.js";

export function createTcpNetwork(clock: Clock, log: Logger): ControlNetwork {
  return {
    listen: (address, routes) => createLinkServer({ address, routes, clock, log }),
    connect(address) {
      const transport = createLinkTransport(address, { clock });
      return { transport, close: () => transport.close() };
    },
  };
}
