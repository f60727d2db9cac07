/**
 * One client process of the main job: started by `hbmesh demo` with a process channel, follows its orders (demo-job.ts)
 * and ends when the channel closes. The set side holds the file's bytes in HBM of its device, the get side empty memory
 * of the same layout; every blob is an allocation of its own, as layers of a KV cache are.
 */
import { createHash } from "node:crypto";
import { open } from "node:fs/promises";
import { parseAddress } from "../base/address.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { Blob, DeviceBlobList, HeteroClient, SimDevice } from "../client/index.js";
import { loadAddon } from "../sidecar/addon.js";
import { type Answer, type CarriedBy, type ClientSettings, layOut, type Order } from "./demo-job.js";
import { ignoreTerminalSignals } from "./signals.js";

/** docs/API.md: keys a call. */
const keysPerCallMax = 10_000;

class JobClient {
  readonly #settings: ClientSettings;
  readonly #client: HeteroClient;
  readonly #device: SimDevice;
  readonly #objects: Blob[][];

  private constructor(settings: ClientSettings, client: HeteroClient) {
    this.#settings = settings;
    this.#client = client;
    this.#device = new SimDevice(settings.deviceIndex);
    this.#objects = layOut(settings.totalBytes, settings.shape).objects.map((sizes) =>
      sizes.map((bytes) => new Blob(this.#device.allocate(BigInt(bytes)), BigInt(bytes))),
    );
  }

  static async open(settings: ClientSettings): Promise<JobClient> {
    const client = new HeteroClient(parseAddress(settings.workerAddress, "the worker address"));
    await client.init();
    const job = new JobClient(settings, client);
    if (settings.role === "set") {
      await job.#load();
    } else {
      job.#clear();
    }
    return job;
  }

  get deviceCount(): number {
    return this.#client.deviceCount;
  }

  /** Puts the file into HBM, blob by blob. */
  async #load(): Promise<void> {
    const file = await open(this.#settings.file, "r");
    try {
      const buffer = Buffer.alloc(this.#settings.shape.blobBytes);
      for (const blob of this.#objects.flat()) {
        const bytes = Number(blob.size);
        let filled = 0;
        while (filled < bytes) {
          const { bytesRead } = await file.read(buffer, filled, bytes - filled);
          if (bytesRead === 0) {
            throw new HbmeshError(
              StatusCode.INVALID,
              `${this.#settings.file} became shorter while it was read; run it again`,
            );
          }
          filled += bytesRead;
        }
        this.#device.copyIn(blob.pointer, buffer.subarray(0, bytes));
      }
    } finally {
      await file.close();
    }
  }

  /** So that only bytes that really arrive can give the right hash. */
  #clear(): void {
    const zeros = Buffer.alloc(this.#settings.shape.blobBytes);
    for (const blob of this.#objects.flat()) {
      this.#device.copyIn(blob.pointer, zeros.subarray(0, Number(blob.size)));
    }
  }

  #keys(round: number): string[] {
    return this.#objects.map((_, index) => `${this.#settings.keyPrefix}:${round}:${index}`);
  }

  async run(round: number): Promise<{ seconds: number; paths: CarriedBy[] }> {
    const keys = this.#keys(round);
    const lists = this.#objects.map((blobs) => new DeviceBlobList(this.#settings.deviceIndex, blobs));
    const paths: CarriedBy[] = [];
    const started = process.hrtime.bigint();
    for (let first = 0; first < keys.length; first += keysPerCallMax) {
      const callKeys = keys.slice(first, first + keysPerCallMax);
      const callLists = lists.slice(first, first + keysPerCallMax);
      const result =
        this.#settings.role === "set"
          ? await this.#client.mSetD2H(callKeys, callLists)
          : await this.#client.mGetH2D(callKeys, callLists, { timeoutMs: this.#settings.timeoutMs });
      result.throwIfFailed();
      for (const path of result.paths) {
        paths.push({
          transport: path.transport,
          lanes: path.lanes,
          bytes: Number(path.bytes),
          fallback: path.fallback,
          source: path.source,
        });
      }
    }
    const seconds = Number(process.hrtime.bigint() - started) / 1e9;
    return { seconds, paths };
  }

  hash(): string {
    const hash = createHash("sha256");
    for (const blob of this.#objects.flat()) {
      hash.update(this.#device.copyOut(blob.pointer, blob.size));
    }
    if (this.#settings.role === "get") {
      this.#clear();
    }
    return hash.digest("hex");
  }

  async delete(round: number): Promise<void> {
    const keys = this.#keys(round);
    for (let first = 0; first < keys.length; first += keysPerCallMax) {
      const result = await this.#client.delete(keys.slice(first, first + keysPerCallMax));
      result.throwIfFailed();
    }
  }

  async limit(threads: number, pieceBytes: number): Promise<number> {
    const bytes = BigInt(this.#settings.totalBytes);
    return await loadAddon().measureCopyBandwidth(threads, bytes, BigInt(pieceBytes), 1);
  }

  async close(): Promise<void> {
    await this.#client.close();
    for (const blob of this.#objects.flat()) {
      this.#device.free(blob.pointer);
    }
  }
}

let job: JobClient | undefined;

function theJob(): JobClient {
  if (job === undefined) {
    throw new Error("the first order must be open");
  }
  return job;
}

async function follow(order: Order): Promise<Answer> {
  switch (order.t) {
    case "open":
      job = await JobClient.open(order.settings);
      return { t: "opened", deviceCount: job.deviceCount };
    case "run":
      return { t: "ran", ...(await theJob().run(order.round)) };
    case "hash":
      return { t: "hashed", sha256: theJob().hash() };
    case "delete":
      await theJob().delete(order.round);
      return { t: "deleted" };
    case "limit":
      return { t: "limited", bytesPerSecond: await theJob().limit(order.threads, order.pieceBytes) };
    case "close":
      await theJob().close();
      return { t: "closed" };
    default: {
      const unknown: never = order;
      throw new Error(`unknown order ${JSON.stringify(unknown)}`);
    }
  }
}

async function answer(order: Order): Promise<void> {
  let message: Answer;
  try {
    message = await follow(order);
  } catch (error) {
    const failure = HbmeshError.from(error);
    message = { t: "failed", code: failure.codeName, message: failure.message, key: failure.key ?? null };
  }
  process.send?.(message, () => {
    if (message.t === "closed") {
      process.disconnect();
    }
  });
}

// Ctrl-C reaches the whole group; this process ends with its launcher, which cleans up first.
ignoreTerminalSignals();
process.on("disconnect", () => process.exit(0));
process.on("message", (order: Order) => {
  void answer(order);
});
