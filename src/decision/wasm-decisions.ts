/**
 * Decisions from the Wasm module: copies input into its memory, calls, and copies the result out.
 *
 * One instance is used by one caller at a time; nothing here is asynchronous, so that is given. The module's memory may
 * grow in any call, which makes every view of it void.
 */
import { HbmeshError, StatusCode } from "../base/errors.js";
import type {
  Decisions,
  Directory,
  ExistenceMode,
  Family,
  KeyBatch,
  KeyFault,
  KeyOrigin,
  KeyRule,
  PlanRequest,
  RingMember,
} from "./decisions.js";
import { type FAMILY_ANY, RESULT_RECORD_BYTES, readU32, SLICE_RECORD_BYTES } from "./layout.js";
import { type DecisionExports, instantiateDecisions } from "./module.js";

export interface DecisionOptions {
  /** Most memory that the module takes, in bytes. Defaults to 4 GiB, which is all that it can address. */
  memoryBytesMax?: bigint;
  /**
   * 64 bits that seed the hashes of the directory and of the search for duplicates, so that nobody who does not know
   * them can choose keys that make these slow. Defaults to 0, and every instance then works alike. Answers don't depend
   * on it, nor does the ring.
   */
  hashSeed?: bigint;
}

/** A fresh instance: no ring, an empty directory. */
export function createDecisions(options: DecisionOptions = {}): Decisions {
  return new WasmDecisions(instantiateDecisions(), options);
}

// As in asm/layout.ts and asm/key.ts.
const CALL_OK = 0;
const CALL_MALFORMED_BATCH = 1;
const CALL_MALFORMED_RECORDS = 2;
const CALL_OUT_OF_MEMORY = 3;
const CALL_BAD_ARGUMENT = 4;

const RULES: Record<KeyRule, number> = { strict: 0, extended: 1 };
const REASON_OUT_OF_MEMORY = 8;
const REASONS: readonly (KeyFault["reason"] | undefined)[] = [
  undefined,
  "malformed-batch",
  "too-many",
  "none",
  "empty",
  "too-long",
  "forbidden-byte",
  "duplicate",
];

const MEMBER_RECORD_BYTES = 16;
const GROUP_RECORD_BYTES = 24;
/** One call's input. Far above the largest batch: 100,000 keys of 1,024 bytes. */
const INPUT_BYTES_MAX = 1 << 30;
const U32_LIMIT = 2 ** 32;
/** Rotations of 1 to 4 locations repeat after so many. */
const ROTATIONS = 12;

/** Moves bytes into and out of the module's memory. */
class Border {
  /** All of the module's memory. When that grows, this becomes empty. */
  #memory: Uint8Array;

  constructor(readonly wasm: DecisionExports) {
    this.#memory = new Uint8Array(wasm.memory.buffer);
  }

  /** Copies an input in, and returns its pointer. */
  write(input: Uint8Array): number {
    const pointer = this.#begin(alignTo16(checkInput(input.byteLength)));
    this.memory.set(input, pointer);
    return pointer;
  }

  /** Copies two inputs in, one behind the other. */
  writeTwo(first: Uint8Array, second: Uint8Array): [number, number] {
    const secondAt = alignTo16(checkInput(first.byteLength));
    const pointer = this.#begin(alignTo16(checkInput(secondAt + checkInput(second.byteLength))));
    this.memory.set(first, pointer);
    this.memory.set(second, pointer + secondAt);
    return [pointer, pointer + secondAt];
  }

  /** Copies inputs in as one, without a gap. */
  writeJoined(inputs: readonly Uint8Array[]): number {
    const pointer = this.#begin(alignTo16(checkInput(lengthOf(inputs))));
    let at = pointer;
    for (const input of inputs) {
      this.memory.set(input, at);
      at += input.byteLength;
    }
    return pointer;
  }

  /** A copy that stays valid. */
  read(pointer: number, bytes: number): Uint8Array {
    const from = pointer >>> 0;
    return this.memory.slice(from, from + bytes);
  }

  readU32(pointer: number, count: number): Uint32Array {
    return new Uint32Array(this.wasm.memory.buffer, pointer >>> 0, count).slice();
  }

  /** Not to be kept: the next call may make it void. */
  get memory(): Uint8Array {
    if (this.#memory.byteLength === 0) {
      this.#memory = new Uint8Array(this.wasm.memory.buffer);
    }
    return this.#memory;
  }

