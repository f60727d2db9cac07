/**
 * getMetaInfo of any number of blobs. One answer carries some 4,000,000 blob sizes: keys that were too much for it are
 * asked for again, half of them at a time.
 */
import { HbmeshError, StatusCode } from "../base/errors.js";
import { flattenKeys } from "./arguments.js";
import { BatchResult, MetaResult, type ObjectMeta, Status } from "./batch-result.js";
import { toBatchResult } from "./reply.js";
import type { ClientSession } from "./session.js";

/** What is known of some keys, in their order. */
interface Part {
  statuses: Status[];
  metas: (ObjectMeta | undefined)[];
  node: string;
}

/** As HeteroClient.getMetaInfo. */
export async function askMetadata(
  session: ClientSession,
  keys: readonly string[],
  signal: AbortSignal | undefined,
): Promise<MetaResult> {
  const { statuses, metas, node } = await ask(session, keys, signal);
  return new MetaResult(new BatchResult(statuses, [], node), metas);
}

async function ask(session: ClientSession, keys: readonly string[], signal: AbortSignal | undefined): Promise<Part> {
  const part = await askOnce(session, keys, signal);
  const left = [...keys.keys()].filter((index) => part.statuses[index]?.code === StatusCode.OUT_OF_RANGE);
  if (keys.length === 1 || left.length === 0) {
    return part;
  }
  const half = Math.ceil(left.length / 2);
  for (const indexes of [left.slice(0, half), left.slice(half)].filter(({ length }) => length > 0)) {
    const asked = indexes.map((index) => keys[index] as string);
    const told = await ask(session, asked, signal).catch((error: unknown) => failed(asked, HbmeshError.from(error)));
    for (const [at, index] of indexes.entries()) {
      part.statuses[index] = told.statuses[at] as Status;
      part.metas[index] = told.metas[at];
    }
  }
  return part;
}

async function askOnce(
  session: ClientSession,
  keys: readonly string[],
  signal: AbortSignal | undefined,
): Promise<Part> {
  const batch = flattenKeys(keys, session.limit("KeysPerQueryMax"));
  const call = { name: "getMetaInfo", op: "GetMeta", args: [0n, 0n, 0n, 0n], keys, batch, signal } as const;
  try {
    const { decoded, context } = await session.ask(call);
    const metas = decoded.answers.map((answer, index) =>
      answer.code === StatusCode.OK
        ? { sizeBytes: answer.bytes, blobSizes: decoded.blobSizes[index] ?? [], generation: answer.generation }
        : undefined,
    );
    return { statuses: [...toBatchResult(decoded, context).statuses], metas, node: context.node };
  } catch (error) {
    // The worker's word has no cause; a call that is itself too large has, and stays as it is.
    const tooMuch = error instanceof HbmeshError && error.code === StatusCode.OUT_OF_RANGE && error.cause === undefined;
    if (tooMuch && keys.length > 1) {
      return failed(keys, error);
    }
    throw error;
  }
}

function failed(keys: readonly string[], { code, message, node }: HbmeshError): Part {
  const statuses = keys.map((key) => new Status(code, message, key));
  return { statuses, metas: keys.map(() => undefined), node: node ?? "" };
}
