/**
 * Explain: everything that can be found out about one key: its owner's knowledge, and what each holder says of the
 * bytes. For people; asks several processes.
 */
import type { CancelSignal } from "../base/cancel.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { decodeKey, type KeyBatch, splitTenant } from "../decision/index.js";
import type { ExplainAnswer, ExplainedLocation } from "./contract.js";
import { FAMILY_NAMES } from "./families.js";
import type { Holders } from "./holders.js";
import type { OwnerCalls } from "./owner-calls.js";
import { Results } from "./records.js";

export interface ExplainOptions {
  calls: OwnerCalls;
  holders: Holders;
  nameOf: (memberId: number) => string;
}

/**
 * `key` is a batch of one key that is allowed. Never rejects but by the signal: an owner that can't be asked is the
 * answer.
 */
export async function explainKey(
  options: ExplainOptions,
  key: KeyBatch,
  signal?: CancelSignal,
): Promise<ExplainAnswer> {
  const { calls, holders, nameOf } = options;
  const asked: ExplainAnswer = {
    key: splitTenant(decodeKey(key, 0)).key,
    code: StatusCode.OK,
    message: "",
    owner: "",
    epoch: 0n,
    complete: false,
    missing: [],
    family: 0,
    generation: 0n,
    sizeBytes: 0n,
    locations: [],
    waiting: 0,
    ended: "",
    endedGeneration: 0n,
    endedMillisecondsAgo: 0n,
    endedBy: "",
  };
  try {
    const { owner, explanation } = await calls.explain(key, signal);
    const { result: bytes, stale: _stale, missing, endedBy, ...known } = explanation;
    const result = new Results(bytes, 1);
    const answer: ExplainAnswer = {
      ...asked,
      ...known,
      owner: nameOf(owner),
      missing: missing.map(nameOf),
      endedBy: endedBy === 0 ? "" : nameOf(endedBy),
      code: result.code(0),
      family: result.family(0),
      generation: result.generation(0),
      sizeBytes: result.sizeBytes(0),
      locations: await Promise.all(
        result.locations(0).map(async ({ member, slot }): Promise<ExplainedLocation> => {
          const place = { workerAddress: nameOf(member), slot };
          try {
            const held = await holders.explain(member, key, { slot, generation: result.generation(0) });
            return { ...place, ...held, message: describeHeld(held.code) };
          } catch (reason) {
            const error = HbmeshError.from(reason);
            return { ...place, code: error.code, message: error.message, blobSizes: [], detail: "" };
          }
        }),
      ),
    };
    const verdict = verdictOf(answer);
    const { code, message } = verdict;
    const lost = code === StatusCode.NOT_FOUND && answer.ended !== "removed";
    const why = lost ? await whyLost(options, key, endedBy, answer.endedGeneration) : "";
    return { ...answer, code, message: `${message}${why}` };
  } catch (reason) {
    signal?.throwIfAborted();
    const error = HbmeshError.from(reason);
    return { ...asked, code: error.code, message: error.message, owner: error.node ?? "" };
  }
}

/** The same as JSON text, for the sidecar's clients. 64-bit numbers are text, as in proto3's JSON. */
export function toJson(answer: ExplainAnswer): string {
  const { code, family, locations, ...rest } = answer;
  const document = {
    ...rest,
    code: StatusCode[code] ?? String(code),
    family: FAMILY_NAMES[family] ?? String(family),
    locations: locations.map(({ code: locationCode, detail, ...place }) => ({
      ...place,
      code: StatusCode[locationCode] ?? String(locationCode),
      detail: parseDetail(detail),
    })),
  };
  return JSON.stringify(document, (_name, value: unknown) => (typeof value === "bigint" ? value.toString() : value));
}

/** A holder's own document is put in as such; text that is none stays text. */
function parseDetail(detail: string): unknown {
  try {
    return detail === "" ? undefined : JSON.parse(detail);
  } catch {
    return detail;
  }
}

/**
 * What the last holder says of how it lost the key, or, where the owner remembers none, what this member says: full
 * memory ends more keys than an owner remembers.
 */
async function whyLost(
  { calls, holders, nameOf }: ExplainOptions,
  key: KeyBatch,
  endedBy: number,
  generation: bigint,
): Promise<string> {
  const member = endedBy === 0 ? calls.view.selfId : endedBy;
  // An answer of one that is gone is no answer: what is known of the key stands without it.
  const held = await holders.explain(member, key, { slot: 0, generation }).catch(() => undefined);
  const detail = parseDetail(held?.detail ?? "") as { reason?: unknown; ended?: unknown } | string | undefined;
  if (typeof detail !== "object" || typeof detail.reason !== "string") {
    return "";
  }
  return detail.ended === undefined && !detail.reason.includes("evicted")
    ? ""
    : `; ${nameOf(member)}: ${detail.reason}`;
}

function describeHeld(code: number): string {
  return code === StatusCode.OK
    ? ""
    : "the holder no longer has this version; a reader that finds out reports it, and its place is forgotten";
}

/** What is known of the key as a whole. A miss that isn't sure is none. */
function verdictOf(answer: ExplainAnswer): { code: StatusCode; message: string } {
  if (answer.code !== StatusCode.NOT_FOUND) {
    return { code: answer.code, message: "" };
  }
  if (!answer.complete) {
    const message = `the owner has not heard yet from ${answer.missing.join(", ")} what they hold, since the ring changed; try again`;
    return { code: StatusCode.TRY_AGAIN, message };
  }
  return { code: StatusCode.NOT_FOUND, message: `no object is set under this key${describeEnd(answer)}` };
}

function describeEnd({ ended, endedBy, endedMillisecondsAgo }: ExplainAnswer): string {
  switch (ended) {
    case "removed":
      return `; it was removed ${endedMillisecondsAgo} ms ago through ${endedBy}`;
    case "forgotten":
      return `; its last holder lost it ${endedMillisecondsAgo} ms ago (expired, evicted, or its process ended), told by ${endedBy}`;
    default:
      return "; as far as its owner remembers, it was never set";
  }
}
