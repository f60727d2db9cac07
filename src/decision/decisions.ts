/**
 * The decisions of the control plane, as TypeScript sees them. Everything here is answered by the one Wasm module
 * (asm/, compiled to dist/decisions.wasm); this layer only moves bytes across the border.
 *
 * Pure: no clock, no randomness, no I/O. Times and ids are arguments. The same calls give the same bytes.
 */

/** Which keys are allowed; the whole cluster uses one rule. */
export type KeyRule = "strict" | "extended";

/**
 * Who made a batch. A sidecar puts the tenant before the keys of all but the default one ("0123456789abcdef\x1fkey"); a
 * user may not, who could otherwise name the keys of others.
 */
export type KeyOrigin = "user" | "sidecar";

/**
 * Keys as flat bytes (`KeyBatchHeader` in native/queue/layout.h): count u32 | keyBytes u32 | ends u32 x count | bytes,
 * padded to 8. Made once by the client and handed on without conversion.
 */
export type KeyBatch = Uint8Array;

/** The first key of a batch that breaks the rule, or the batch as a whole (`index` -1). */
export interface KeyFault {
  index: number;
  reason: "malformed-batch" | "too-many" | "none" | "empty" | "too-long" | "forbidden-byte" | "duplicate";
  /** Forbidden byte, length in bytes, or index of the equal key before it; by reason. */
  detail: number;
}

export interface RingMember {
  /** The member's id in the cluster, 1 to 65,535. */
  id: number;
  /** Share of the ring; 0 owns nothing. */
  weight: number;
  /** What its tokens are hashed from: the worker address, so that a restart owns the same keys. */
  name: string;
}

/**
 * What a key is: 0 host object, 1 published (one-time), 2 device cache. A key is of one family as long as it is there;
 * to the others it is INVALID.
 */
export type Family = 0 | 1 | 2;

/** 0 skip, 1 fail, 2 replace: as `Existence` in native/queue/layout.h. */
export type ExistenceMode = 0 | 1 | 2;

/** Which source each found key is read from, and what is read of it. */
export interface PlanRequest {
  /** Source member of each key. */
  members: Uint32Array;
  /** Exclusive end of each key's blobs in `blobSizes`. */
  blobEnds: Uint32Array;
  blobSizes: BigUint64Array;
  /** Largest slice in bytes; a slice ends at a blob's end unless the blob alone is larger. */
  sliceBytesMax: number;
  /** Connections to each source; slices are spread over them so that each carries about as many bytes. */
  lanes: number;
}

/**
 * An owner's directory: keys, sizes, generations and locations. Results are `ResultRecord`s of 64 bytes a key
 * (layout.ts). Returned arrays are copies and stay valid. A key of 0 or more than 1,024 bytes, without its tenant, gets
 * INVALID where it would be put in, and is not found elsewhere. A damaged KeyBatch, or records that are not one a key,
 * raise INVALID, and nothing is done.
 *
 * A key that is there under another family than the one given (0 by default) gets INVALID with the flag `otherFamily`,
 * and the generation, size and family of what is there, without locations; nothing is changed. Slots are not looked
 * into.
 */
