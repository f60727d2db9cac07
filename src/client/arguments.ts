/**
 * What can be told wrong about a call before it is sent, and the flat form that the client core takes. Which keys are
 * allowed is not decided here but by the sidecar, with the table that comes from the Wasm module.
 */
import { HbmeshError, StatusCode } from "../base/errors.js";
import { nearestName } from "../base/nearest-name.js";
import { encodeKeys } from "../decision/layout.js";
import type { Blob, DeviceBlobList } from "./blobs.js";

/** A batch in the form of NativeClient.submit. */
export interface FlatBatch {
  deviceIndex: number;
  keys: Uint8Array;
  keyCount: number;
  blobEnds: Uint32Array;
  pointers: BigUint64Array;
  sizes: BigUint64Array;
  /** Of all blobs together. */
  totalBytes: bigint;
}

const U64_MAX = 2n ** 64n - 1n;
/** Characters of a key that a message shows. */
const KEY_SHOWN_MAX = 64;

function invalid(message: string, key?: string): HbmeshError {
  return new HbmeshError(StatusCode.INVALID, message, key === undefined ? {} : { key });
}

/** `key "name" (number 3)`, counted from 1, as the sidecar names keys. */
export function nameKey(key: string, index: number): string {
  const shown = key.length > KEY_SHOWN_MAX ? `${key.slice(0, KEY_SHOWN_MAX)}…` : key;
  return `key ${JSON.stringify(shown)} (number ${index + 1})`;
}

/** An array of 1 to keysMax strings. */
export function checkKeys(keys: readonly string[], keysMax: number): void {
  if (!Array.isArray(keys)) {
    throw invalid("keys must be an array of strings");
  }
  if (keys.length === 0) {
    throw invalid("no keys given: a call needs at least one");
  }
  if (keys.length > keysMax) {
    throw invalid(
      `${grouped(keys.length)} keys in one call, at most ${grouped(keysMax)} are allowed: make several calls`,
    );
  }
  const wrong = keys.findIndex((key) => typeof key !== "string");
  if (wrong >= 0) {
    throw invalid(`key number ${wrong + 1} is a ${typeof keys[wrong]}: keys are strings`);
  }
}

/** Checks keys for a call without blobs. */
export function flattenKeys(keys: readonly string[], keysMax: number): FlatBatch {
  checkKeys(keys, keysMax);
  return {
    deviceIndex: 0,
    keys: encodeKeys(keys),
    keyCount: keys.length,
    blobEnds: new Uint32Array(0),
    pointers: new BigUint64Array(0),
    sizes: new BigUint64Array(0),
    totalBytes: 0n,
  };
}

export interface BatchLimits {
  keysMax: number;
  /** Devices of the node. */
  deviceCount: number;
  /** The worker, for messages. */
  node: string;
}

/**
 * Checks a set or get and flattens it. Errors in this order: keys, numbers of lists, then list by list, each with its
 * blobs.
 */
export function flattenBatch(
  keys: readonly string[],
  blobLists: readonly DeviceBlobList[],
  limits: BatchLimits,
): FlatBatch {
  checkKeys(keys, limits.keysMax);
  if (!Array.isArray(blobLists) || blobLists.length !== keys.length) {
    const given = Array.isArray(blobLists) ? `${blobLists.length} blob lists` : "no array of blob lists";
    throw invalid(`${keys.length} keys but ${given}: give one DeviceBlobList for each key`);
  }
  let blobCount = 0;
  for (const [index, list] of blobLists.entries()) {
    const key = keys[index] as string;
    checkList(list, blobLists[0] as DeviceBlobList, key, index, limits);
    for (const [number, blob] of list.blobs.entries()) {
      checkBlob(blob, number, key, index);
    }
    blobCount += list.blobs.length;
  }
  const batch: FlatBatch = {
    deviceIndex: (blobLists[0] as DeviceBlobList).deviceIndex,
    keys: encodeKeys(keys),
    keyCount: keys.length,
    blobEnds: new Uint32Array(keys.length),
    pointers: new BigUint64Array(blobCount),
    sizes: new BigUint64Array(blobCount),
    totalBytes: 0n,
  };
  let at = 0;
  for (const [index, list] of blobLists.entries()) {
    for (const blob of list.blobs) {
      batch.pointers[at] = blob.pointer;
      batch.sizes[at] = blob.size;
      batch.totalBytes += blob.size;
      at += 1;
    }
    batch.blobEnds[index] = at;
  }
  return batch;
}

