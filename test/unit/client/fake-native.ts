/** A NativeClient of this test's own, with the layouts of native/queue/layout.h as the addon exports them. */
import type { NativeAddon, NativeClient, NativeLayout, NativeReply } from "../../../src/sidecar/addon.js";

type Request = Parameters<NativeClient["submit"]>[0];

function struct(
  bytes: number,
  fields: Record<string, [offset: number, bytes: number]>,
): NativeLayout["structs"][string] {
  return {
    bytes,
    fields: Object.fromEntries(
      Object.entries(fields).map(([name, [offset, width]]) => [name, { offset, bytes: width }]),
    ),
  };
}

export const layout: NativeLayout = {
  structs: {
    ObjectReply: struct(16, { count: [0, 4], pathCount: [4, 4], messageBytes: [8, 4], blobSizeCount: [12, 4] }),
    DeviceReply: struct(16, { count: [0, 4], pathCount: [4, 4], messageBytes: [8, 4] }),
    KeyEvent: struct(32, {
      keyIndex: [0, 4],
      stage: [4, 4],
      code: [8, 4],
      flags: [12, 4],
      messageOffset: [16, 4],
      messageBytes: [20, 4],
      bytes: [24, 8],
    }),
    KeyResult: struct(32, {
      code: [0, 4],
      flags: [4, 4],
      messageOffset: [8, 4],
      messageBytes: [12, 4],
      generation: [16, 8],
      bytes: [24, 8],
    }),
    PathRecord: struct(64, {
      transport: [0, 4],
      device: [4, 4],
      member: [8, 4],
      lanes: [12, 4],
      flags: [16, 4],
      slices: [20, 4],
      bytes: [24, 8],
      nanoseconds: [32, 8],
      source: [40, 24],
    }),
  },
  ops: {
    SetD2H: 1,
    GetH2D: 2,
    Delete: 3,
    Exist: 4,
    GetMeta: 5,
    DevPublish: 7,
    DevSubscribe: 8,
    DevMSet: 9,
    DevMGet: 10,
    DevDelete: 11,
    DevLocalDelete: 12,
    ReserveLayers: 13,
    PushLayer: 14,
    Explain: 15,
  },
  flags: {
    Existed: 1,
    PathFallback: 1,
    PathStaged: 2,
    PathSpilled: 4,
    SetPinSoft: 1,
    SetPinHard: 2,
    SetChecksum: 4,
    ShareReplica: 1,
    StageAccepted: 1,
    StageEnded: 2,
  },
  limits: { KeysPerCallMax: 10_000, KeysPerQueryMax: 100_000 },
  transports: { local: 0, shm: 1, tcp: 2 },
  statusCodes: {},
};

export interface FakeKey {
  code?: number;
  flags?: number;
  message?: string;
  generation?: bigint;
  bytes?: bigint;
}

export interface FakePath {
  transport: number;
  device: number;
  lanes: number;
  flags?: number;
  bytes: bigint;
  nanoseconds: bigint;
  source: string;
}

/** The bytes of an ObjectReply. `blobSizes`: one list a key, as getMetaInfo's reply has them. */
export function objectReply(
  keys: readonly FakeKey[],
  paths: readonly FakePath[] = [],
  blobSizes?: bigint[][],
): Uint8Array {
  const messages = Buffer.from(keys.map((key) => key.message ?? "").join(""));
  const sizes = blobSizes?.flat() ?? [];
  const countsBytes = blobSizes === undefined ? 0 : Math.ceil((4 * keys.length) / 8) * 8;
  const payload = Buffer.alloc(
    16 + 32 * keys.length + 64 * paths.length + countsBytes + 8 * sizes.length + messages.length,
  );
  payload.writeUInt32LE(keys.length, 0);
  payload.writeUInt32LE(paths.length, 4);
  payload.writeUInt32LE(messages.length, 8);
  payload.writeUInt32LE(sizes.length, 12);
  let messageAt = 0;
  for (const [index, key] of keys.entries()) {
    const at = 16 + 32 * index;
    const bytes = Buffer.byteLength(key.message ?? "");
    payload.writeUInt32LE(key.code ?? 0, at);
    payload.writeUInt32LE(key.flags ?? 0, at + 4);
    payload.writeUInt32LE(messageAt, at + 8);
    payload.writeUInt32LE(bytes, at + 12);
    payload.writeBigUInt64LE(key.generation ?? 0n, at + 16);
    payload.writeBigUInt64LE(key.bytes ?? 0n, at + 24);
    messageAt += bytes;
  }
  for (const [index, path] of paths.entries()) {
    const at = 16 + 32 * keys.length + 64 * index;
    payload.writeUInt32LE(path.transport, at);
    payload.writeUInt32LE(path.device, at + 4);
    payload.writeUInt32LE(path.lanes, at + 12);
    payload.writeUInt32LE(path.flags ?? 0, at + 16);
    payload.writeBigUInt64LE(path.bytes, at + 24);
    payload.writeBigUInt64LE(path.nanoseconds, at + 32);
    payload.write(path.source, at + 40);
  }
  const countsAt = 16 + 32 * keys.length + 64 * paths.length;
  for (const [index, list] of (blobSizes ?? []).entries()) {
    payload.writeUInt32LE(list.length, countsAt + 4 * index);
  }
  for (const [index, size] of sizes.entries()) {
    payload.writeBigUInt64LE(size, countsAt + countsBytes + 8 * index);
  }
  messages.copy(payload, payload.length - messages.length);
  return new Uint8Array(payload);
}

