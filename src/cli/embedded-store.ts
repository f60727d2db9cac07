/** The embedded store, served by this process to workers on this machine (`--metadata_address hbmesh://IP:PORT`). */
import { createSystemClock } from "../base/clock.js";
import { createLogger } from "../base/log.js";
import { createMemoryStore } from "../metadata/index.js";
import { startApiServer } from "../server/index.js";

export interface HostedStore {
  /** `hbmesh://IP:PORT`, as workers take it. */
  readonly address: string;
  /** Ends open watches. The members that it held are gone with it. */
  close(): Promise<void>;
}

/** Listens on loopback, at a free port. */
export async function hostEmbeddedStore(): Promise<HostedStore> {
  const store = createMemoryStore(createSystemClock());
  const server = await startApiServer({ address: "127.0.0.1:0", log: createLogger("store", "warn"), store });
  return {
    address: `hbmesh://${server.address}`,
    async close() {
      await server.close();
      await store.close();
    },
  };
}
