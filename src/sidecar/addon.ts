/**
 * Every native type, declared once. The addon is hbmesh.node, built by cmake-js from native/addon; it holds no policy: the
 * client core, the session socket, the channels, simulated device memory.
 */
import { createRequire } from "node:module";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { PortMessage } from "./port.js";

/** One field of a shared record: byte offset and width. */
export interface NativeField {
  offset: number;
  bytes: number;
}

/** Offsets, sizes, operations, flags, limits and codes of native/queue/layout.h and native/base/status.h. */
export interface NativeLayout {
  structs: Record<string, { bytes: number; fields: Record<string, NativeField> }>;
  ops: Record<string, number>;
  flags: Record<string, number>;
  limits: Record<string, number>;
  statusCodes: Record<string, number>;
}

/** An error from native code: `code` is a StatusCode number. */
export interface NativeError extends Error {
  code: number;
}

export interface NativeControlPort {
  readonly deviceCount: number;
  readonly backend: string;
  readonly transports: string;
  /** The store's memfd, duplicated for this process; to be given to a restarted sidecar. */
  readonly storeFd: number;
  /** false: the queue is full. */
  send(message: PortMessage): boolean;
  close(): void;
}

/** What a submitted request was answered. `payload` is an ObjectReply. */
export interface NativeReply {
  code: number;
  payload: Uint8Array;
}

export interface NativeClient {
  readonly deviceCount: number;
  readonly backend: string;
  /**
   * Submits a set or get. `keys` is a KeyBatch; blob i of key k is at blobEnds[k-1] <= i < blobEnds[k]. Rejects with INVALID for a
   * pointer that is no device memory. `requestId` (chosen by the caller, above 0) can be given to cancel.
   */
  submit(request: {
    requestId: bigint;
    op: number;
    args: readonly [bigint, bigint, bigint, bigint];
    deviceIndex: number;
    keys: Uint8Array;
    keyCount: number;
    blobEnds: Uint32Array;
    pointers: BigUint64Array;
    sizes: BigUint64Array;
  }): Promise<NativeReply>;
  cancel(requestId: bigint): void;
  registerDeviceMemory(pointers: BigUint64Array, sizes: BigUint64Array): void;
  close(): void;
}

export interface NativeSimHeap {
  allocate(deviceIndex: number, bytes: bigint): bigint;
  free(pointer: bigint): void;
  copyIn(pointer: bigint, source: Uint8Array): void;
  copyOut(pointer: bigint, bytes: bigint): Uint8Array;
}

export interface NativeAddon {
  readonly layout: NativeLayout;
  readonly simHeap: NativeSimHeap;
  /** Both reject with NO_AVAILABLE_WORKER when nothing listens at the address. `onClosed` is called once. */
  connectClient(options: {
    workerAddress: string;
    token: string;
    connectTimeoutMs: number;
    spinMicros: number;
    onClosed: (reason: string) => void;
  }): Promise<NativeClient>;
  connectControl(options: {
    workerAddress: string;
    connectTimeoutMs: number;
    onMessages: (messages: PortMessage[]) => void;
    onClosed: (reason: string) => void;
  }): Promise<NativeControlPort>;
  /** Bytes a second of one copy with `threads` threads and streaming stores between two buffers of `bytes`. */
  measureCopyBandwidth(threads: number, bytes: bigint, pieceBytes: bigint, rounds: number): Promise<number>;
}

let loaded: NativeAddon | undefined;

/** Loads the addon at first use. Throws with the command to run when it was not built. */
export function loadAddon(): NativeAddon {
  if (loaded === undefined) {
    const path = fileURLToPath(new URL("../../build/Release/hbmesh.node", import.meta.url));
    if (!existsSync(path)) {
      throw new Error(`the native addon is not built (${path} is missing): run npm run setup`);
    }
    loaded = createRequire(import.meta.url)(path) as NativeAddon;
  }
  return loaded;
}
