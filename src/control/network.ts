/**
 * How control processes reach each other: listen with services, connect to an address. The real one is the lean link over TCP; tests and
 * simulations pass another.
 */
import type { Transport } from "@connectrpc/connect";
import type { LinkRoutes } from "../rpc/link-routes.js";

export interface ControlListener {
  /** IP:PORT that peers connect to. */
  readonly address: string;
  close(): Promise<void>;
}

export interface ControlConnection {
  readonly transport: Transport;
  /** Ends what is pending with RPC_UNAVAILABLE. */
  close(): void;
}

export interface ControlNetwork {
  listen(address: string, routes: LinkRoutes): Promise<ControlListener>;
  /** Connects at first use, and again after a loss. */
  connect(address: string): ControlConnection;
}
