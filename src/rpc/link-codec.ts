/**
 * Messages of the lean link as bytes: protobuf's. The two messages that every get and set sends between owners are
 * written and read by hand, since a general encoder costs more than the rest of such a call; to the byte as the general
 * one writes them. It also takes over whatever is unusual in them: unknown fields, other wire types, numbers above
 * 2^53, damage.
 */
import { create, type DescMessage, fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  type DirectoryReply,
  DirectoryReplySchema,
  type DirectoryRequest,
  DirectoryRequestSchema,
} from "../gen/hbmesh/v1/directory_pb.js";

export interface MessageCodec {
  /** Of a message, or of what `create` takes. */
  encode(message: unknown): Uint8Array;
  /** Throws for bytes that are no such message. Fields of bytes are views of the input. */
  decode(bytes: Uint8Array): unknown;
}

const codecs = new Map<DescMessage, MessageCodec>();

export function codecOf(schema: DescMessage): MessageCodec {
  let codec = codecs.get(schema);
  if (codec === undefined) {
    codec = createCodec(schema);
    codecs.set(schema, codec);
  }
  return codec;
}

function createCodec(schema: DescMessage): MessageCodec {
  const general: MessageCodec = {
    encode: (message) => toBinary(schema, create(schema, message as Record<string, unknown>)),
    decode: (bytes) => fromBinary(schema, bytes),
  };
  switch (schema.typeName) {
    case DirectoryRequestSchema.typeName:
      return {
        encode: (message) => encodeRequest(message as Plain<DirectoryRequest>) ?? general.encode(message),
        decode: (bytes) => decodeRequest(bytes) ?? general.decode(bytes),
      };
    case DirectoryReplySchema.typeName:
      return {
        encode: (message) => encodeReply(message as Plain<DirectoryReply>) ?? general.encode(message),
        decode: (bytes) => decodeReply(bytes) ?? general.decode(bytes),
      };
    default:
      return general;
  }
}

/** Fields that are left out have protobuf's defaults. */
type Plain<T> = { [K in keyof Omit<T, "$typeName" | "$unknown">]?: T[K] | undefined };

// Tags: number of the field times 8, plus 0 for a varint, 2 for bytes.
const REQUEST = { epoch: 8, memberId: 16, keys: 26, records: 34, existence: 40, waitMs: 48, last: 56, family: 64 };
const REPLY = { stale: 8, epoch: 16, results: 26 };

const EMPTY: Uint8Array = new Uint8Array(0);
const VARINT_BYTES_MAX = 8;
/** Numbers below it are whole. */
const SAFE_LIMIT = 2 ** 53;
/** A tag and a varint for each of 8 fields. */
const FIELDS_BYTES_MAX = 8 * (1 + VARINT_BYTES_MAX);

function encodeRequest(request: Plain<DirectoryRequest>): Uint8Array | undefined {
  const { keys = EMPTY, records = EMPTY } = request;
  const writer = new FieldWriter(FIELDS_BYTES_MAX + keys.byteLength + records.byteLength);
  writer.number(REQUEST.epoch, Number(request.epoch ?? 0n), SAFE_LIMIT);
  writer.number(REQUEST.memberId, request.memberId ?? 0);
  writer.bytes(REQUEST.keys, keys);
  writer.bytes(REQUEST.records, records);
  writer.number(REQUEST.existence, request.existence ?? 0);
  writer.number(REQUEST.waitMs, request.waitMs ?? 0);
  writer.number(REQUEST.last, request.last === true ? 1 : 0);
  writer.number(REQUEST.family, request.family ?? 0);
  return writer.written;
}

function encodeReply({ stale, epoch = 0n, results = EMPTY }: Plain<DirectoryReply>): Uint8Array | undefined {
  const writer = new FieldWriter(FIELDS_BYTES_MAX + results.byteLength);
  writer.number(REPLY.stale, stale === true ? 1 : 0);
  writer.number(REPLY.epoch, Number(epoch), SAFE_LIMIT);
  writer.bytes(REPLY.results, results);
  return writer.written;
}

