/**
 * Layouts and codes of everything that crosses the border of the module. The records are those of native/queue/layout.h
 * and src/decision/layout.ts; a contract test compares them. Little endian, aligned to 8 bytes unless stated.
 */

// Outcome of a call as a whole. A call that does not return `CALL_OK` has changed nothing.
export const CALL_OK: u32 = 0;
/** A KeyBatch whose counts, ends and length do not fit together. */
export const CALL_MALFORMED_BATCH: u32 = 1;
/** Records or arrays whose length does not fit the keys, or that break a rule of the call; `faultIndex` says which. */
export const CALL_MALFORMED_RECORDS: u32 = 2;
/** The memory of the module is used up (4 GiB, or the limit that was set). */
export const CALL_OUT_OF_MEMORY: u32 = 3;
/** An argument outside of its range. */
export const CALL_BAD_ARGUMENT: u32 = 4;

// Status codes of single keys: numbers of proto/hbmesh/v1/status.proto.
export const STATUS_OK: u32 = 0;
export const STATUS_INVALID: u32 = 2;
export const STATUS_NOT_FOUND: u32 = 3;
export const STATUS_OUT_OF_MEMORY: u32 = 6;
export const STATUS_OUT_OF_RANGE: u32 = 12;
export const STATUS_NO_SPACE: u32 = 13;
export const STATUS_TRY_AGAIN: u32 = 19;
export const STATUS_DATA_INCONSISTENCY: u32 = 20;
export const STATUS_KEY_ALREADY_EXISTS: u32 = 2004;

export const FLAG_EXISTED: u32 = 1;
/** The key is there under another family; nothing was done. */
export const FLAG_OTHER_FAMILY: u32 = 2;

// Families: what a key is. 0 host object, 1 published (one-time), 2 device cache.
export const FAMILY_DEVICE_CACHE: u32 = 2;
export const FAMILY_MAX: u32 = 2;
/** Lookups only: whichever it is. */
export const FAMILY_ANY: u32 = 255;

export const EXISTENCE_SKIP: u32 = 0;
export const EXISTENCE_FAIL: u32 = 1;
export const EXISTENCE_REPLACE: u32 = 2;

/** Longest key under any rule, without its tenant; the directory holds none that is longer. */
export const KEY_BYTES_MAX: u32 = 1024;
export const MEMBER_ID_MAX: u32 = 65535;
export const LOCATIONS_MAX: u32 = 4;

//  KeyBatch
//  ╒═══════╤══════════╤══════════════════╤═════════════════════╤═════════════╕
//  │ count │ keyBytes │ ends u32 x count │ bytes u8 x keyBytes │ zeros to 8  │
//  ╘═══════╧══════════╧══════════════════╧═════════════════════╧═════════════╛
//  0       4          8                  8 + 4 x count
@unmanaged
export class KeyBatchHeader {
  count: u32;
  keyBytes: u32;
}
export const KEY_BATCH_HEADER_BYTES: usize = 8;

//  ResultRecord, 64 bytes
//  0 code │ 4 flags │ 8 generation │ 16 bytes │ 24 locationCount │ 28 family │ 32 (member u32 │ slot u32) x 4
@unmanaged
export class ResultRecord {
  code: u32;
  flags: u32;
  generation: u64;
  bytes: u64;
  locationCount: u32;
  family: u32;
}
export const RESULT_RECORD_BYTES: usize = 64;
export const RESULT_LOCATIONS_OFFSET: usize = 32;
export const LOCATION_BYTES: usize = 8;

//  CommitRecord, 24 bytes
//  0 generation │ 8 bytes │ 16 slot │ 20 member
@unmanaged
export class CommitRecord {
  generation: u64;
  bytes: u64;
  slot: u32;
  member: u32;
}
export const COMMIT_RECORD_BYTES: usize = 24;

//  SliceRecord, 32 bytes
//  0 keyIndex │ 4 member │ 8 lane │ 12 firstBlob │ 16 offset │ 24 bytes
@unmanaged
export class SliceRecord {
  keyIndex: u32;
  member: u32;
  lane: u32;
  firstBlob: u32;
  offset: u64;
  bytes: u64;
}
export const SLICE_RECORD_BYTES: usize = 32;

//  MemberRecord, 16 bytes: one member of a ring; the names follow the records
//  0 id │ 4 tokens │ 8 nameOffset │ 12 nameBytes
@unmanaged
export class MemberRecord {
  id: u32;
  tokens: u32;
  nameOffset: u32;
  nameBytes: u32;
}
export const MEMBER_RECORD_BYTES: usize = 16;

//  GroupRecord, 24 bytes: the keys of one owner; `indexes` and `batch` are pointers
//  0 member │ 4 count │ 8 indexes │ 12 batch │ 16 batchBytes │ 20 cursor (used while filling)
@unmanaged
export class GroupRecord {
  member: u32;
  count: u32;
  indexes: u32;
  batch: u32;
  batchBytes: u32;
  cursor: u32;
}
export const GROUP_RECORD_BYTES: usize = 24;