export interface Directory {
  /**
   * May these keys be written: OK with a new generation; OK with flag existed (skip), or KEY_ALREADY_EXISTS (fail).
   * OUT_OF_RANGE: a generation next to 2^64 was told, and there is none above it.
   */
  reserve(keys: KeyBatch, existence: ExistenceMode, family?: Family): Uint8Array;
  /**
   * Makes keys visible. `records` are CommitRecords (24 bytes). Under `skip` and `fail` the first commit of a key wins:
   * a later one gets OK with existed, or KEY_ALREADY_EXISTS, and what is there. Under `replace` the result carries the
   * generation and the locations of the version that it replaced (flag existed), which must be dropped; if a newer
   * version was committed meanwhile, TRY_AGAIN: the committer's bytes must be dropped. Telling the very same commit
   * again is OK without the flag, so that a lost answer can be asked for once more. INVALID: member 0, size from 2^48,
   * generation 0 under `replace`. OUT_OF_MEMORY: the directory is full, the key is not in it. TRY_AGAIN too if this
   * very version was removed meanwhile, or, under `replace`, a newer one was committed and removed; the result then
   * carries the generation that was removed.
   *
   * Generation 0, under `skip` and `fail`: reserves too; the result carries the generation that the key got. A location
   * of an older version in the very slot that the record names is forgotten first, since its bytes are gone. Told again
   * it gives a new generation.
   */
  commit(keys: KeyBatch, records: Uint8Array, existence: ExistenceMode, family?: Family): Uint8Array;
  /**
   * OK with generation, size, family and locations, or NOT_FOUND. Changes nothing. Family 255 (FAMILY_ANY) finds keys
   * of all. With `rotate`, the locations of key `i` begin with number (rotate + i) modulo how many there are, and go
   * round, so that readers that take the first one spread over all.
   */
  lookup(keys: KeyBatch, family?: Family | 255, rotate?: number): Uint8Array;
  /**
   * Removes keys; the result carries what was there (flag existed), OK without the flag if nothing was. What was
   * removed does not come back by `announce`: the last 65,535 removed keys are remembered, with their generations.
   */
  remove(keys: KeyBatch, family?: Family): Uint8Array;
  /**
   * Takes over what a member says it holds (CommitRecords). A higher generation wins, and the result carries generation
   * and locations of the version that lost (flag existed), which must be dropped; the same generation adds a location
   * (a member is one, its last slot; of the device cache it is one for each slot); a lower one gets TRY_AGAIN: that
   * holder must drop its bytes. So does one that is not above what was removed, unless it is the very version that is
   * there. Of another family: INVALID, and the holder must drop its bytes too. NO_SPACE: four others are known already,
   * this one is not taken up and must drop its bytes. DATA_INCONSISTENCY: the same generation with another size.
   * INVALID, OUT_OF_MEMORY as in `commit`.
   */
  announce(keys: KeyBatch, records: Uint8Array, family?: Family): Uint8Array;
  /**
   * Removes one location (result's generation and first location) of a key; the key goes with its last location. OK
   * with flag existed and the locations left, or OK without the flag if that location was not known.
   */
  forgetLocations(keys: KeyBatch, records: Uint8Array): Uint8Array;
  /**
   * What an owner of these keys before this one has removed: `records` are ResultRecords with the generation. As after
   * `remove`, no version up to it comes back by `announce`. The result carries what is here of that version or an older
   * one (flag existed), which is removed, and must be dropped.
   */
  entomb(keys: KeyBatch, records: Uint8Array): Uint8Array;
  /**
   * Removes every location of a member that is gone, of the device cache all of them. Returns how many keys lost their
   * last one.
   */
  forgetMember(member: number): number;
  /** Removes every key that this member does not own under the ring that is set (none: every key). Returns how many. */
  forgetForeign(self: number): number;
  /**
   * Generations given from now on are above this one; set from the epoch so that a restart never repeats one. `self`:
   * they also carry this member id in their low 16 bits (modulo 65,536), so that no two owners ever give the same; it
   * stays until another one is given. Without it, generations follow each other, and are unique within this directory
   * only.
   */
  raiseGeneration(floor: bigint, self?: number): void;
  /** No generation above this one was given here, or told. */
  readonly highestGeneration: bigint;
  /** `tombstones`: removed keys that are remembered; their memory, 1.6 MiB at most, is in `memoryBytes`. */
  stats(): { keys: number; bytes: number; memoryBytes: number; tombstones: number };
}

export interface Decisions {
  /**
   * undefined: every key is good. Also finds duplicates. Keys may begin with a tenant, unless `origin` is "user"; it
   * does not count in a key's length, and the key itself must not be empty.
   */
  validateKeys(keys: KeyBatch, rule: KeyRule, keysMax: number, origin?: KeyOrigin): KeyFault | undefined;
  setRing(members: readonly RingMember[]): void;
  /** Member id that owns each key; 0 when the ring is empty. */
  ownersOf(keys: KeyBatch): Uint32Array;
  /** Keeps the ring of now beside those that are set later, in the place of the one that was kept before. */
  keepRing(): void;
  /** Member id that owned each key under the ring that was kept; 0 when none was, or it was empty. */
  keptOwnersOf(keys: KeyBatch): Uint32Array;
  /**
   * Splits a batch by owner. `indexes` are the positions in the original batch; `keys` is a KeyBatch of just those.
   */
  groupByOwner(keys: KeyBatch): { member: number; indexes: Uint32Array; keys: KeyBatch }[];
  /** SliceRecords of 32 bytes, in the order in which they should be started. */
  plan(request: PlanRequest): Uint8Array;
  /**
   * Where the objects of a member that leaves go: for each one 1 + the position of a target, 0 if no target has room
   * for it. Sizes and rooms in bytes of arena. The largest is placed first, each where most room is left. At most 2^20
   * objects a call.
   */
  placeMoves(sizes: BigUint64Array, rooms: BigUint64Array): Uint32Array;
  readonly directory: Directory;
}
