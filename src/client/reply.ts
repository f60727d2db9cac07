/**
 * Reads ObjectReply payloads (drawn in native/queue/layout.h). Offsets come from the addon's layout; the client core
 * has checked counts and sizes, and what it can't vouch for is checked here.
 */
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { NativeLayout, NativeReply, NativeStruct } from "../sidecar/addon.js";
import { BatchResult, Status, type TransferPath } from "./batch-result.js";

export interface KeyAnswer {
  code: StatusCode;
  flags: number;
  message: string;
  generation: bigint;
  bytes: bigint;
}

export interface DecodedReply {
  answers: KeyAnswer[];
  paths: TransferPath[];
  /** getMetaInfo: blob sizes of each key. */
  blobSizes: bigint[][];
  /** All texts of the reply. */
  messages: string;
}

/** One step of a key that ends by itself. */
export interface KeyStep {
  keyIndex: number;
  /** True: `code` is final. False: it was accepted, its end follows. */
  ended: boolean;
  code: StatusCode;
  message: string;
  bytes: bigint;
}

export interface DecodedEvents {
  steps: KeyStep[];
  paths: TransferPath[];
  /** All texts of the reply: about the whole call, when it was refused. */
  messages: string;
}

export interface ReplyContext {
  keys: readonly string[];
  /** The worker that answered. */
  node: string;
  /** "sim", "ascend". */
  backend: string;
  /** Bytes went from the device (set), and not to it (get). */
  outward: boolean;
  /** getMetaInfo: blob sizes follow. */
  hasBlobSizes: boolean;
}

/** Reads fields of one kind of record by name. */
class RecordReader {
  readonly bytes: number;
  readonly #offsets = new Map<string, number>();

  constructor(struct: NativeStruct | undefined, name: string) {
    if (struct === undefined) {
      throw new HbmeshError(StatusCode.DATA_INCONSISTENCY, `the native addon doesn't know ${name}: run npm run setup`);
    }
    this.bytes = struct.bytes;
    for (const [field, { offset }] of Object.entries(struct.fields)) {
      this.#offsets.set(field, offset);
    }
  }

  offset(field: string): number {
    const offset = this.#offsets.get(field);
    if (offset === undefined) {
      throw new HbmeshError(StatusCode.DATA_INCONSISTENCY, `the native addon has no field ${field}: run npm run setup`);
    }
    return offset;
  }

  u32(view: DataView, at: number, field: string): number {
    return view.getUint32(at + this.offset(field), true);
  }

  u64(view: DataView, at: number, field: string): bigint {
    return view.getBigUint64(at + this.offset(field), true);
  }
}

export class ReplyDecoder {
  readonly #reply: RecordReader;
  readonly #result: RecordReader;
  readonly #path: RecordReader;
  readonly #deviceReply: RecordReader;
  readonly #event: RecordReader;
  readonly #sourceBytes: number;
  readonly #transports: ReadonlyMap<number, string>;
  readonly #flags: NativeLayout["flags"];
  readonly #text = new TextDecoder();

  constructor(layout: NativeLayout) {
    this.#reply = new RecordReader(layout.structs.ObjectReply, "ObjectReply");
    this.#result = new RecordReader(layout.structs.KeyResult, "KeyResult");
    this.#path = new RecordReader(layout.structs.PathRecord, "PathRecord");
    this.#deviceReply = new RecordReader(layout.structs.DeviceReply, "DeviceReply");
    this.#event = new RecordReader(layout.structs.KeyEvent, "KeyEvent");
    this.#sourceBytes = layout.structs.PathRecord?.fields.source?.bytes ?? 0;
    this.#transports = new Map(Object.entries(layout.transports).map(([name, id]) => [id, name]));
    this.#flags = layout.flags;
  }

