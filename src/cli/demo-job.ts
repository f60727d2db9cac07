/**
 * What the processes of the main job say to each other over the process channel: the launcher tells, a client answers
 * each order with one message. Messages are plain JSON.
 */
import type { Shape } from "./options.js";

/** How a file is laid out in device memory: objects of `shape`, the last blob of the last one shorter. */
export interface JobLayout {
  totalBytes: number;
  /** Blob sizes of each object. */
  objects: number[][];
}

/** The file's bytes in order: `shape.blobs` blobs an object, as many objects as it takes. */
export function layOut(totalBytes: number, shape: Shape): JobLayout {
  const objects: number[][] = [];
  let blobs: number[] = [];
  for (let offset = 0; offset < totalBytes; offset += shape.blobBytes) {
    blobs.push(Math.min(shape.blobBytes, totalBytes - offset));
    if (blobs.length === shape.blobs) {
      objects.push(blobs);
      blobs = [];
    }
  }
  if (blobs.length > 0) {
    objects.push(blobs);
  }
  return { totalBytes, objects };
}

export interface ClientSettings {
  role: "set" | "get";
  workerAddress: string;
  deviceIndex: number;
  file: string;
  shape: Shape;
  totalBytes: number;
  /** Begins every key of this job, so that jobs don't meet. */
  keyPrefix: string;
  timeoutMs: number;
}

export type Order =
  | { t: "open"; settings: ClientSettings }
  /** mSetD2H or mGetH2D of all objects, under keys of this round. */
  | { t: "run"; round: number }
  /** SHA-256 over the blobs in device memory, in order; the get side then clears them. */
  | { t: "hash" }
  | { t: "delete"; round: number }
  /** One-copy bandwidth with this many threads. */
  | { t: "limit"; threads: number; pieceBytes: number }
  | { t: "close" };

/** What carried the bytes of one call, as the client's BatchResult tells it. */
export interface CarriedBy {
  transport: string;
  lanes: number;
  bytes: number;
  fallback: boolean;
  source: string;
}

export type Answer =
  | { t: "opened"; deviceCount: number }
  | { t: "ran"; seconds: number; paths: CarriedBy[] }
  | { t: "hashed"; sha256: string }
  | { t: "deleted" }
  | { t: "limited"; bytesPerSecond: number }
  | { t: "closed" }
  | { t: "failed"; code: string; message: string; key: string | null };
