/**
 * Goal: what a peer of the control link, or the sidecar, may send instead of a good message ends as an error with a
 * code, never as another exception, and never as bytes beyond the message. Method: good frames, greetings, errors and
 * record batches with random damage, from a seed, through every decoder; streams are cut at random places, which must
 * make no difference.
 */
import { beforeAll, describe, expect, it } from "vitest";
import { NO_CREDENTIALS } from "../../../src/base/credentials.js";
import { HbmeshError, StatusCode } from "../../../src/base/errors.js";
import { createSeededRandom } from "../../../src/base/random.js";
import {
  checkRecordCount,
  decodeCodes,
  pickKeys,
  pickRecords,
  RESULT_RECORD_BYTES,
  Results,
  splitKeys,
  stampFirstLocation,
  stampMember,
} from "../../../src/control/records.js";
import { COMMIT_RECORD_BYTES, encodeKeys } from "../../../src/decision/index.js";
import {
  decodeError,
  decodeHello,
  decodeWelcome,
  encodeError,
  encodeFrame,
  encodeHello,
  encodeWelcome,
  FRAME_HEADER_BYTES,
  type Frame,
  FrameReader,
  FrameType,
} from "../../../src/rpc/link-frame.js";
import { ClientGreeting, ServerGreeting } from "../../../src/rpc/link-greeting.js";

