/**
 * Goal: the messages that are encoded by hand are protobuf's, to the byte, and what is unusual in them is read as the
 * general decoder reads it. Method: random messages against @bufbuild/protobuf; then unknown fields, numbers at the
 * limits, and every cut of a message.
 */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { describe, expect, it } from "vitest";
import { createSeededRandom } from "../../../src/base/random.js";
import {
  DirectoryReplySchema,
  DirectoryRequestSchema,
  HolderRequestSchema,
} from "../../../src/gen/hbmesh/v1/directory_pb.js";
import { codecOf } from "../../../src/rpc/link-codec.js";

const seed = Number(process.env["HBMESH_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
const random = createSeededRandom(seed);
const numbers = [0, 1, 127, 128, 16_383, 16_384, 2 ** 31, 2 ** 32 - 1];
const epochs = [...numbers.map(BigInt), 2n ** 53n - 1n, 2n ** 53n, 2n ** 64n - 1n];

const pick = <T>(values: readonly T[]): T => values[random.nextBelow(values.length)] as T;
const someBytes = (): Uint8Array =>
  Uint8Array.from({ length: pick([0, 1, 127, 128, 300]) }, () => random.nextBelow(256));
const someRequest = () => ({
  epoch: pick(epochs),
  memberId: pick(numbers),
  keys: someBytes(),
  records: someBytes(),
  existence: pick(numbers),
  waitMs: pick(numbers),
  last: pick([false, true]),
  family: pick(numbers),
});
const someReply = () => ({ stale: pick([false, true]), epoch: pick(epochs), results: someBytes() });

/** A message without what only protobuf needs. */
function plain(message: unknown): unknown {
  const { $typeName: _, ...fields } = message as { $typeName?: string };
  return fields;
}

describe(`messages between owners (HBMESH_SEED=${seed})`, () => {
  it.each([
    [DirectoryRequestSchema, someRequest],
    [DirectoryReplySchema, someReply],
  ] as const)("are protobuf's, both ways", (schema, make) => {
    const codec = codecOf(schema);
    for (let round = 0; round < 500; round++) {
      const fields = make();
      const bytes = toBinary(schema, create(schema, fields));
      expect(Buffer.from(codec.encode(fields)).toString("hex")).toBe(Buffer.from(bytes).toString("hex"));
      expect(plain(codec.decode(bytes))).toEqual(fields);
    }
  });

  it("may leave fields out", () => {
    expect(codecOf(DirectoryRequestSchema).encode({ waitMs: 300 })).toEqual(Uint8Array.of(0x30, 0xac, 0x02));
    expect(codecOf(DirectoryRequestSchema).encode({}).byteLength).toBe(0);
    const nothing = { epoch: 0n, memberId: 0, existence: 0, waitMs: 0, last: false, family: 0 };
    const empty = new Uint8Array(0);
    expect(codecOf(DirectoryRequestSchema).decode(empty)).toEqual({ ...nothing, keys: empty, records: empty });
  });

  it("are read in any order, the last value of a field counts, and unknown fields are left alone", () => {
    const known = Uint8Array.of(0x10, 7, 0x08, 5, 0x10, 9);
    expect(codecOf(DirectoryRequestSchema).decode(known)).toMatchObject({ epoch: 5n, memberId: 9 });
    // Field 15, a varint.
    const further = Uint8Array.of(...known, 0x78, 1);
    expect(codecOf(DirectoryRequestSchema).decode(further)).toMatchObject({ epoch: 5n, memberId: 9 });
  });

  it.each([
    ["a field of another wire type", Uint8Array.of(0x0d, 1, 2, 3, 4)],
    ["a number of more than 32 bits", Uint8Array.of(0x10, 0xff, 0xff, 0xff, 0xff, 0x7f)],
    ["a number in more bytes than it needs", Uint8Array.of(0x10, 0x85, 0x80, 0x00)],
    ["a truth above 1", Uint8Array.of(0x38, 5)],
    ["a number that ends too late", new Uint8Array(14).fill(0xff)],
    ["bytes that end too late", Uint8Array.of(0x1a, 5, 1)],
  ])("of which one has %s are read as protobuf reads them", (_, bytes) => {
    expect(outcome(() => codecOf(DirectoryRequestSchema).decode(bytes))).toEqual(
      outcome(() => fromBinary(DirectoryRequestSchema, bytes)),
    );
  });

  it("that are cut short anywhere are read as protobuf reads them", () => {
    const whole = toBinary(
      DirectoryRequestSchema,
      create(DirectoryRequestSchema, { ...someRequest(), keys: new Uint8Array(9) }),
    );
    for (let length = 0; length < whole.byteLength; length++) {
      const bytes = whole.subarray(0, length);
      expect(outcome(() => codecOf(DirectoryRequestSchema).decode(bytes))).toEqual(
        outcome(() => fromBinary(DirectoryRequestSchema, bytes)),
      );
    }
  });

  it("of other kinds are encoded too", () => {
    const fields = { objects: Uint8Array.of(1, 2), keys: new Uint8Array(0), epoch: 3n };
    const codec = codecOf(HolderRequestSchema);
    expect(plain(codec.decode(codec.encode(fields)))).toEqual(fields);
  });
});

function outcome(read: () => unknown): unknown {
  try {
    const { $unknown: _, ...fields } = plain(read()) as { $unknown?: unknown };
    return fields;
  } catch (reason) {
    return String(reason);
  }
}
