/**
 * Goal: a commit that an owner has decided is not told to have failed because the ring changed: it may end only by what
 * a new owner decides about its key; in all other cases it is in doubt. Method: member 2 commits, and the ring changes
 * before its answer is there; member 3, the new owner, answers as the test says.
 */
import { afterEach, describe, expect, it } from "vitest";
import { HbmeshError, StatusCode } from "../../../src/base/errors.js";
import type { OwnerReply } from "../../../src/control/directory-owner.js";
import type { Answer } from "../../../src/control/owner-calls.js";
import { Results } from "../../../src/control/records.js";
import { type ExistenceMode, encodeKeys } from "../../../src/decision/index.js";
import { commitRecord, EPOCH, OwnerPair } from "./owner-pair.js";

const NEXT = EPOCH + 1n;
let pair: OwnerPair;
afterEach(() => pair.close());

function answerOf(code: StatusCode): OwnerReply {
  const results = Results.empty(1);
  results.setCode(0, code);
  return { stale: false, epoch: NEXT, results: results.bytes };
}

/** `announced`: what the new owner says. */
async function commit(existence: ExistenceMode, announced: () => Promise<OwnerReply>): Promise<Answer> {
  pair = new OwnerPair();
  const serve = pair.serve;
  pair.serve = async (method, request, signal, owner) => {
    if (method !== "commit") {
      return announced();
    }
    const reply = await serve(method, request, signal, owner);
    pair.setRing(NEXT, 3);
    return reply;
  };
  const question = { keys: encodeKeys(["a"]), records: commitRecord(1n << 60n, 1), existence, family: 0 as const };
  return pair.drive(pair.calls.commit(question));
}

const stale = async (): Promise<OwnerReply> => ({ stale: true, epoch: EPOCH, results: new Uint8Array(0) });
const refuse = (code: StatusCode) => () => Promise.reject(new HbmeshError(code, "4096 calls wait"));

describe.each([0, 2] as const)("a commit with existence %i under a ring that changes", (existence) => {
  it("is in doubt if the new owner stays behind until the time is over", async () => {
    const { results, errors } = await commit(existence, stale);
    expect(results.code(0)).toBe(StatusCode.RPC_UNAVAILABLE);
    expect(errors.get(0)).toMatchObject({
      code: StatusCode.RPC_UNAVAILABLE,
      message: "the key's new owner could not be told of its object, since the ring is changing",
    });
  });

  it.each([StatusCode.TRY_AGAIN, StatusCode.RPC_UNAVAILABLE, StatusCode.INTERRUPTED, StatusCode.OUT_OF_MEMORY])(
    "is in doubt if the new owner can't be asked (%i)",
    async (code) => {
      const { results, errors } = await commit(existence, refuse(code));
      expect(results.code(0)).toBe(StatusCode.RPC_UNAVAILABLE);
      expect(errors.get(0)).toMatchObject({ code, message: "4096 calls wait" });
    },
  );

  it.each([StatusCode.TRY_AGAIN, StatusCode.OUT_OF_MEMORY, StatusCode.INVALID])(
    "ends with what the new owner decides about the key (%i)",
    async (code) => {
      const { results, errors } = await commit(existence, async () => answerOf(code));
      expect([results.code(0), errors.size]).toEqual([code, 0]);
    },
  );

  it("is good if the new owner takes it up", async () => {
    const { results, errors } = await commit(existence, async () => answerOf(StatusCode.OK));
    expect([results.code(0), errors.size]).toEqual([StatusCode.OK, 0]);
  });
});