  /** Inputs lie at multiples of 16. */
  #begin(bytes: number): number {
    const pointer = this.wasm.begin(bytes) >>> 0;
    if (pointer === 0) {
      throw outOfMemory();
    }
    return pointer;
  }
}

function alignTo16(bytes: number): number {
  return (bytes + 15) & ~15;
}

function checkInput(bytes: number): number {
  if (bytes > INPUT_BYTES_MAX) {
    throw new HbmeshError(
      StatusCode.INVALID,
      `The call has more than ${INPUT_BYTES_MAX} bytes of input. Split it into smaller calls.`,
    );
  }
  return bytes;
}

class WasmDecisions implements Decisions {
  readonly directory: Directory;
  private readonly border: Border;
  private readonly wasm: DecisionExports;

  constructor(wasm: DecisionExports, options: DecisionOptions) {
    this.wasm = wasm;
    this.border = new Border(wasm);
    this.directory = new WasmDirectory(this.border);
    if (options.memoryBytesMax !== undefined) {
      wasm.limitMemory(options.memoryBytesMax);
    }
    if (options.hashSeed !== undefined) {
      wasm.setHashSeed(BigInt.asUintN(64, options.hashSeed));
    }
  }

  validateKeys(keys: KeyBatch, rule: KeyRule, keysMax: number, origin: KeyOrigin = "sidecar"): KeyFault | undefined {
    const pointer = this.border.write(keys);
    const reason = this.wasm.validateBatch(pointer, keys.byteLength, RULES[rule], keysMax, origin === "user" ? 1 : 0);
    if (reason === REASON_OUT_OF_MEMORY) {
      throw outOfMemory();
    }
    const name = REASONS[reason];
    if (name === undefined) {
      return undefined;
    }
    return { index: this.wasm.validateFaultIndex(), reason: name, detail: this.wasm.validateFaultDetail() >>> 0 };
  }

  setRing(members: readonly RingMember[]): void {
    const tokensPerWeight = this.wasm.tokensPerWeight.value as number;
    checkMembers(members, tokensPerWeight);
    const pointer = this.border.write(encodeMembers(members, tokensPerWeight));
    const length = memberBytes(members);
    raise(this.wasm.setRing(pointer, length, members.length), "the ring");
  }

  ownersOf(keys: KeyBatch): Uint32Array {
    const pointer = this.border.write(keys);
    raise(this.wasm.ownersOfBatch(pointer, keys.byteLength), "placing keys");
    return this.border.readU32(this.wasm.ringResult(), this.wasm.ringResultBytes() / 4);
  }

  keepRing(): void {
    this.wasm.keepRing();
  }

  keptOwnersOf(keys: KeyBatch): Uint32Array {
    const pointer = this.border.write(keys);
    raise(this.wasm.keptOwnersOfBatch(pointer, keys.byteLength), "placing keys");
    return this.border.readU32(this.wasm.ringResult(), this.wasm.ringResultBytes() / 4);
  }

  groupByOwner(keys: KeyBatch): { member: number; indexes: Uint32Array; keys: KeyBatch }[] {
    const pointer = this.border.write(keys);
    raise(this.wasm.groupBatch(pointer, keys.byteLength), "grouping keys");
    const count = this.wasm.ringGroupCount();
    const { memory } = this.border;
    const groups: { member: number; indexes: Uint32Array; keys: KeyBatch }[] = [];
    let at = this.wasm.ringResult() >>> 0;
    for (let group = 0; group < count; group += 1) {
      groups.push({
        member: readU32(memory, at),
        indexes: this.border.readU32(readU32(memory, at + 8), readU32(memory, at + 4)),
        keys: this.border.read(readU32(memory, at + 12), readU32(memory, at + 16)),
      });
      at += GROUP_RECORD_BYTES;
    }
    return groups;
  }