export interface FakeStep {
  key: number;
  /** Default: accepted. */
  ended?: boolean;
  code?: number;
  message?: string;
  bytes?: bigint;
}

/** The bytes of a DeviceReply. */
export function deviceReply(steps: readonly FakeStep[]): Uint8Array {
  const messages = Buffer.from(steps.map((step) => step.message ?? "").join(""));
  const payload = Buffer.alloc(16 + 32 * steps.length + messages.length);
  payload.writeUInt32LE(steps.length, 0);
  payload.writeUInt32LE(messages.length, 8);
  let messageAt = 0;
  for (const [index, step] of steps.entries()) {
    const at = 16 + 32 * index;
    const bytes = Buffer.byteLength(step.message ?? "");
    payload.writeUInt32LE(step.key, at);
    payload.writeUInt32LE(step.ended === true ? 2 : 1, at + 4);
    payload.writeUInt32LE(step.code ?? 0, at + 8);
    payload.writeUInt32LE(messageAt, at + 16);
    payload.writeUInt32LE(bytes, at + 20);
    payload.writeBigUInt64LE(step.bytes ?? 0n, at + 24);
    messageAt += bytes;
  }
  messages.copy(payload, payload.length - messages.length);
  return new Uint8Array(payload);
}

/** The payload of a call that was refused as a whole. */
export function refusal(message: string): Uint8Array {
  const text = Buffer.from(message);
  const payload = Buffer.alloc(16 + text.length);
  payload.writeUInt32LE(text.length, 8);
  text.copy(payload, 16);
  return new Uint8Array(payload);
}

/** An error as native code throws it. */
export function nativeError(code: number, message: string): Error {
  return Object.assign(new Error(message), { code });
}

export class FakeNative implements NativeClient {
  readonly deviceCount = 4;
  readonly backend = "sim";
  readonly workerAddress = "127.0.0.1:31501";
  readonly requests: Request[] = [];
  readonly cancelled: bigint[] = [];
  closed = false;
  /** Answers a request; default: OK for every key. */
  answer: (request: Request) => Promise<NativeReply> = async (request) => ({
    code: 0,
    payload: objectReply(Array.from({ length: request.keyCount }, () => ({}))),
  });
  onCancel: (requestId: bigint) => void = () => {};
  onCancelKey: (requestId: bigint, keyIndex: number) => void = () => {};

  async submit(request: Request): Promise<NativeReply> {
    this.requests.push(request);
    return await this.answer(request);
  }
  cancel(requestId: bigint): void {
    this.cancelled.push(requestId);
    this.onCancel(requestId);
  }
  cancelKey(requestId: bigint, keyIndex: number): void {
    this.onCancelKey(requestId, keyIndex);
  }
  async registerDeviceMemory(): Promise<void> {}
  /** What close() waits for. */
  closing: Promise<void> = Promise.resolve();
  async close(): Promise<void> {
    this.closed = true;
    await this.closing;
  }
}

export interface FakeAddon extends Pick<NativeAddon, "connectClient" | "layout"> {
  /** Tells the client that the session ended. */
  lose(reason: string): void;
  connects: Parameters<NativeAddon["connectClient"]>[0][];
}

export function fakeAddon(native: NativeClient | Error): FakeAddon {
  const connects: FakeAddon["connects"] = [];
  return {
    layout,
    connects,
    lose: (reason) => connects.at(-1)?.onClosed(reason),
    connectClient: async (options) => {
      connects.push(options);
      if (native instanceof Error) {
        throw native;
      }
      return native;
    },
  };
}
