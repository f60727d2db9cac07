/**
 * SidecarPort: the control process's end of its queue to the sidecar, as the control plane uses it. The real one stands
 * on the addon (native-port.ts); tests and simulations give another.
 *
 * Payload layouts, operations and flags: native/queue/layout.h, exported by the addon and checked by a contract test.
 */

/** One message. `payload` is a copy and belongs to the receiver. */
export interface PortMessage {
  id: bigint;
  op: number;
  flags: number;
  code: number;
  /** Keys in the message. */
  count: number;
  args: readonly [bigint, bigint, bigint, bigint];
  payload: Uint8Array;
}

export interface SidecarInfo {
  deviceCount: number;
  /** "sim" or "ascend". */
  backend: string;
  /** What peers' sidecars connect to. */
  transports: { name: string; address: string }[];
}

export interface SidecarPort {
  readonly info: SidecarInfo;
  /** Sends, or keeps in bounded memory until the queue has room. Throws TRY_AGAIN when that memory is full. */
  send(message: PortMessage): void;
  /** Called for every message, in order. Set once, before the first await after the port was made. */
  onMessage(handler: (message: PortMessage) => void): void;
  /** Called once when the sidecar is gone or the port was closed. */
  onClose(handler: (reason: Error) => void): void;
  close(): void;
}