function checkList(list: DeviceBlobList, first: DeviceBlobList, key: string, index: number, limits: BatchLimits): void {
  const name = nameKey(key, index);
  if (typeof list !== "object" || list === null || !Array.isArray(list.blobs)) {
    throw invalid(`${name} has no DeviceBlobList: give new DeviceBlobList(deviceIndex, blobs)`, key);
  }
  if (!Number.isInteger(list.deviceIndex) || list.deviceIndex < 0) {
    throw invalid(`${name} has device index ${String(list.deviceIndex)}: it must be an integer from 0 on`, key);
  }
  if (list.deviceIndex >= limits.deviceCount) {
    const has = limits.deviceCount === 0 ? "it has none" : `its devices are 0 to ${limits.deviceCount - 1}`;
    throw invalid(`${name} is on device ${list.deviceIndex}, which worker ${limits.node} doesn't have: ${has}`, key);
  }
  if (list.deviceIndex !== first.deviceIndex) {
    throw invalid(
      `${name} is on device ${list.deviceIndex}, the keys before it on device ${first.deviceIndex}: ` +
        "make one call for each device",
      key,
    );
  }
  if (list.blobs.length === 0) {
    throw invalid(`${name} has no blobs: give at least one`, key);
  }
}

function checkBlob(blob: Blob, number: number, key: string, index: number): void {
  const name = (): string => `blob ${number} of ${nameKey(key, index)}`;
  if (typeof blob !== "object" || blob === null) {
    throw invalid(`${name()} is no Blob: give new Blob(pointer, size)`, key);
  }
  const fault = rangeFault(blob.pointer, blob.size);
  if (fault !== undefined) {
    throw invalid(`${name()} ${fault}`, key);
  }
}

/** What is wrong with a pointer and a size, or undefined. */
function rangeFault(pointer: unknown, size: unknown): string | undefined {
  if (typeof pointer !== "bigint") {
    return `has a pointer of type ${typeof pointer}: pointers are bigint, as SimDevice.allocate returns them`;
  }
  if (pointer <= 0n || pointer > U64_MAX) {
    return `has pointer ${pointer}: give the address of device memory`;
  }
  if (typeof size !== "bigint") {
    return `has a size of type ${typeof size}: sizes are bigint, write 4096n or BigInt(bytes)`;
  }
  if (size <= 0n || size > U64_MAX) {
    return `has size ${size}: a blob has at least 1 byte`;
  }
  return undefined;
}

/** Checks the ranges of preRegisterDeviceMemory and flattens them. */
export function flattenRanges(
  pointers: readonly bigint[],
  sizes: readonly bigint[],
): { pointers: BigUint64Array; sizes: BigUint64Array } {
  if (!Array.isArray(pointers) || !Array.isArray(sizes) || pointers.length !== sizes.length) {
    throw invalid(`${pointers?.length} pointers but ${sizes?.length} sizes: give one size for each pointer`);
  }
  for (const [index, pointer] of pointers.entries()) {
    const fault = rangeFault(pointer, sizes[index]);
    if (fault !== undefined) {
      throw invalid(`range ${index} ${fault}`);
    }
  }
  return { pointers: BigUint64Array.from(pointers), sizes: BigUint64Array.from(sizes) };
}

/**
 * The options of a call, or of the client. Throws INVALID for one that isn't known: left out in silence it would look
 * as if it worked.
 */
export function checkOptions(options: object, known: readonly string[]): void {
  if (typeof options !== "object" || options === null) {
    throw invalid(
      `options must be an object, as in { ${known[0]}: ... }, not ${options === null ? "null" : typeof options}`,
    );
  }
  for (const name in options) {
    if (!known.includes(name)) {
      const nearest = nearestName(name, known);
      const meant = nearest === undefined ? "" : ` (did you mean ${nearest}?)`;
      throw invalid(`there is no option ${name}${meant}: options are ${known.join(", ")}`);
    }
  }
}

/** A number option: finite, at least 0, at most `max`. */
export function checkNumber(value: number, name: string, unit: string, max: number): number {
  if (typeof value !== "number" || !Number.isFinite(value) || value < 0 || value > max) {
    throw invalid(`${name} is ${String(value)}: it must be a number of ${unit} from 0 to ${grouped(max)}`);
  }
  return value;
}

function grouped(count: number): string {
  return count.toLocaleString("en-US");
}
