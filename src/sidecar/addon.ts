/**
 * Every native type, declared once. The addon is hbmesh.node, built by cmake-js from native/addon; it holds no policy:
 * the client core, the session socket, the channels, simulated device memory.
 */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { PortMessage } from "./port.js";

/** One field of a shared record: byte offset and width. */
export interface NativeField {
  offset: number;
  bytes: number;
}

/** A shared record: its size, and its fields under their C++ names. */
export interface NativeStruct {
  bytes: number;
  fields: Record<string, NativeField>;
}

/**
 * Offsets, sizes, operations, flags, limits and codes of native/queue/layout.h and native/base/status.h. Constants have
 * their C++ names without the `k` ("SetD2H", "KeysPerCallMax"), transports and codes their names for users ("tcp",
 * "NOT_FOUND").
 */
export interface NativeLayout {
  structs: Record<string, NativeStruct>;
  ops: Record<string, number>;
  flags: Record<string, number>;
  limits: Record<string, number>;
  transports: Record<string, number>;
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
  /**
   * The store's memfd, duplicated for this process; to be given to a restarted sidecar. It belongs to the receiver and
   * stays open after close(), until fs.closeSync.
   */
  readonly storeFd: number;
  /** false: the queue is full. Throws once the sidecar is gone or the port was closed. */
  send(message: PortMessage): boolean;
  close(): void;
}

/**
 * What a submitted request was answered. `payload` is an ObjectReply, or the last DeviceReply of a request whose keys
 * end one by one.
 */
export interface NativeReply {
  code: number;
  payload: Uint8Array;
}

export interface NativeClient {
  readonly deviceCount: number;
  readonly backend: string;
  /** IP:PORT that it is connected to: what the name in its options led to. */
  readonly workerAddress: string;
  /**
   * Submits a request. `keys` is a KeyBatch; blob i of key k is at blobEnds[k-1] <= i < blobEnds[k], and all three
   * arrays are empty where there are no blobs. Arrays may be reused after return. Rejects with INVALID for a pointer
   * that is no device memory, naming the key as `key "name" (number 3)`; with the cause when the session ends first.
   * `requestId` (chosen by the caller, above 0) can be given to cancel. An outstanding request keeps the process alive,
   * an idle client does not.
   *
   * `onEvents` is for requests whose keys end one by one (DevPublish, DevSubscribe, ReserveLayers): it is called with
   * each DeviceReply before the last, in order, before the promise settles. It must not throw. A key without an event
   * that ended it ends with the request.
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
    onEvents?: (payload: Uint8Array) => void;
  }): Promise<NativeReply>;
  /** Asks for the end of a request; its promise still settles, with RPC_CANCELLED or with the answer. */
  cancel(requestId: bigint): void;
  /** The same for one key of a request whose keys end one by one. */
  cancelKey(requestId: bigint, keyIndex: number): void;
  registerDeviceMemory(pointers: BigUint64Array, sizes: BigUint64Array): Promise<void>;
  /**
   * Cancels outstanding requests, which reject with SHUTTING_DOWN, and waits for the sidecar's last word on them: up to
   * 2 s for one that takes no message, else as long as their bytes may take. Resolves once they have settled; a second
   * call resolves at once. Never rejects.
   */
  close(): Promise<void>;
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
  /**
   * Both reject with NO_AVAILABLE_WORKER when nothing listens at the address. `onClosed` is called once, when the
   * session ended from the other side.
   */
  connectClient(options: {
    workerAddress: string;
    token: string;
    connectTimeoutMs: number;
    spinMicros: number;
    /** Slowest transfer that close() still waits for. */
    floorBytesPerSecond: bigint;
    onClosed: (reason: string) => void;
  }): Promise<NativeClient>;
  connectControl(options: {
    workerAddress: string;
    token?: string;
    connectTimeoutMs: number;
    onMessages: (messages: PortMessage[]) => void;
    onClosed: (reason: string) => void;
  }): Promise<NativeControlPort>;
  /** Waits for a child that has ended. False: it has not, or is no child of this process. */
  reapChild(pid: number): boolean;
  /**
   * Bytes a second of one copy with `threads` threads and streaming stores between two buffers of `bytes`, the best of
   * `rounds`. The source is read in pieces of `pieceBytes` from anywhere, as a gather reads blobs.
   */
  measureCopyBandwidth(threads: number, bytes: bigint, pieceBytes: bigint, rounds: number): Promise<number>;
}

let loaded: NativeAddon | undefined;

/** Where the addon and the sidecar program are: HBMESH_NATIVE_DIR, or what `npm run setup` builds. */
export function nativePath(name: string): string {
  const folder = process.env.HBMESH_NATIVE_DIR;
  return folder === undefined
    ? fileURLToPath(new URL(`../../build/Release/${name}`, import.meta.url))
    : join(folder, name);
}

/** Loads the addon at first use. Throws NOT_READY with the command to run when it was not built. */
export function loadAddon(): NativeAddon {
  if (loaded === undefined) {
    const path = nativePath("hbmesh.node");
    if (!existsSync(path)) {
      throw new HbmeshError(
        StatusCode.NOT_READY,
        `the native addon is not built (${path} is missing): run npm run setup`,
      );
    }
    loaded = createRequire(import.meta.url)(path) as NativeAddon;
  }
  return loaded;
}
