/**
 * Frames of the lean link between control processes. Everything little-endian.
 *
 *   0   payloadBytes u32 │ stream u32          stream pairs a reply with its request; chosen by the client, 0 in hello
 *                                              and welcome
 *   8   type u8 │ 0 u8 │ method u16            request: index in the welcome's list of methods; else 0
 *   12  argument u32                           request: timeout in ms, 0 none; error: StatusCode; else 0
 *   16  payload
 *
 *   client                                     server
 *   hello   magic u32, version u16,        -->
 *           flags u16, nonce 32 bytes
 *                                          <-- welcome: as hello, then proof 32 bytes, then method names, one a line
 *   proof   32 bytes, if the server asks   -->
 *   request                                -->
 *                                          <-- reply: the message │ error: JSON { message, key?, node? }
 *   cancel  (no payload)                   -->  the request's signal aborts; its answer, if one still comes, is ignored
 *   ping    (no payload)                   -->
 *                                          <-- pong (no payload)
 *
 * Flags: bit 0, this end has a cluster token. Then its proof is HMAC-SHA256 of the token over "hbmesh link client" or
 * "hbmesh link server", a zero byte, and the nonces of client and server; else zeros. So both ends know of each other
 * that they belong to the cluster, and the token itself is never sent.
 *
 * Example, a request of 2 payload bytes on stream 7, method 3, 250 ms: 02000000 07000000 03 00 0300 fa000000 0801
 */
import { NONCE_BYTES, PROOF_BYTES } from "../base/credentials.js";
import { HbmeshError, StatusCode } from "../base/errors.js";

export const FRAME_HEADER_BYTES = 16;
export const HELLO_BYTES = 8 + NONCE_BYTES;
/** "HBL1" */
export const LINK_MAGIC = 0x314c4248;
export const LINK_VERSION = 2;
/** 10,000 keys of 1,024 bytes with their records fit. */
export const FRAME_PAYLOAD_BYTES_MAX = 16 * 2 ** 20;

/** Enough for what a client sends before it is known. */
export const GREETING_PAYLOAD_BYTES_MAX = 256;

export const FrameType = {
  hello: 1,
  welcome: 2,
  request: 3,
  reply: 4,
  error: 5,
  cancel: 6,
  proof: 7,
  ping: 8,
  pong: 9,
} as const;

export interface Frame {
  type: number;
  stream: number;
  method: number;
  argument: number;
  payload: Uint8Array;
}

const EMPTY = new Uint8Array(0);

/** Throws OUT_OF_RANGE for a payload that the other end would refuse. */
export function encodeFrame(
  type: number,
  stream: number,
  method: number,
  argument: number,
  payload: Uint8Array = EMPTY,
): Buffer {
  if (payload.byteLength > FRAME_PAYLOAD_BYTES_MAX) {
    throw new HbmeshError(
      StatusCode.OUT_OF_RANGE,
      `a message of ${payload.byteLength} bytes is over the link's limit of ${FRAME_PAYLOAD_BYTES_MAX}; split the batch`,
    );
  }
  const frame = Buffer.allocUnsafe(FRAME_HEADER_BYTES + payload.byteLength);
  frame.writeUInt32LE(payload.byteLength, 0);
  frame.writeUInt32LE(stream, 4);
  frame.writeUInt8(type, 8);
  frame.writeUInt8(0, 9);
  frame.writeUInt16LE(method, 10);
  frame.writeUInt32LE(argument, 12);
  frame.set(payload, FRAME_HEADER_BYTES);
  return frame;
}

/** What an end says of itself first. */
export interface Hello {
  hasToken: boolean;
  nonce: Uint8Array;
}

export interface Welcome extends Hello {
  proof: Uint8Array;
  methods: string[];
}

export function encodeHello({ hasToken, nonce }: Hello): Buffer {
  const hello = Buffer.alloc(HELLO_BYTES);
  hello.writeUInt32LE(LINK_MAGIC, 0);
  hello.writeUInt16LE(LINK_VERSION, 4);
  hello.writeUInt16LE(hasToken ? 1 : 0, 6);
  hello.set(nonce, 8);
  return hello;
}

export function encodeWelcome(welcome: Welcome): Buffer {
  return Buffer.concat([encodeHello(welcome), welcome.proof, Buffer.from(welcome.methods.join("\n"), "utf8")]);
}

/** Throws DATA_INCONSISTENCY for something that is not this link, and NOT_SUPPORTED for another version of it. */
export function decodeHello(payload: Uint8Array): Hello {
  const hello = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength);
  if (hello.byteLength < 8 || hello.readUInt32LE(0) !== LINK_MAGIC) {
    throw new HbmeshError(
      StatusCode.DATA_INCONSISTENCY,
      "the peer does not speak hbmesh's control link; check the address",
    );
  }
  const version = hello.readUInt16LE(4);
  if (version !== LINK_VERSION) {
    throw new HbmeshError(
      StatusCode.NOT_SUPPORTED,
      `the peer speaks version ${version} of the control link, this process version ${LINK_VERSION}; install the same release on both`,
    );
  }
  if (hello.byteLength < HELLO_BYTES) {
    throw new HbmeshError(StatusCode.DATA_INCONSISTENCY, "the peer's greeting is cut short");
  }
  return { hasToken: (hello.readUInt16LE(6) & 1) !== 0, nonce: Uint8Array.from(hello.subarray(8, HELLO_BYTES)) };
}

