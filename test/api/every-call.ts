/** Every call about a batch of keys, to say the same of all of them. */
import type { CallOptions, DeviceBlobList, HeteroClient } from "../../src/client/index.js";

export interface EveryCall {
  readonly name: string;
  readonly keysMax: number;
  readonly hasBlobs: boolean;
  /** Layers have numbers in the place of keys. */
  readonly hasKeys: boolean;
  /** What the worker refuses about a whole subscription, its futures say: the first one's failure is the call's. */
  call(
    client: HeteroClient,
    keys: readonly string[],
    lists: readonly DeviceBlobList[],
    options?: CallOptions,
  ): Promise<unknown>;
}

const withBlobs = { keysMax: 10_000, hasBlobs: true, hasKeys: true } as const;
const keysOnly = { keysMax: 10_000, hasBlobs: false, hasKeys: true } as const;
const questions = { keysMax: 100_000, hasBlobs: false, hasKeys: true } as const;

export const everyCall: readonly EveryCall[] = [
  { name: "mSetD2H", ...withBlobs, call: (client, ...given) => client.mSetD2H(...given) },
  { name: "mGetH2D", ...withBlobs, call: (client, ...given) => client.mGetH2D(...given) },
  { name: "devPublish", ...withBlobs, call: (client, ...given) => client.devPublish(...given) },
  {
    name: "devSubscribe",
    ...withBlobs,
    call: async (client, ...given) => await (await client.devSubscribe(...given))[0]?.get(30_000),
  },
  { name: "devMSet", ...withBlobs, call: (client, ...given) => client.devMSet(...given) },
  { name: "devMGet", ...withBlobs, call: (client, ...given) => client.devMGet(...given) },
  {
    name: "reserveLayers",
    ...withBlobs,
    hasKeys: false,
    call: (client, _, lists, options) => client.reserveLayers(lists, options),
  },
  { name: "delete", ...keysOnly, call: (client, keys, _, options) => client.delete(keys, options) },
  { name: "devDelete", ...keysOnly, call: (client, keys, _, options) => client.devDelete(keys, options) },
  { name: "devLocalDelete", ...keysOnly, call: (client, keys, _, options) => client.devLocalDelete(keys, options) },
  { name: "exist", ...questions, call: (client, keys, _, options) => client.exist(keys, options) },
  { name: "getMetaInfo", ...questions, call: (client, keys, _, options) => client.getMetaInfo(keys, options) },
];
