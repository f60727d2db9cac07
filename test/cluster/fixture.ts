/**
 * A local cluster and clients for the tests of the whole path. The test's own process is a client process: everything
 * it asks goes over queues and sockets to workers that are other processes.
 */
import { parseAddress } from "../../src/base/address.js";
import { StatusCode } from "../../src/base/errors.js";
import { type LocalCluster, type LocalClusterOptions, startLocalCluster } from "../../src/cli/local-cluster.js";
import { Blob, DeviceBlobList, HeteroClient, SimDevice } from "../../src/client/index.js";
import { expectNothingNew, type Leftovers, leftoversNow } from "./leftovers.js";

export interface Fixture {
  readonly cluster: LocalCluster;
  /** Worker addresses. */
  readonly addresses: readonly string[];
  /** A client of worker `index`, closed with the fixture. */
  client(index: number): Promise<HeteroClient>;
  /** Ends everything and fails if something stayed. */
  close(): Promise<void>;
}

export async function startFixture(options: LocalClusterOptions = {}): Promise<Fixture> {
  const before: Leftovers = leftoversNow();
  const cluster = await startLocalCluster({ devices: 4, sharedMemorySizeMb: 64, ...options });
  const addresses = cluster.workers.map((worker) => worker.ready.workerAddress);
  const clients: HeteroClient[] = [];
  return {
    cluster,
    addresses,
    async client(index) {
      const client = clientOf(addresses[index] ?? "");
      await client.init();
      clients.push(client);
      return client;
    },
    async close() {
      await Promise.all(clients.map((client) => client.close()));
      await cluster.close();
      expectNothingNew(before, addresses);
    },
  };
}

export function clientOf(address: string, options: { connectTimeoutMs?: number } = {}): HeteroClient {
  return new HeteroClient({ ...parseAddress(address, "a worker's address"), ...options });
}

/** Device memory with these blobs; byte i of blob b is a function of both and of `seed`. */
export class DeviceObject {
  readonly list: DeviceBlobList;
  readonly #device: SimDevice;
  readonly #sizes: readonly number[];

  constructor(device: number, sizes: readonly number[], seed?: number) {
    this.#device = new SimDevice(device);
    this.#sizes = sizes;
    const blobs = sizes.map((bytes) => new Blob(this.#device.allocate(bytes), BigInt(bytes)));
    this.list = new DeviceBlobList(device, blobs);
    this.fill(seed);
  }

  /** Without a seed: zeros. */
  fill(seed?: number): void {
    for (const [index, blob] of this.list.blobs.entries()) {
      this.#device.copyIn(blob.pointer, patternOf(Number(blob.size), index, seed));
    }
  }

  bytes(): Buffer[] {
    return this.list.blobs.map((blob) => Buffer.from(this.#device.copyOut(blob.pointer, blob.size)));
  }

  /** Has it the bytes that fill(seed) gives? */
  holds(seed?: number): boolean {
    return this.bytes().every((bytes, index) => bytes.equals(patternOf(this.#sizes[index] ?? 0, index, seed)));
  }

  free(): void {
    for (const blob of this.list.blobs) {
      this.#device.free(blob.pointer);
    }
  }
}

function patternOf(bytes: number, blob: number, seed: number | undefined): Buffer {
  const buffer = Buffer.alloc(bytes);
  if (seed !== undefined) {
    let state = (seed * 2_654_435_761 + blob * 40_503 + 1) >>> 0;
    for (let offset = 0; offset < bytes; offset += 1) {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
      buffer[offset] = state >>> 24;
    }
  }
  return buffer;
}

/** Codes of a batch by name, to compare with. */
export function codesOf(result: { statuses: readonly { code: StatusCode }[] }): string[] {
  return result.statuses.map((status) => StatusCode[status.code] ?? String(status.code));
}

/** What a call rejected with; fails when it didn't. */
export async function failureOf(
  call: Promise<unknown>,
): Promise<{ code: StatusCode; message: string; key?: string; node?: string }> {
  try {
    await call;
  } catch (error) {
    return error as { code: StatusCode; message: string; key?: string; node?: string };
  }
  throw new Error("the call should have been rejected");
}
