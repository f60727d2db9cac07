/**
 * Taking: what members say to each other as one of them leaves: how much room there is, and which objects to take over.
 * The serving half asks this member's sidecar; the asking half reaches any member.
 *
 * The member that is to have an object reads it, as a reader does, and then is a location of it: the one that leaves
 * must only lend it, and drops its own when it is told that the other one has it.
 */
import { HbmeshError, StatusCode } from "../base/errors.js";
import { encodeKeys } from "../decision/index.js";
import type { HolderService } from "../gen/hbmesh/v1/directory_pb.js";
import type { LinkServiceImpl } from "../rpc/link-routes.js";
import { TAKE_RECORD_BYTES } from "./layout-constants.js";
import type { Peers } from "./peers.js";
import { alignTo8, decodeCodes, encodeCodes } from "./records.js";
import type { SidecarLink } from "./sidecar-link.js";

/** An object that is to be taken over, and what is needed for that. */
export interface OfferedObject {
  key: string;
  generation: bigint;
  /** Of its payload. */
  bytes: number;
  slot: number;
  blobSizes: readonly bigint[];
  pin: number;
}

export interface TakingOptions {
  /** This member's sidecar; throws NOT_READY while there is none, NOT_FOUND if it never has one. */
  sidecar: () => SidecarLink;
  requestTimeoutMs: number;
}

/**
 * A transfer that is slower than this, in bytes a millisecond, is given up by the sidecar that reads (its
 * --floor_mb_s).
 */
const FLOOR_BYTES_PER_MS = 10_000;
/** More than the sidecar allows beyond that, so that its answer comes first. */
const SETUP_MS = 10_000;

/** Largest question of objects to take over: far below a message's limit. */
const OBJECTS_MAX = 1_000;

function takeTimeoutMs(bytes: number, requestTimeoutMs: number): number {
  return SETUP_MS + requestTimeoutMs + Math.ceil(bytes / FLOOR_BYTES_PER_MS);
}

/** Answers for this member's own sidecar. */
export function createTakingService(
  options: TakingOptions,
): Pick<LinkServiceImpl<typeof HolderService>, "room" | "take"> {
  const { sidecar, requestTimeoutMs } = options;
  return {
    async room() {
      return { roomBytes: (await sidecar().stats(requestTimeoutMs)).roomBytes };
    },
    async take({ count, objects, memberId }) {
      if (count < 1 || count > OBJECTS_MAX || objects.byteLength < count * TAKE_RECORD_BYTES) {
        throw new HbmeshError(StatusCode.INVALID, `${objects.byteLength} bytes are no ${count} objects to take over`);
      }
      const view = new DataView(objects.buffer, objects.byteOffset, objects.byteLength);
      let bytes = 0;
      for (let at = objects.byteLength - count * TAKE_RECORD_BYTES; at < objects.byteLength; at += TAKE_RECORD_BYTES) {
        bytes += Number(view.getBigUint64(at + 8, true));
        if (view.getUint32(at + 20, true) !== memberId) {
          throw new HbmeshError(StatusCode.INVALID, `member ${memberId} spoke for objects of another one`);
        }
      }
      return { codes: encodeCodes(await sidecar().take(objects, count, takeTimeoutMs(bytes, requestTimeoutMs))) };
    },
  };
}

/** The room at this member; 0 with the cause if it can't be told. */
export async function askRoom(
  peers: Peers,
  member: number,
  timeoutMs: number,
): Promise<{ roomBytes: bigint; fault: HbmeshError | undefined }> {
  try {
    return { roomBytes: (await peers.get(member).holder.room({}, { timeoutMs })).roomBytes, fault: undefined };
  } catch (reason) {
    return { roomBytes: 0n, fault: peers.errorOf(member, reason) };
  }
}

/**
 * Has a member take objects of this one over. One code an object; rejects when it can't be asked, and then nothing is
 * known of any.
 */
export async function askToTake(
  peers: Peers,
  member: number,
  {
    selfId,
    objects,
    requestTimeoutMs,
  }: { selfId: number; objects: readonly OfferedObject[]; requestTimeoutMs: number },
  signal: AbortSignal,
): Promise<number[]> {
  const bytes = objects.reduce((sum, object) => sum + object.bytes, 0);
  const question = { memberId: selfId, count: objects.length, objects: encodeOffered(objects, selfId) };
  try {
    const timeoutMs = takeTimeoutMs(bytes, requestTimeoutMs) + requestTimeoutMs;
    const reply = await peers.get(member).holder.take(question, { timeoutMs, signal });
    return decodeCodes(reply.codes, objects.length);
  } catch (reason) {
    throw peers.errorOf(member, reason);
  }
}

/** KeyBatch │ blobEnds u32 x count, padded to 8 │ blob sizes u64 x total │ TakeRecord x count */
export function encodeOffered(objects: readonly OfferedObject[], member: number): Uint8Array {
  const keys = encodeKeys(objects.map(({ key }) => key));
  const blobs = objects.reduce((sum, { blobSizes }) => sum + blobSizes.length, 0);
  const endsAt = keys.byteLength;
  const sizesAt = endsAt + alignTo8(4 * objects.length);
  const recordsAt = sizesAt + 8 * blobs;
  const payload = new Uint8Array(recordsAt + TAKE_RECORD_BYTES * objects.length);
  payload.set(keys);
  const view = new DataView(payload.buffer);
  let blob = 0;
  objects.forEach((object, index) => {
    for (const size of object.blobSizes) {
      view.setBigUint64(sizesAt + 8 * blob, size, true);
      blob++;
    }
    view.setUint32(endsAt + 4 * index, blob, true);
    const at = recordsAt + TAKE_RECORD_BYTES * index;
    view.setBigUint64(at, object.generation, true);
    view.setBigUint64(at + 8, BigInt(object.bytes), true);
    view.setUint32(at + 16, object.slot, true);
    view.setUint32(at + 20, member, true);
    view.setUint32(at + 24, object.pin, true);
  });
  return payload;
}

/**
 * What an object takes of an arena (ObjectStore::ExtentBytes): header, blob sizes and key, and the payload behind them,
 * each to a multiple of 64.
 */
export function extentBytes(key: string, blobs: number, payloadBytes: number): number {
  const alignTo64 = (bytes: number): number => Math.ceil(bytes / 64) * 64;
  return alignTo64(alignTo64(48 + 8 * blobs + Buffer.byteLength(key)) + payloadBytes);
}