  plan(request: PlanRequest): Uint8Array {
    const { members, blobEnds, blobSizes, sliceBytesMax, lanes } = request;
    if (members.length !== blobEnds.length) {
      throw new HbmeshError(
        StatusCode.INVALID,
        `The plan has ${members.length} sources for ${blobEnds.length} keys. Give one source a key.`,
      );
    }
    if (!Number.isSafeInteger(sliceBytesMax) || sliceBytesMax < 1 || !Number.isInteger(lanes) || lanes < 1) {
      throw new HbmeshError(
        StatusCode.INVALID,
        `Slices of ${sliceBytesMax} bytes over ${lanes} lanes make no plan. Both must be whole and above 0.`,
      );
    }
    const input = [bytesOf(blobSizes), bytesOf(members), bytesOf(blobEnds)];
    const pointer = this.border.writeJoined(input);
    const { wasm } = this;
    const status = wasm.makePlan(
      pointer,
      lengthOf(input),
      members.length,
      blobSizes.length,
      BigInt(sliceBytesMax),
      lanes,
    );
    if (status === CALL_MALFORMED_RECORDS) {
      throw new HbmeshError(
        StatusCode.INVALID,
        `The plan request breaks off at key ${wasm.planFault()}: ends of blobs must not fall, blobs must be above 0 bytes, sources are members 1 to 65535.`,
      );
    }
    raise(status, "a transfer plan");
    return this.border.read(wasm.planRecords(), (wasm.planRecordCount() >>> 0) * SLICE_RECORD_BYTES);
  }

  placeMoves(sizes: BigUint64Array, rooms: BigUint64Array): Uint32Array {
    const input = [bytesOf(sizes), bytesOf(rooms)];
    const pointer = this.border.writeJoined(input);
    raise(this.wasm.placeMoves(pointer, lengthOf(input), sizes.length, rooms.length), "placing what a worker leaves");
    return this.border.readU32(this.wasm.movesPlaces(), sizes.length);
  }
}

class WasmDirectory implements Directory {
  private readonly wasm: DecisionExports;

  constructor(private readonly border: Border) {
    this.wasm = border.wasm;
  }

  reserve(keys: KeyBatch, existence: ExistenceMode, family: Family = 0): Uint8Array {
    const pointer = this.border.write(keys);
    return this.results(this.wasm.reserve(pointer, keys.byteLength, existence, family), pointer);
  }

  commit(keys: KeyBatch, records: Uint8Array, existence: ExistenceMode, family: Family = 0): Uint8Array {
    const [pointer, recordsAt] = this.border.writeTwo(keys, records);
    const status = this.wasm.commit(pointer, keys.byteLength, recordsAt, records.byteLength, existence, family);
    return this.results(status, pointer);
  }

  lookup(keys: KeyBatch, family: Family | typeof FAMILY_ANY = 0, rotate?: number): Uint8Array {
    const pointer = this.border.write(keys);
    const rotation = rotate === undefined ? 0 : 1 + (Math.abs(Math.trunc(rotate)) % ROTATIONS);
    return this.results(this.wasm.lookup(pointer, keys.byteLength, family, rotation), pointer);
  }

  remove(keys: KeyBatch, family: Family = 0): Uint8Array {
    const pointer = this.border.write(keys);
    return this.results(this.wasm.remove(pointer, keys.byteLength, family), pointer);
  }

  announce(keys: KeyBatch, records: Uint8Array, family: Family = 0): Uint8Array {
    const [pointer, recordsAt] = this.border.writeTwo(keys, records);
    const status = this.wasm.announce(pointer, keys.byteLength, recordsAt, records.byteLength, family);
    return this.results(status, pointer);
  }

  forgetLocations(keys: KeyBatch, records: Uint8Array): Uint8Array {
    const [pointer, recordsAt] = this.border.writeTwo(keys, records);
    return this.results(this.wasm.forgetLocations(pointer, keys.byteLength, recordsAt, records.byteLength), pointer);
  }

  entomb(keys: KeyBatch, records: Uint8Array): Uint8Array {
    const [pointer, recordsAt] = this.border.writeTwo(keys, records);
    return this.results(this.wasm.entomb(pointer, keys.byteLength, recordsAt, records.byteLength), pointer);
  }

  forgetMember(member: number): number {
    return this.wasm.forgetMember(member) >>> 0;
  }

  forgetForeign(self: number): number {
    return this.wasm.forgetForeign(self) >>> 0;
  }

  raiseGeneration(floor: bigint, self?: number): void {
    if (self !== undefined) {
      this.wasm.setGenerationMember(self);
    }
    this.wasm.raiseGenerationTo(floor);
  }

  get highestGeneration(): bigint {
    return BigInt.asUintN(64, this.wasm.highestGeneration());
  }