const seed = Number(process.env["HBMESH_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
const { nextBelow } = createSeededRandom(seed);
const ROUNDS = 1_000;
const PAYLOAD_BYTES_MAX = 2_000;

beforeAll(() => {
  console.log(`HBMESH_SEED=${seed}`);
});

/** With some bytes changed, cut off or added. */
function damaged(bytes: Uint8Array): Buffer {
  const copy = Buffer.from(bytes);
  for (let times = nextBelow(4); times > 0 && copy.byteLength > 0; times -= 1) {
    copy[nextBelow(copy.byteLength)] = nextBelow(3) === 0 ? 0xff : nextBelow(256);
  }
  const cut = nextBelow(10);
  if (cut === 0) {
    return copy.subarray(0, nextBelow(copy.byteLength + 1));
  }
  return cut === 1 ? Buffer.concat([copy, Buffer.alloc(nextBelow(40), 7)]) : copy;
}

/** The result, or undefined for an error with a code. Any other exception is a fault of the decoder. */
function attempt<Result>(what: string, call: () => Result): Result | undefined {
  try {
    return call();
  } catch (error) {
    expect(error, `${what}, HBMESH_SEED=${seed}`).toBeInstanceOf(HbmeshError);
    expect(StatusCode[(error as HbmeshError).code]).toBeDefined();
    expect((error as HbmeshError).message).not.toBe("");
    return undefined;
  }
}

const noise = (bytes: number): Buffer => Buffer.from(Array.from({ length: bytes }, () => nextBelow(256)));
const frame = (): Buffer =>
  encodeFrame(1 + nextBelow(9), nextBelow(2 ** 32), nextBelow(2 ** 16), nextBelow(2 ** 32), noise(nextBelow(60)));

/** What a reader makes of the stream when it comes in pieces of these sizes: frames, and whether it refused it. */
function read(stream: Buffer, nextPiece: () => number): { frames: Frame[]; isRefused: boolean } {
  const frames: Frame[] = [];
  const reader = new FrameReader(
    (each) => frames.push({ ...each, payload: Uint8Array.from(each.payload) }),
    PAYLOAD_BYTES_MAX,
  );
  for (let at = 0; at < stream.byteLength; ) {
    const piece = Math.min(Math.max(1, nextPiece()), stream.byteLength - at);
    const chunk = Buffer.from(stream.subarray(at, at + piece));
    const push = (): boolean => {
      reader.push(chunk);
      return true;
    };
    if (attempt("a frame", push) === undefined) {
      return { frames, isRefused: true };
    }
    at += piece;
  }
  return { frames, isRefused: false };
}

describe(`messages that are not what they should be (HBMESH_SEED=${seed})`, () => {
  it("frames: refused, or the same frames in whatever pieces they come", () => {
    let refused = 0;
    for (let round = 0; round < ROUNDS; round += 1) {
      const good = Array.from({ length: 1 + nextBelow(4) }, frame);
      const stream = Buffer.concat(good.map((each) => damaged(each)));
      const whole = read(stream, () => stream.byteLength);
      const pieces = read(stream, () => nextBelow(FRAME_HEADER_BYTES + 4));
      expect(pieces, `round ${round}, HBMESH_SEED=${seed}`).toEqual(whole);
      for (const { payload, type } of whole.frames) {
        expect(payload.byteLength).toBeLessThanOrEqual(PAYLOAD_BYTES_MAX);
        expect(type).toBeGreaterThanOrEqual(FrameType.hello);
        expect(type).toBeLessThanOrEqual(FrameType.pong);
      }
      refused += whole.isRefused ? 1 : 0;
    }
    // Both happen, else the damage is too great or too small to show anything.
    expect(refused).toBeGreaterThan(ROUNDS / 100);
    expect(refused).toBeLessThan(ROUNDS * 0.99);
  });

  it("greetings, from either end", () => {
    const hello = { hasToken: false, nonce: noise(32) };
    for (let round = 0; round < ROUNDS; round += 1) {
      const greeting = damaged(encodeHello(hello));
      attempt("hello", () => decodeHello(greeting));
      const written: Buffer[] = [];
      const server = new ServerGreeting(NO_CREDENTIALS);
      attempt("greet", () => server.greet(greeting, ["a/B"], (bytes) => written.push(bytes)));
      expect(written, "the welcome is said in any case").toHaveLength(1);
      attempt("proof", () => server.checkProof(noise(nextBelow(40))));
      const welcome = damaged(encodeWelcome({ ...hello, proof: noise(32), methods: ["a/B", "c/D"] }));
      const methods = attempt("welcome", () => decodeWelcome(welcome));
      expect(methods?.proof.byteLength ?? 0).toBeLessThanOrEqual(32);
      attempt("the client's side", () => new ClientGreeting(NO_CREDENTIALS).welcome(welcome, () => {}));
    }
  });

  it("errors: always one, with a code of the table", () => {
    const good = encodeError(new HbmeshError(StatusCode.TRY_AGAIN, "later", { key: "k", node: "n" }));
    for (let round = 0; round < ROUNDS; round += 1) {
      const error = decodeError(nextBelow(3) === 0 ? nextBelow(6_000) : StatusCode.TRY_AGAIN, damaged(good), "peer");
      expect(error).toBeInstanceOf(HbmeshError);
      expect(error.code).not.toBe(StatusCode.OK);
      expect(StatusCode[error.code]).toBeDefined();
      expect(typeof error.message).toBe("string");
    }
  });

  it("batches of records of a sidecar or an owner", () => {
    for (let round = 0; round < ROUNDS; round += 1) {
      const count = 1 + nextBelow(5);
      const batch = encodeKeys(Array.from({ length: count }, (_, index) => `key-${index}`));
      const payload = damaged(Buffer.concat([batch, noise(count * COMMIT_RECORD_BYTES)]));
      const split = attempt("keys", () => splitKeys(payload));
      if (split !== undefined) {
        expect(split.keys.byteLength + split.rest.byteLength).toBe(payload.byteLength);
        attempt("records", () => checkRecordCount(split.rest, COMMIT_RECORD_BYTES, split.keys));
        attempt("some keys", () => pickKeys(split.keys, [0]));
        expect(pickRecords(split.rest, COMMIT_RECORD_BYTES, [0]).byteLength).toBe(COMMIT_RECORD_BYTES);
        attempt("stamped", () => stampMember(split.rest, 7));
      }
      attempt("codes", () => decodeCodes(payload, count));
      const results = damaged(noise(count * RESULT_RECORD_BYTES));
      const answers = attempt("results", () => new Results(results, count));
      for (let index = 0; index < (answers?.count ?? 0); index += 1) {
        expect(answers?.locations(index).length).toBeLessThanOrEqual(4);
        expect(answers?.record(index).byteLength).toBe(RESULT_RECORD_BYTES);
      }
      attempt("a first location", () => stampFirstLocation(results, 7));
    }
  });
});