/** Throws as decodeHello. */
export function decodeWelcome(payload: Uint8Array): Welcome {
  const hello = decodeHello(payload);
  const rest = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength).subarray(HELLO_BYTES);
  const methods = rest.toString("utf8", PROOF_BYTES).split("\n");
  return { ...hello, proof: Uint8Array.from(rest.subarray(0, PROOF_BYTES)), methods };
}

/**
 * Cuts a byte stream into frames. Bytes are copied only when a frame spans chunks, and then once. Payloads may be views
 * of the chunks that were given.
 */
export class FrameReader {
  readonly #onFrame: (frame: Frame) => void;
  /** Bytes of an unfinished frame: its header first, then (once that is known) a buffer of the frame's full size. */
  #partial: Buffer | undefined;
  #partialBytes = 0;
  /** Larger payloads are refused before there is memory for them. */
  payloadBytesMax: number;

  constructor(onFrame: (frame: Frame) => void, payloadBytesMax = FRAME_PAYLOAD_BYTES_MAX) {
    this.#onFrame = onFrame;
    this.payloadBytesMax = payloadBytesMax;
  }

  /** Has it the beginning of a frame whose end is missing? */
  get isInFrame(): boolean {
    return this.#partial !== undefined;
  }

  /** Throws DATA_INCONSISTENCY for bytes that are no frame; the connection must then be closed. */
  push(chunk: Buffer): void {
    let rest = chunk;
    while (rest.byteLength > 0) {
      if (this.#partial === undefined) {
        const size = rest.byteLength < FRAME_HEADER_BYTES ? undefined : this.#frameBytes(rest);
        if (size !== undefined && rest.byteLength >= size) {
          this.#emit(rest.subarray(0, size));
          rest = rest.subarray(size);
          continue;
        }
        this.#partial = Buffer.allocUnsafe(size ?? FRAME_HEADER_BYTES);
        this.#partialBytes = 0;
      }
      rest = this.#fill(this.#partial, rest);
    }
  }

  /** Adds to the unfinished frame, and returns what is left of the chunk. */
  #fill(partial: Buffer, chunk: Buffer): Buffer {
    const taken = Math.min(partial.byteLength - this.#partialBytes, chunk.byteLength);
    chunk.copy(partial, this.#partialBytes, 0, taken);
    this.#partialBytes += taken;
    if (this.#partialBytes === partial.byteLength) {
      const size = this.#frameBytes(partial);
      if (size > partial.byteLength) {
        this.#partial = Buffer.allocUnsafe(size);
        partial.copy(this.#partial);
      } else {
        this.#partial = undefined;
        this.#emit(partial);
      }
    }
    return chunk.subarray(taken);
  }

  #frameBytes(header: Buffer): number {
    const payloadBytes = header.readUInt32LE(0);
    const type = header.readUInt8(8);
    const isKnown = type >= FrameType.hello && type <= FrameType.pong && header.readUInt8(9) === 0;
    if (payloadBytes > this.payloadBytesMax || !isKnown) {
      throw new HbmeshError(
        StatusCode.DATA_INCONSISTENCY,
        `not a frame of the control link (type ${type}, ${payloadBytes} payload bytes)`,
      );
    }
    return FRAME_HEADER_BYTES + payloadBytes;
  }

  #emit(frame: Buffer): void {
    this.#onFrame({
      stream: frame.readUInt32LE(4),
      type: frame.readUInt8(8),
      method: frame.readUInt16LE(10),
      argument: frame.readUInt32LE(12),
      // No Buffer, whose slice() would not copy.
      payload: new Uint8Array(
        frame.buffer,
        frame.byteOffset + FRAME_HEADER_BYTES,
        frame.byteLength - FRAME_HEADER_BYTES,
      ),
    });
  }
}

/** Payload of an error frame. */
export function encodeError(error: HbmeshError): Uint8Array {
  return Buffer.from(JSON.stringify({ message: error.message, key: error.key, node: error.node }), "utf8");
}

/** `node` is used when the error itself names none. */
export function decodeError(code: number, payload: Uint8Array, node: string): HbmeshError {
  const known = code !== 0 && StatusCode[code] !== undefined;
  let fields: { message?: unknown; key?: unknown; node?: unknown } = {};
  try {
    fields = JSON.parse(Buffer.from(payload).toString("utf8")) as typeof fields;
  } catch {
    fields = {};
  }
  const message = typeof fields.message === "string" ? fields.message : `${node} answered with error ${code}`;
  return new HbmeshError(known ? (code as StatusCode) : StatusCode.RUNTIME_ERROR, message, {
    node: typeof fields.node === "string" ? fields.node : node,
    ...(typeof fields.key === "string" ? { key: fields.key } : {}),
  });
}