function decodeRequest(bytes: Uint8Array): Plain<DirectoryRequest> | undefined {
  const reader = new FieldReader(bytes);
  let epoch = 0;
  let memberId = 0;
  let keys = EMPTY;
  let records = EMPTY;
  let existence = 0;
  let waitMs = 0;
  let last = 0;
  let family = 0;
  while (reader.hasMore) {
    switch (reader.number()) {
      case REQUEST.epoch:
        epoch = reader.number();
        break;
      case REQUEST.memberId:
        memberId = reader.number32();
        break;
      case REQUEST.keys:
        keys = reader.bytes();
        break;
      case REQUEST.records:
        records = reader.bytes();
        break;
      case REQUEST.existence:
        existence = reader.number32();
        break;
      case REQUEST.waitMs:
        waitMs = reader.number32();
        break;
      case REQUEST.last:
        last = reader.number();
        break;
      case REQUEST.family:
        family = reader.number32();
        break;
      default:
        return undefined;
    }
  }
  return reader.isPlain
    ? { epoch: BigInt(epoch), memberId, keys, records, existence, waitMs, last: last !== 0, family }
    : undefined;
}

function decodeReply(bytes: Uint8Array): Plain<DirectoryReply> | undefined {
  const reader = new FieldReader(bytes);
  let stale = 0;
  let epoch = 0;
  let results = EMPTY;
  while (reader.hasMore) {
    switch (reader.number()) {
      case REPLY.stale:
        stale = reader.number();
        break;
      case REPLY.epoch:
        epoch = reader.number();
        break;
      case REPLY.results:
        results = reader.bytes();
        break;
      default:
        return undefined;
    }
  }
  return reader.isPlain ? { stale: stale !== 0, epoch: BigInt(epoch), results } : undefined;
}

/** Fields that are 0 or empty are left out, as protobuf does. */
class FieldWriter {
  readonly #target: Buffer;
  #at = 0;
  #isPlain = true;

  constructor(bytesMax: number) {
    this.#target = Buffer.allocUnsafe(bytesMax);
  }

  /** Undefined: there is a number that a general encoder has to look at. */
  get written(): Uint8Array | undefined {
    // No Buffer, whose slice() would not copy.
    return this.#isPlain ? new Uint8Array(this.#target.buffer, this.#target.byteOffset, this.#at) : undefined;
  }

  number(tag: number, value: number, limit = 2 ** 32): void {
    if (value !== 0) {
      if (!Number.isInteger(value) || value < 0 || value >= limit) {
        this.#isPlain = false;
        return;
      }
      this.#target[this.#at++] = tag;
      this.#varint(value);
    }
  }

  bytes(tag: number, value: Uint8Array): void {
    if (value.byteLength > 0) {
      this.#target[this.#at++] = tag;
      this.#varint(value.byteLength);
      this.#target.set(value, this.#at);
      this.#at += value.byteLength;
    }
  }

  #varint(value: number): void {
    let rest = value;
    while (rest >= 128) {
      this.#target[this.#at++] = (rest % 128) + 128;
      rest = Math.floor(rest / 128);
    }
    this.#target[this.#at++] = rest;
  }
}

/**
 * After anything that is not as FieldWriter writes it, `isPlain` is false, there is no more, and what was read means
 * nothing.
 */
class FieldReader {
  readonly #source: Uint8Array;
  #at = 0;
  isPlain = true;

  constructor(source: Uint8Array) {
    this.#source = source;
  }

  get hasMore(): boolean {
    return this.#at < this.#source.byteLength;
  }

  number(): number {
    let value = 0;
    let unit = 1;
    for (let length = 0; length < VARINT_BYTES_MAX && this.#at < this.#source.byteLength; length++) {
      const byte = this.#source[this.#at++] as number;
      value += (byte & 127) * unit;
      if (byte < 128) {
        this.isPlain = this.isPlain && value < SAFE_LIMIT;
        return value;
      }
      unit *= 128;
    }
    return this.#stop();
  }

  number32(): number {
    const value = this.number();
    return value < 2 ** 32 ? value : this.#stop();
  }

  bytes(): Uint8Array {
    const length = this.number();
    const from = this.#at;
    if (from + length > this.#source.byteLength) {
      this.#stop();
      return EMPTY;
    }
    this.#at += length;
    return this.#source.subarray(from, this.#at);
  }

  #stop(): number {
    this.isPlain = false;
    this.#at = this.#source.byteLength;
    return 0;
  }
}
