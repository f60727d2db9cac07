/**
 * Operations, flags and sizes of the messages between control process and sidecar, as far as TypeScript needs them. The
 * definition is native/queue/layout.h; test/contract/layout.test.ts compares the two.
 */

export const Op = {
  cancel: 6,
  explain: 15,
  // Sidecar -> control.
  reserve: 32,
  commit: 33,
  lookup: 34,
  remove: 35,
  presence: 36,
  meta: 37,
  reportMissing: 38,
  sessions: 39,
  addLocation: 40,
  forgetLocations: 41,
  explainOwner: 42,
  // Control -> sidecar.
  drop: 64,
  describe: 65,
  listHeld: 66,
  peers: 67,
  stats: 68,
  shutdown: 69,
  drain: 70,
  take: 71,
  reach: 72,
} as const;

export const FLAG_REPLY = 1;
export const FLAG_MORE = 2;

// Records of lookups and figures; those that Wasm knows too are in src/decision/layout.ts.
export const LOOKUP_REPLY_BYTES = 16;
export const FOUND_RECORD_BYTES = 80;
export const SIDECAR_STATS_BYTES = 152;
export const TAKE_RECORD_BYTES = 32;

// Flags of what kDescribe tells.
export const HELD_PIN_MASK = 3;
export const HELD_SPILLED = 8;
export const HELD_SEALED = 16;

/** args[2] of a reply to kListHeld: what it lists are copies of other workers' objects. */
export const LISTED_COPIES = 1n;

export const KEYS_PER_CALL_MAX = 10_000;
export const KEYS_PER_QUERY_MAX = 100_000;
/** Payload of one message: half of a session's payload ring (native/queue/channel.h). */
export const MESSAGE_PAYLOAD_BYTES_MAX = 32 * 2 ** 20;
