/**
 * StoreService over a Store: what the process that hosts the embedded store serves to the others.
 */
import type { ServiceImpl } from "@connectrpc/connect";
import type { StoreEntry as EntryMessage, StoreService } from "../gen/hbmesh/v1/cluster_pb.js";
import type { Store, StoreEntry } from "./store.js";

type EntryInit = Omit<EntryMessage, "$typeName" | "$unknown">;

/** Errors are the store's own HbmeshErrors; who serves this translates them. */
export function createStoreService(store: Store): ServiceImpl<typeof StoreService> {
  return {
    async get(request, { signal }) {
      if (request.prefix) {
        const { entries, revision } = await store.getPrefix(request.key, { signal });
        return { entries: entries.map(toMessage), revision };
      }
      const entry = await store.get(request.key, { signal });
      return { entries: entry === undefined ? [] : [toMessage(entry)], revision: entry?.modifyRevision ?? 0n };
    },
    put(request, { signal }) {
      return store.put(request.key, request.value, {
        signal,
        leaseId: request.leaseId === 0n ? undefined : request.leaseId,
        expectedRevision: request.expectedRevision,
      });
    },
    async delete(request, { signal }) {
      return { existed: await store.delete(request.key, { signal }) };
    },
    async grantLease(request, { signal }) {
      return { leaseId: await store.grantLease(request.ttlMs, { signal }) };
    },
    async keepAlive(request, { signal }) {
      return { alive: await store.keepAlive(request.leaseId, { signal }) };
    },
    async revokeLease(request, { signal }) {
      await store.revokeLease(request.leaseId, { signal });
      return {};
    },
    async *watch(request, { signal }) {
      for await (const batch of store.watch(request.prefix, { signal })) {
        const events = batch.events.map((event) => ({ entry: toMessage(event.entry), deleted: event.deleted }));
        yield { events, revision: batch.revision, snapshot: batch.snapshot };
      }
    },
  };
}

function toMessage(entry: StoreEntry): EntryInit {
  return { key: entry.key, value: entry.value, modifyRevision: entry.modifyRevision };
}