  stats(): { keys: number; bytes: number; memoryBytes: number; tombstones: number } {
    return {
      keys: this.wasm.directoryKeys() >>> 0,
      bytes: Number(BigInt.asUintN(64, this.wasm.directoryObjectBytes())),
      memoryBytes: Number(BigInt.asUintN(64, this.wasm.directoryMemoryBytes())),
      tombstones: this.wasm.directoryTombstones() >>> 0,
    };
  }

  /** One ResultRecord for each key of the batch at `keys`. */
  private results(status: number, keys: number): Uint8Array {
    raise(status, "the directory");
    const count = readU32(this.border.memory, keys);
    return this.border.read(this.wasm.directoryResults(), count * RESULT_RECORD_BYTES);
  }
}

/** Turns the outcome of a call as a whole into an error; a single key's status is in its record. */
function raise(status: number, what: string): void {
  switch (status) {
    case CALL_OK:
      return;
    case CALL_MALFORMED_BATCH:
      throw new HbmeshError(
        StatusCode.INVALID,
        "The key batch is damaged: its counts, ends and length do not fit together. Check that all processes run the same version of hbmesh.",
      );
    case CALL_MALFORMED_RECORDS:
      throw new HbmeshError(
        StatusCode.INVALID,
        `The records given to ${what} are not one for each key. Check that all processes run the same version of hbmesh.`,
      );
    case CALL_OUT_OF_MEMORY:
      throw outOfMemory();
    case CALL_BAD_ARGUMENT:
      throw new HbmeshError(
        StatusCode.OUT_OF_RANGE,
        `An argument given to ${what} is outside of its range. Use smaller numbers of tokens, lanes or slices, and a family from 0 to 2.`,
      );
    default:
      throw new HbmeshError(
        StatusCode.RUNTIME_ERROR,
        `The decision module answered ${status}, which this version does not know. Build hbmesh again.`,
      );
  }
}

function outOfMemory(): HbmeshError {
  return new HbmeshError(
    StatusCode.OUT_OF_MEMORY,
    "The memory of the decision module is used up: the directory of this owner is full. Delete keys, or add workers so that each owns fewer.",
  );
}

function checkMembers(members: readonly RingMember[], tokensPerWeight: number): void {
  const ids = new Set<number>();
  const names = new Set<string>();
  for (const { id, weight, name } of members) {
    const where = { node: name };
    if (!Number.isInteger(id) || id < 1 || id > 65_535) {
      throw new HbmeshError(
        StatusCode.OUT_OF_RANGE,
        `Member ${name} has the id ${id}. Ids are whole, from 1 to 65535.`,
        where,
      );
    }
    if (!Number.isFinite(weight) || weight < 0 || weight * tokensPerWeight >= U32_LIMIT) {
      throw new HbmeshError(
        StatusCode.OUT_OF_RANGE,
        `Member ${name} has the weight ${weight}. Weights are 0 or above, 1 is one part.`,
        where,
      );
    }
    if (ids.has(id) || names.has(name)) {
      throw new HbmeshError(
        StatusCode.INVALID,
        `Member ${name} with the id ${id} is in the ring twice, or shares its id or name. Give each member its own.`,
        where,
      );
    }
    ids.add(id);
    names.add(name);
  }
}

function memberBytes(members: readonly RingMember[]): number {
  let bytes = members.length * MEMBER_RECORD_BYTES;
  for (const { name } of members) {
    bytes += Buffer.byteLength(name);
  }
  return bytes;
}

/** MemberRecords, then the names. */
function encodeMembers(members: readonly RingMember[], tokensPerWeight: number): Uint8Array {
  const bytes = new Uint8Array(memberBytes(members));
  const view = new DataView(bytes.buffer);
  const names = Buffer.from(bytes.buffer, members.length * MEMBER_RECORD_BYTES);
  let nameOffset = 0;
  for (const [index, { id, weight, name }] of members.entries()) {
    const at = index * MEMBER_RECORD_BYTES;
    const nameBytes = names.write(name, nameOffset, "utf8");
    view.setUint32(at, id, true);
    view.setUint32(at + 4, Math.round(weight * tokensPerWeight), true);
    view.setUint32(at + 8, nameOffset, true);
    view.setUint32(at + 12, nameBytes, true);
    nameOffset += nameBytes;
  }
  return bytes;
}

function bytesOf(array: Uint32Array | BigUint64Array): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

function lengthOf(inputs: readonly Uint8Array[]): number {
  let bytes = 0;
  for (const input of inputs) {
    bytes += input.byteLength;
  }
  return bytes;
}
