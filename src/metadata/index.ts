import type { Clock } from "../base/clock.js";
import { parseMetadataAddress } from "../base/config.js";
import type { EtcdFiles } from "../base/etcd-access.js";
import { createEtcdStore } from "./etcd-store.js";
import { createMemoryStore } from "./memory-store.js";
import { createRemoteStore } from "./remote-store.js";
import type { Store } from "./store.js";

export { createEtcdStore } from "./etcd-store.js";
export { createMemoryStore } from "./memory-store.js";
export { createRemoteStore } from "./remote-store.js";
export type * from "./store.js";
export { createStoreService } from "./store-service.js";

/**
 * Opens the store that a `metadataAddress` names (src/base/config.ts). Connects at first use. `files`: for an etcd that
 * asks who comes.
 */
export function openStore(metadataAddress: string, clock: Clock, files: EtcdFiles = {}): Store {
  const address = parseMetadataAddress(metadataAddress);
  switch (address.t) {
    case "memory":
      return createMemoryStore(clock);
    case "hbmesh":
      return createRemoteStore(address.address);
    case "etcd":
      return createEtcdStore(address.endpoints, clock, files);
  }
}
