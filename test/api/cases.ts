/**
 * The API suite: what the TypeScript client and the C API both promise. Each case is there twice under the same name:
 * in a test file of this folder, and in C in native/capi/suite, which capi.test.ts runs. A case that one side lacks
 * fails that side's test.
 *
 * Not in the table, since only one side has it: signals that are aborted already (TypeScript, precedence.test.ts),
 * NULLs and sizes of structs (C, capi_test), sixteen devices at once (exchange.test.ts), random operations against a
 * model (model.test.ts).
 */
import type { LocalClusterOptions } from "../../src/cli/local-cluster.js";

export interface ApiGroup {
  /** What its workers need beyond the default. */
  readonly cluster?: Pick<LocalClusterOptions, "sharedMemorySizeMb"> & { tenants?: true };
  readonly cases: readonly string[];
}

export const apiGroups = {
  "host objects": {
    cases: [
      "a set at one worker is found from any, locally and remotely, with its path",
      "skip: the first write wins and the second says existed",
      "fail: the second write gets KEY_ALREADY_EXISTS and changes nothing",
      "replace: both workers read the new bytes, whichever wrote them",
      "replace with another shape: readers of the old shape are told both",
      "replace: who reads meanwhile sees the old bytes or the new ones",
      "a get waits for a key that is set meanwhile, and one missing key holds up no other",
      "a get that waits ends when it is cancelled",
      "a get that waits ends when its client is closed",
      "delete removes for everybody; deleting what isn't there is OK",
      "getMetaInfo tells blob sizes from either worker",
      "explain tells where an object is, and of a key that isn't there that it is nowhere",
      "many keys in one call arrive each in its place",
      "two clients set the same key at once: one wins whole, the other says existed",
      "a client asks for the worker's health, registers memory ahead, and makes keys",
    ],
  },
  "life of host objects": {
    cluster: { sharedMemorySizeMb: 16 },
    cases: [
      "an object is gone when its time is over, and no other",
      "full of pinned objects: OUT_OF_MEMORY, what is there stays, a delete makes room",
      "full: KEY_ALREADY_EXISTS before OUT_OF_MEMORY, and that before another family",
      "what is not pinned makes room before what is pinned softly, and is then a miss everywhere",
      "an object with a checksum is read back, locally and remotely",
    ],
  },
  "bad input": {
    cases: [
      "an empty key: INVALID, and the good key beside it is not set",
      "a key of 256 bytes: INVALID, and the good key beside it is not set",
      "a key with a space in it: INVALID, and the good key beside it is not set",
      "a key with a slash in it: INVALID, and the good key beside it is not set",
      "a key with a dot in it (rule strict): INVALID, and the good key beside it is not set",
      "a key with a letter beyond ASCII: INVALID, and the good key beside it is not set",
      "a key of 255 bytes is allowed",
      "a key twice in one call: INVALID naming it",
      "no keys at all, or not as many as blob lists: INVALID",
      "a blob of size 0: INVALID naming the key",
      "no blobs: INVALID naming the key",
      "a pointer that is no device memory: INVALID naming the key and the pointer",
      "a blob longer than its memory: INVALID naming the key and the memory's size",
      "a blob in memory that was freed: INVALID naming the key",
      "a device that doesn't exist: INVALID naming it and how many there are",
      "two devices in one batch: INVALID naming the key and the device",
      "a get of another count of blobs than the set's: INVALID naming both, locally and remotely",
      "a get of another size than the set's: INVALID naming both, locally and remotely",
      "a get of the same bytes, split otherwise: INVALID naming both, locally and remotely",
      "an unknown key without waiting: NOT_FOUND at once, the others are read",
      "an unknown key with waiting: NOT_FOUND after the wait, which the message names",
      "no worker at the address: NO_AVAILABLE_WORKER naming it",
      "a call before init: NOT_READY; after close: SHUTTING_DOWN",
      "options and times that don't exist: INVALID",
      "registering what is no device memory: INVALID naming the range",
    ],
  },
  "publish and subscribe": {
    cases: [
      "publish, then subscribe: the bytes arrive, both futures end, the path is named",
      "subscribe may come first",
      "publishing the same memory again is a retry: both futures end with the transfer",
      "other memory, or another client's key: INVALID; what was published stands",
      "the same card at both ends: INVALID, naming it; another card gets it",
      "other blobs than the publisher's: INVALID, naming both; the object is free for the next",
      "the object is gone after it was received, and the key is free for other memory",
      "of two subscribers one gets it; the other waits for the next publish",
      "many keys in one call arrive each in its place; a key that can't be published holds up no other",
      "cancel ends one key alone, at either end",
      "cancelling a whole subscription ends each of its keys",
      "nobody publishes in time: FUTURE_TIMEOUT with the key",
      "a future's wait is from 0 to 1,800,000 ms, and it may be asked again",
      "closing the client ends its futures with SHUTTING_DOWN, and its offers are gone",
    ],
  },
  families: {
    cases: [
      "a published key is for devSubscribe only",
      "a set key and a cached key are for no subscriber, and not for each other's calls",
    ],
  },
  "a client process is killed": {
    cases: [
      "the publisher: its key is gone, and another may publish it to whoever waits",
      "the subscriber that waits: what is published then goes to another",
      "the setter of a cached object: it is not found any more",
      "the decode side: pushers are told",
    ],
  },
  "device cache": {
    cases: [
      "many readers at once, all of them further sources, all bytes right",
      "the same again is OK and existed; other memory or client, the same card, other blobs: INVALID",
      "existence fail: the second devMSet gets KEY_ALREADY_EXISTS; replace: INVALID",
      "devDelete during use: who reads ends whole or is told; then nobody finds it",
      "devLocalDelete takes back only what this client offers: who shared, also on the setter's worker, serves on",
      "devLocalDelete by who offers nothing changes nothing; by the only holder it ends the object",
      "devMGet waits for what is set meanwhile",
      "devMGet that waits ends when it is cancelled",
    ],
  },
  layers: {
    cases: [
      "in order: each layer's bytes are there when it resolves",
      "out of order: each layer's bytes are there when it resolves",
      "pushes while a layer is awaited, all at once",
      "twice: KEY_ALREADY_EXISTS; out of range: OUT_OF_RANGE; other blobs: INVALID naming both",
      "no ticket: INVALID; wrong secret: NOT_AUTHORIZED; unknown or ended: NOT_FOUND",
      "expired: the layers end with FUTURE_TIMEOUT, and pushes get NOT_FOUND",
      "a ticket's life is at most 1,800 s: INVALID above",
    ],
  },
  limits: {
    cluster: { sharedMemorySizeMb: 256 },
    cases: [
      "one key too many: INVALID naming the limit, in every call, and nothing is done",
      "10,000 keys are set, read and deleted in one call each",
      "10,000 keys are published and subscribed in one call each",
      "10,000 keys are cached on devices, read and deleted in one call each",
      "10,000 layers are reserved in one call, and the last one is pushed",
      "100,000 keys are asked for in one call of exist, and of getMetaInfo",
      "metadata of more blobs than one answer carries comes whole, from either worker",
      "a call larger than the queue: OUT_OF_RANGE, and nothing is done",
      "1,024 calls of a client are under way; one more: TRY_AGAIN, until one has ended",
    ],
  },
  tenants: {
    cluster: { tenants: true },
    cases: [
      "the same key of two tenants is two host objects, at either worker",
      "published and cached keys of a tenant are not there for another",
      "no token, or one that nobody has: NOT_AUTHORIZED, and no message has the token",
      "messages name keys as their tenant wrote them",
    ],
  },
  "precedence of errors": {
    cases: [
      "NOT_READY before anything that is wrong with a call",
      "SHUTTING_DOWN before anything that is wrong with a call",
      "options and times before the number of keys",
      "the number of keys before devices and blobs",
      "the device before the blobs, and the blobs' sizes before their memory",
      "the blobs' memory, the first one's first, before which keys are allowed",
      "which keys are allowed, the first one's fault first, before keys that come twice",
      "what is wrong with the blobs before a call that is too large, and that before which keys are allowed",
      "of a key: its family, then whose it is, then the card, then the blobs",
      "of a push: ticket, secret, layer, pushed before, blobs; of a wait: layer, time",
    ],
  },
} as const satisfies Record<string, ApiGroup>;

export type GroupName = keyof typeof apiGroups;
export type CaseName<Group extends GroupName> = (typeof apiGroups)[Group]["cases"][number];

/** Where each group runs. */
export const places = [
  { place: "two workers over tcp", transport: "tcp", workers: 2 },
  { place: "two workers over shm", transport: "shm", workers: 2 },
  { place: "one worker", transport: "tcp", workers: 1 },
] as const;

/** Tokens of the tenants that a group's workers know, one "token tenant" a line. */
export const tenantsFile = "token-red red\ntoken-blue blue\ntoken-default default\n";
