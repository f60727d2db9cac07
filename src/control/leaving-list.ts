/**
 * What a member that is about to leave holds: host objects with what another one needs to take them over, where else
 * they are, and how many device objects end with it.
 */
import { StatusCode } from "../base/errors.js";
import { decodeKey, encodeKeys, FAMILY_DEVICE_CACHE, keyCountOf, readCommit } from "../decision/index.js";
import { HELD_PIN_MASK, HELD_SPILLED, KEYS_PER_CALL_MAX } from "./layout-constants.js";
import type { OwnerCalls } from "./owner-calls.js";
import type { HeldChunk, SidecarLink } from "./sidecar-link.js";
import { extentBytes, type OfferedObject } from "./taking.js";

export interface LeavingObject extends OfferedObject {
  /** What it takes of an arena. */
  extentBytes: number;
  /** Its bytes are on the SSD tier. */
  isSpilled: boolean;
  /** Other members that are locations of this very version. */
  elsewhere: readonly number[];
}

export interface LeavingList {
  objects: LeavingObject[];
  deviceCached: number;
  published: number;
  /** Objects that the owners could not tell of: they are asked again. */
  undecided: number;
}

export interface ListOptions {
  sidecar: SidecarLink;
  calls: OwnerCalls;
  requestTimeoutMs: number;
  signal: AbortSignal;
}

const FAMILY_HOST = 0;
const LIST_TIMEOUT_MS = 60_000;
/** As for holders.describe: of 512 blobs each, these are answered with 4 MiB. */
const OBJECTS_PER_DESCRIPTION = 1_000;

type Held = Pick<LeavingObject, "key" | "generation" | "slot" | "bytes">;

/** Rejects when the sidecar can't be asked. */
export async function listLeaving(options: ListOptions): Promise<LeavingList> {
  const { sidecar, signal } = options;
  const list: LeavingList = { objects: [], deviceCached: 0, published: 0, undecided: 0 };
  const held: Held[] = [];
  await sidecar.listHeld((chunk) => takeChunk(chunk, held, list), LIST_TIMEOUT_MS);
  for (let from = 0; from < held.length && !signal.aborted; from += KEYS_PER_CALL_MAX) {
    const part = held.slice(from, from + KEYS_PER_CALL_MAX);
    list.objects.push(...(await locate(part, options, list)));
  }
  return list;
}

function takeChunk(chunk: HeldChunk, held: Held[], list: LeavingList): void {
  const count = keyCountOf(chunk.keys);
  if (chunk.family !== FAMILY_HOST) {
    list[chunk.family === FAMILY_DEVICE_CACHE ? "deviceCached" : "published"] += count;
    return;
  }
  for (let index = 0; index < count; index++) {
    const { generation, slot, bytes } = readCommit(chunk.records, index);
    held.push({ key: decodeKey(chunk.keys, index), generation, slot, bytes: Number(bytes) });
  }
}

/**
 * Those that their owners know at this member under this very version. What they don't know any more is about to be
 * dropped, and not to be moved.
 */
async function locate(held: readonly Held[], options: ListOptions, list: LeavingList): Promise<LeavingObject[]> {
  const { calls, signal } = options;
  const keys = encodeKeys(held.map(({ key }) => key));
  const { results } = await calls.ask({ method: "lookup", keys, signal });
  const { selfId, members } = calls.view;
  const known: { held: Held; elsewhere: number[] }[] = [];
  held.forEach((object, index) => {
    const code = results.code(index);
    if (code === StatusCode.OK && results.generation(index) === object.generation) {
      const others = results.locations(index).map(({ member }) => member);
      known.push({ held: object, elsewhere: others.filter((member) => member !== selfId && members.has(member)) });
    } else if (code !== StatusCode.OK && code !== StatusCode.NOT_FOUND) {
      list.undecided++;
    }
  });
  const objects: LeavingObject[] = [];
  for (let from = 0; from < known.length; from += OBJECTS_PER_DESCRIPTION) {
    const part = known.slice(from, from + OBJECTS_PER_DESCRIPTION);
    const described = await options.sidecar.describe(
      part.map(({ held: { generation, slot } }) => ({ generation, slot })),
      options.requestTimeoutMs,
    );
    part.forEach(({ held: object, elsewhere }, at) => {
      const { code, blobSizes, flags } = described[at] ?? { code: StatusCode.NOT_FOUND, blobSizes: [], flags: 0 };
      if (code === StatusCode.OK) {
        const extent = extentBytes(object.key, blobSizes.length, object.bytes);
        const isSpilled = (flags & HELD_SPILLED) !== 0;
        objects.push({ ...object, blobSizes, pin: flags & HELD_PIN_MASK, extentBytes: extent, isSpilled, elsewhere });
      }
    });
  }
  return objects;
}
