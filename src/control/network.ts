/**
 * How control processes reach each other: listen with services, connect to an address. The real one is the lean link
 * over TCP; tests and simulations pass another.
 */
import type { Transport } from "@connectrpc/connect";
import type { ReachChange } from "../rpc/link-reach.js";
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

export interface ConnectionEvents {
  /** An open connection ended, though it was not closed here. */
  onLost?: (() => void) | undefined;
  /** The peer can't be reached any more, or can be again. */
  onReach?: ((change: ReachChange) => void) | undefined;
}

export interface ControlNetwork {
  /** `onEnd`: a connection that a peer had made ended, however that was; with the IP address that it came from. */
  listen(address: string, routes: LinkRoutes, onEnd?: (host: string) => void): Promise<ControlListener>;
  /** Connects at first use, and again after a loss. Remembers a peer that can't be reached (rpc/link-reach.ts). */
  connect(address: string, events?: ConnectionEvents): ControlConnection;
  /**
   * True: the host of this address answers, and nobody listens there. Never rejects. Absent where that can't be told.
   */
  isRefused?(address: string): Promise<boolean>;
}
