/**
 * Answers of batch calls: a status for each key, in the order of the keys, and what carried the bytes. A call that
 * could not even be tried rejects instead.
 */
import { HbmeshError, StatusCode } from "../base/errors.js";

/** The answer for one key. */
export class Status {
  constructor(
    readonly code: StatusCode,
    /** Empty when the code is OK; else names the cause and what to do next. */
    readonly message: string,
    readonly key: string,
  ) {}

  get ok(): boolean {
    return this.code === StatusCode.OK;
  }

  /** "NOT_FOUND": the code's name. */
  get codeName(): string {
    return StatusCode[this.code] ?? String(this.code);
  }
}

/** One way that bytes of a call really took. */
export interface TransferPath {
  /** "local" (within this node), "shm", "tcp", "rdma" or "hccs". */
  transport: string;
  /** Worker address that the bytes came from; for a set, the worker that they went to. */
  source: string;
  /** Index of the device at this end. */
  deviceIndex: number;
  /** Connections, or copy threads of a local transfer. */
  lanes: number;
  /** Pieces that the bytes travelled in. */
  slices: number;
  bytes: bigint;
  /** From the first piece's start to the last one's end. */
  seconds: number;
  /** Not the transport that was asked for. */
  fallback: boolean;
  /** Through a staging buffer, and not straight to its target. */
  staged: boolean;
  /** The objects were on the source's SSD tier, and came back to its memory first. */
  spilled: boolean;
  /** As in `tcp 127.0.0.1:31501 -> sim:2, 2 lanes`. */
  text: string;
}

/** What every batch call resolves to. */
export class BatchResult {
  constructor(
    /** One a key, in the order of the keys. */
    readonly statuses: readonly Status[],
    /** What carried the bytes, one for each source and transport; empty for calls that move none. */
    readonly paths: readonly TransferPath[],
    /** The worker that answered. */
    readonly node: string,
  ) {}

  /** Keys whose status isn't OK, in order. */
  get failedKeys(): string[] {
    return this.statuses.filter((status) => !status.ok).map((status) => status.key);
  }

  /** What carried the bytes, for people: `tcp 127.0.0.1:31501 -> sim:2, 2 lanes`; "none" when nothing was moved. */
  get path(): string {
    return this.paths.length === 0 ? "none" : this.paths.map((path) => path.text).join("; ");
  }

  /** Throws the first status that isn't OK as an HbmeshError with code, key and node. */
  throwIfFailed(): void {
    const failed = this.statuses.find((status) => !status.ok);
    if (failed !== undefined) {
      throw new HbmeshError(failed.code, failed.message, { key: failed.key, node: this.node });
    }
  }
}

/** Of `mSetD2H` and `delete`. */
export class WriteResult extends BatchResult {
  constructor(
    base: BatchResult,
    /** One a key. Set: the key was there and was left as it is. Delete: it was there. */
    readonly existed: readonly boolean[],
  ) {
    super(base.statuses, base.paths, base.node);
  }
}

/** HIT: it is there. MISS: it is not. UNKNOWN: its owner can't be asked; the status says why. */
export type Presence = "HIT" | "MISS" | "UNKNOWN";

/** Of `exist`. A hit and a miss are both answers: their status is OK. */
export class ExistResult extends BatchResult {
  constructor(
    base: BatchResult,
    /** One a key. */
    readonly presences: readonly Presence[],
  ) {
    super(base.statuses, base.paths, base.node);
  }
}

export interface ObjectMeta {
  sizeBytes: bigint;
  /** Sizes of its blobs, in the order of the set. */
  blobSizes: bigint[];
  /** Grows with every write of the key. */
  generation: bigint;
}

/** Of `getMetaInfo`. */
export class MetaResult extends BatchResult {
  constructor(
    base: BatchResult,
    /** One a key; undefined where the status isn't OK. */
    readonly metas: readonly (ObjectMeta | undefined)[],
  ) {
    super(base.statuses, base.paths, base.node);
  }
}
