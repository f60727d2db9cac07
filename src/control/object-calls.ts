/**
 * ObjectCalls: exist, getMetaInfo and delete as people and tools ask for them, and the same for the sidecar's batches.
 */
import type { CancelSignal } from "../base/cancel.js";
import { type HbmeshError, StatusCode } from "../base/errors.js";
import { DEFAULT_TENANT, scopeKeys } from "../base/tenants.js";
import { encodeKeys, FAMILY_ANY, type HeldObject, type KeyBatch, keyCountOf } from "../decision/index.js";
import { Presence } from "../gen/hbmesh/v1/objects_pb.js";
import type {
  CallOptions,
  DeleteAnswer,
  ExplainAnswer,
  KeyAnswer,
  MetaAnswer,
  ObjectCalls,
  PresenceAnswer,
} from "./contract.js";
import { explainKey } from "./explain.js";
import { describeOtherFamily } from "./families.js";
import type { Holders } from "./holders.js";
import type { KeyCheck } from "./key-check.js";
import { KEYS_PER_CALL_MAX, KEYS_PER_QUERY_MAX } from "./layout-constants.js";
import type { Answer, OwnerCalls } from "./owner-calls.js";
import { pickKeys, Results } from "./records.js";
import type { DescribedObject } from "./sidecar-link.js";
import { DOUBT_MESSAGE } from "./vanished.js";

export interface ObjectCallsOptions {
  calls: OwnerCalls;
  holders: Holders;
  checkKeys: KeyCheck;
  nameOf: (memberId: number) => string;
}

/** Looks keys of any family up without waiting, however many there are: owners take KEYS_PER_CALL_MAX at a time. */
export async function lookupAll(calls: OwnerCalls, keys: KeyBatch, signal?: CancelSignal): Promise<Answer> {
  const count = keyCountOf(keys);
  if (count <= KEYS_PER_CALL_MAX) {
    return calls.ask({ method: "lookup", keys, family: FAMILY_ANY, signal });
  }
  const answer: Answer = { results: Results.empty(count), errors: new Map(), undecided: new Set() };
  for (let from = 0; from < count; from += KEYS_PER_CALL_MAX) {
    const length = Math.min(KEYS_PER_CALL_MAX, count - from);
    const indexes = Array.from({ length }, (_, at) => from + at);
    const part = await calls.ask({ method: "lookup", keys: pickKeys(keys, indexes), family: FAMILY_ANY, signal });
    indexes.forEach((index, at) => answer.results.setRecord(index, part.results.record(at)));
    for (const [at, error] of part.errors) {
      answer.errors.set(from + at, error);
    }
  }
  return answer;
}

/**
 * Blob sizes of what a lookup found, in its order; undefined where nothing was found. A holder that can't be asked
 * fails its keys in `answer`.
 */
export async function describeFound(answer: Answer, holders: Holders): Promise<(readonly bigint[] | undefined)[]> {
  const { results, errors } = answer;
  const byMember = new Map<number, { index: number; object: HeldObject }[]>();
  for (let index = 0; index < results.count; index++) {
    const location = results.code(index) === StatusCode.OK ? results.locations(index)[0] : undefined;
    if (location !== undefined) {
      const wanted = byMember.get(location.member) ?? [];
      byMember.set(location.member, wanted);
      wanted.push({ index, object: { generation: results.generation(index), slot: location.slot } });
    }
  }
  const blobSizes: (readonly bigint[] | undefined)[] = Array.from({ length: results.count });
  const take = (index: number, described: DescribedObject | undefined): void => {
    if (described?.code === StatusCode.OK) {
      blobSizes[index] = described.blobSizes;
    } else {
      // Dropped between the lookup and the question.
      results.fail(index, StatusCode.TRY_AGAIN);
    }
  };
  await Promise.all(
    [...byMember].map(async ([member, wanted]) => {
      try {
        const described = await holders.describe(
          member,
          wanted.map(({ object }) => object),
        );
        wanted.forEach(({ index }, at) => take(index, described[at]));
      } catch (reason) {
        for (const { index } of wanted) {
          results.fail(index, (reason as HbmeshError).code);
          errors.set(index, reason as HbmeshError);
        }
      }
    }),
  );
  return blobSizes;
}

export function createObjectCalls(options: ObjectCallsOptions): ObjectCalls {
  const { calls, holders, checkKeys, nameOf } = options;
  const batchOf = (keys: readonly string[], keysMax: number, { tenant = DEFAULT_TENANT }: CallOptions): KeyBatch => {
    const batch = encodeKeys(keys);
    checkKeys(batch, keysMax, "user");
    return tenant === DEFAULT_TENANT ? batch : encodeKeys(scopeKeys(tenant, keys));
  };
  return {
    async exist(keys, callOptions: CallOptions = {}): Promise<PresenceAnswer[]> {
      const answer = await lookupAll(calls, batchOf(keys, KEYS_PER_QUERY_MAX, callOptions), callOptions.signal);
      return keys.map((key, index) => presenceOf(key, answer, index));
    },
    async getMetaInfo(keys, callOptions: CallOptions = {}): Promise<MetaAnswer[]> {
      const answer = await lookupAll(calls, batchOf(keys, KEYS_PER_QUERY_MAX, callOptions), callOptions.signal);
      const blobSizes = await describeFound(answer, holders);
      const { results } = answer;
      return keys.map((key, index) => ({
        ...statusOf(key, answer, index),
        sizeBytes: results.sizeBytes(index),
        blobSizes: [...(blobSizes[index] ?? [])],
        generation: results.generation(index),
        locations: results.locations(index).map(({ member }) => nameOf(member)),
        family: results.family(index),
      }));
    },
    async delete(keys, callOptions: CallOptions = {}): Promise<DeleteAnswer[]> {
      const batch = batchOf(keys, KEYS_PER_CALL_MAX, callOptions);
      const answer = await calls.ask({ method: "remove", keys: batch, signal: callOptions.signal });
      return keys.map((key, index) => ({ ...statusOf(key, answer, index), existed: answer.results.existed(index) }));
    },
    async explain(key, callOptions: CallOptions = {}): Promise<ExplainAnswer> {
      return explainKey(options, batchOf([key], 1, callOptions), callOptions.signal);
    },
  };
}

function presenceOf(key: string, answer: Answer, index: number): PresenceAnswer {
  const status = statusOf(key, answer, index);
  switch (status.code) {
    case StatusCode.OK:
      return { ...status, presence: Presence.HIT };
    case StatusCode.NOT_FOUND:
      // A sure answer, and so no fault.
      return { key, code: StatusCode.OK, message: "", presence: Presence.MISS };
    default:
      return { ...status, presence: Presence.UNKNOWN };
  }
}

function statusOf(key: string, answer: Answer, index: number): KeyAnswer {
  const { results, errors } = answer;
  const code = results.code(index);
  if (results.otherFamily(index)) {
    return { key, code, message: describeOtherFamily(key, results.family(index), "remove") };
  }
  const message = errors.get(index)?.message ?? (results.inDoubt(index) ? DOUBT_MESSAGE : MESSAGES[code]);
  return { key, code, message: message ?? `the owner of the key answered ${StatusCode[code] ?? code}` };
}

const MESSAGES: Partial<Record<StatusCode, string>> = {
  [StatusCode.OK]: "",
  [StatusCode.NOT_FOUND]: "no object is set under this key; set it first",
  [StatusCode.TRY_AGAIN]: "the owner of the key can't tell yet, since the ring is changing; try again",
};
