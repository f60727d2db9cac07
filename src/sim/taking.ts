/**
 * How a simulated sidecar takes objects of a worker that leaves over (native/sidecar/takes.h): the payload of kTake,
 * and an object's way.
 */
import { HbmeshError, StatusCode } from "../base/errors.js";
import { TAKE_RECORD_BYTES } from "../control/layout-constants.js";
import { splitKeys } from "../control/records.js";
import { decodeKeys, type ResultRecord, viewOf } from "../decision/index.js";
import type { SimMemory, SimObject } from "./memory.js";

export interface WantedObject {
  key: string;
  generation: bigint;
  slot: number;
  member: number;
}

export function decodeTake(payload: Uint8Array, count: number): WantedObject[] {
  const keys = decodeKeys(splitKeys(payload).keys);
  const view = viewOf(payload);
  const recordsAt = payload.byteLength - count * TAKE_RECORD_BYTES;
  return keys.map((key, index) => {
    const at = recordsAt + index * TAKE_RECORD_BYTES;
    const generation = view.getBigUint64(at, true);
    return { key, generation, slot: view.getUint32(at + 16, true), member: view.getUint32(at + 20, true) };
  });
}

export interface TakeSteps {
  memory: SimMemory;
  /** The object at its source: undefined if it is not there any more. */
  read: (wanted: WantedObject) => Promise<SimObject | undefined>;
  /**
   * Tells the owner of the new location; undefined: it can't be asked. The object is sealed as soon as it agrees, in
   * `then`.
   */
  addLocation: (object: SimObject, then: (result: ResultRecord) => void) => Promise<StatusCode>;
}

export async function takeOne(wanted: WantedObject, { memory, read, addLocation }: TakeSteps): Promise<StatusCode> {
  const here = memory.sealed(wanted.key);
  if (here !== undefined && here.generation >= wanted.generation) {
    here.isCopy &&= here.generation !== wanted.generation;
    return here.generation === wanted.generation ? StatusCode.OK : StatusCode.NOT_FOUND;
  }
  let content: number;
  try {
    const source = await read(wanted);
    if (source === undefined) {
      return StatusCode.NOT_FOUND;
    }
    content = source.content;
  } catch (reason) {
    const { code } = HbmeshError.from(reason);
    return code === StatusCode.OK ? StatusCode.RPC_PEER_DEAD : code;
  }
  const object = memory.allocate(wanted.key, content);
  object.generation = wanted.generation;
  let isSealed = false;
  const code = await addLocation(object, () => {
    isSealed = memory.seal(object);
  });
  if (code !== StatusCode.OK) {
    memory.drop(object);
    return code;
  }
  return isSealed ? StatusCode.OK : StatusCode.NOT_FOUND;
}