  /**
   * The answers of a call that was carried out. Throws what the sidecar refused the whole call with, naming the key
   * where it did, or DATA_INCONSISTENCY for a payload that contradicts itself.
   */
  decode(reply: NativeReply, context: ReplyContext): DecodedReply {
    const { payload } = reply;
    const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
    if (payload.byteLength < this.#reply.bytes) {
      throw reply.code === StatusCode.OK ? malformed(context) : refusal(reply.code, "", context);
    }
    const count = this.#reply.u32(view, 0, "count");
    const pathCount = this.#reply.u32(view, 0, "pathCount");
    const messageBytes = this.#reply.u32(view, 0, "messageBytes");
    const blobSizeCount = this.#reply.u32(view, 0, "blobSizeCount");
    const resultsAt = this.#reply.bytes;
    const pathsAt = resultsAt + count * this.#result.bytes;
    const countsAt = pathsAt + pathCount * this.#path.bytes;
    const sizesAt = context.hasBlobSizes ? Math.ceil((countsAt + 4 * count) / 8) * 8 : countsAt;
    const messagesAt = sizesAt + 8 * blobSizeCount;
    if (messagesAt + messageBytes > payload.byteLength) {
      throw malformed(context);
    }
    const messages = payload.subarray(messagesAt, messagesAt + messageBytes);
    if (reply.code !== StatusCode.OK) {
      throw refusal(reply.code, this.#text.decode(messages), context);
    }
    if (count !== context.keys.length) {
      throw malformed(context);
    }
    const answers = Array.from({ length: count }, (_, index) =>
      this.#answer(view, resultsAt + index * this.#result.bytes, messages),
    );
    const paths = Array.from({ length: pathCount }, (_, index) =>
      this.#transferPath(view, pathsAt + index * this.#path.bytes, context),
    );
    const blobSizes = context.hasBlobSizes ? readBlobSizes(view, countsAt, sizesAt, count, blobSizeCount, context) : [];
    return { answers, paths, blobSizes, messages: this.#text.decode(messages) };
  }

  /**
   * One DeviceReply; the client core has checked that its events fit each other and the call. Throws
   * DATA_INCONSISTENCY.
   */
  decodeEvents(payload: Uint8Array, context: ReplyContext): DecodedEvents {
    if (payload.byteLength === 0) {
      return { steps: [], paths: [], messages: "" };
    }
    if (payload.byteLength < this.#deviceReply.bytes) {
      throw malformed(context);
    }
    const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
    const count = this.#deviceReply.u32(view, 0, "count");
    const pathCount = this.#deviceReply.u32(view, 0, "pathCount");
    const messageBytes = this.#deviceReply.u32(view, 0, "messageBytes");
    const eventsAt = this.#deviceReply.bytes;
    const pathsAt = eventsAt + count * this.#event.bytes;
    const messagesAt = pathsAt + pathCount * this.#path.bytes;
    if (messagesAt + messageBytes > payload.byteLength) {
      throw malformed(context);
    }
    const messages = payload.subarray(messagesAt, messagesAt + messageBytes);
    const steps = Array.from({ length: count }, (_, index) =>
      this.#step(view, eventsAt + index * this.#event.bytes, messages),
    );
    const paths = Array.from({ length: pathCount }, (_, index) =>
      this.#transferPath(view, pathsAt + index * this.#path.bytes, context),
    );
    return { steps, paths, messages: this.#text.decode(messages) };
  }

  #step(view: DataView, at: number, messages: Uint8Array): KeyStep {
    const begin = this.#event.u32(view, at, "messageOffset");
    const bytes = this.#event.u32(view, at, "messageBytes");
    return {
      keyIndex: this.#event.u32(view, at, "keyIndex"),
      ended: this.#event.u32(view, at, "stage") === (this.#flags.StageEnded ?? 2),
      code: this.#event.u32(view, at, "code"),
      message: this.#text.decode(messages.subarray(begin, begin + bytes)),
      bytes: this.#event.u64(view, at, "bytes"),
    };
  }

  /** Was the key there (see WriteResult.existed)? */
  existed(answer: KeyAnswer): boolean {
    return (answer.flags & (this.#flags.Existed ?? 0)) !== 0;
  }

  #answer(view: DataView, at: number, messages: Uint8Array): KeyAnswer {
    const begin = this.#result.u32(view, at, "messageOffset");
    const bytes = this.#result.u32(view, at, "messageBytes");
    return {
      code: this.#result.u32(view, at, "code"),
      flags: this.#result.u32(view, at, "flags"),
      message: bytes === 0 ? "" : this.#text.decode(messages.subarray(begin, begin + bytes)),
      generation: this.#result.u64(view, at, "generation"),
      bytes: this.#result.u64(view, at, "bytes"),
    };
  }

  #transferPath(view: DataView, at: number, context: ReplyContext): TransferPath {
    const sourceAt = view.byteOffset + at + this.#path.offset("source");
    const source = this.#text.decode(new Uint8Array(view.buffer, sourceAt, this.#sourceBytes)).replace(/\0.*$/s, "");
    const flags = this.#path.u32(view, at, "flags");
    const transport = this.#path.u32(view, at, "transport");
    const path: TransferPath = {
      transport: this.#transports.get(transport) ?? `transport ${transport}`,
      source: source === "" ? context.node : source,
      deviceIndex: this.#path.u32(view, at, "device"),
      lanes: this.#path.u32(view, at, "lanes"),
      slices: this.#path.u32(view, at, "slices"),
      bytes: this.#path.u64(view, at, "bytes"),
      seconds: Number(this.#path.u64(view, at, "nanoseconds")) / 1e9,
      fallback: (flags & (this.#flags.PathFallback ?? 0)) !== 0,
      staged: (flags & (this.#flags.PathStaged ?? 0)) !== 0,
      spilled: (flags & (this.#flags.PathSpilled ?? 0)) !== 0,
      text: "",
    };
    path.text = describePath(path, context);
    return path;
  }
}

/** `tcp 127.0.0.1:31501 -> sim:2, 2 lanes, staged` */
function describePath(path: TransferPath, context: ReplyContext): string {
  const device = `${context.backend}:${path.deviceIndex}`;
  const ends = context.outward ? `${device} -> ${path.source}` : `${path.source} -> ${device}`;
  const lanes = `${path.lanes} ${path.lanes === 1 ? "lane" : "lanes"}`;
  return [
    `${path.transport} ${ends}`,
    lanes,
    ...(path.staged ? ["staged"] : []),
    ...(path.spilled ? ["from SSD"] : []),
    ...(path.fallback ? ["fallback"] : []),
  ].join(", ");
}

function readBlobSizes(
  view: DataView,
  countsAt: number,
  sizesAt: number,
  count: number,
  blobSizeCount: number,
  context: ReplyContext,
): bigint[][] {
  const sizes: bigint[][] = [];
  let at = 0;
  for (let index = 0; index < count; index += 1) {
    const blobs = view.getUint32(countsAt + 4 * index, true);
    if (at + blobs > blobSizeCount) {
      throw malformed(context);
    }
    const first = at;
    sizes.push(Array.from({ length: blobs }, (_, blob) => view.getBigUint64(sizesAt + 8 * (first + blob), true)));
    at += blobs;
  }
  return sizes;
}

/** Turns answers into the statuses of a BatchResult. */
export function toBatchResult(decoded: DecodedReply, context: ReplyContext): BatchResult {
  const statuses = decoded.answers.map(
    (answer, index) => new Status(answer.code, answer.message, context.keys[index] as string),
  );
  return new BatchResult(statuses, decoded.paths, context.node);
}

/**
 * The key that native code names in a message about a whole call: `key "name" (number 3)`, `key "name" is in the call
 * twice (numbers 1 and 3)`, `key number 3 is empty`. Quotes within a key are escaped there, so nothing in a key can
 * look like this.
 */
export function keyNamedIn(message: string, keys: readonly string[]): string | undefined {
  const match = /\bkey (?:"[^"]*"[^"(]*\(numbers? |number )(\d+)/i.exec(message);
  return match === null ? undefined : keys[Number(match[1]) - 1];
}

export function refusal(code: number, message: string, context: ReplyContext): HbmeshError {
  const key = keyNamedIn(message, context.keys);
  const text =
    message === "" ? `worker ${context.node} refused the call with ${StatusCode[code] ?? code}; see its log` : message;
  return new HbmeshError(code, text, { node: context.node, ...(key === undefined ? {} : { key }) });
}

function malformed(context: ReplyContext): HbmeshError {
  return new HbmeshError(
    StatusCode.DATA_INCONSISTENCY,
    `the reply of worker ${context.node} contradicts itself: worker and client must be of the same release`,
    { node: context.node },
  );
}
