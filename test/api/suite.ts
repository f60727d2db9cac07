/**
 * What the files of the API suite are written with: a group of cases (cases.ts) over two workers by tcp, by shm, and
 * within one worker, with clients, device memory and a key that belong to the case.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { StatusCode } from "../../src/base/errors.js";
import { HeteroClient, type TransferFuture } from "../../src/client/index.js";
import { DeviceObject, type Fixture, startFixture } from "../cluster/fixture.js";
import { type ApiGroup, apiGroups, type CaseName, type GroupName, places, tenantsFile } from "./cases.js";
import { ClientProcess } from "./client-process.js";

/** How long what must come is waited for. */
export const waitMs = 30_000;
/** Blobs of an object, unless a case says otherwise. */
export const sizes: readonly number[] = [72 * 1024, 1, 4096, 100_000];
export const totalBytes = BigInt(sizes.reduce((sum, size) => sum + size, 0));

/** Starts the workers that a group needs. `close` takes the tenants file away again. */
export async function startGroup(group: GroupName, where: (typeof places)[number]): Promise<Fixture> {
  const { cluster = {} } = apiGroups[group] as ApiGroup;
  const { tenants, ...options } = cluster;
  const { transport, workers } = where;
  const folder = tenants ? mkdtempSync(join(tmpdir(), "hbmesh-tenants-")) : undefined;
  const close = (): void => (folder === undefined ? undefined : rmSync(folder, { recursive: true }));
  try {
    if (folder !== undefined) {
      writeFileSync(join(folder, "tenants"), tenantsFile);
    }
    const workerArgs = folder === undefined ? [] : ["--tenants_file", join(folder, "tenants")];
    const fixture = await startFixture({ transport, workers, devices: 8, workerArgs, ...options });
    return { ...fixture, close: () => fixture.close().finally(close) };
  } catch (error) {
    close();
    throw error;
  }
}

/** Where a case runs. What it makes is taken back after it. */
export class ApiPlace {
  readonly workers: number;
  /** What carries bytes from the first worker to the second. */
  readonly transport: "tcp" | "shm" | "local";
  #fixture: Fixture | undefined;
  #clients: HeteroClient[] = [];
  #made: DeviceObject[] = [];
  #processes: ClientProcess[] = [];
  #first: HeteroClient | undefined;
  #second: HeteroClient | undefined;
  #key = "";

  constructor(where: (typeof places)[number]) {
    this.workers = where.workers;
    this.transport = where.workers === 1 ? "local" : where.transport;
  }

  async open(fixture: Fixture, withClients: boolean): Promise<void> {
    this.#fixture = fixture;
    if (withClients) {
      this.#first = this.#make(0);
      this.#second = this.#make(1);
      await Promise.all([this.#first.init(), this.#second.init()]);
    }
  }

  async close(): Promise<void> {
    await Promise.all([this.#first?.close(), this.#second?.close()]);
    await this.#fixture?.close();
  }

  begin(): void {
    this.#key = new HeteroClient({ host: "127.0.0.1", port: 1 }).generateKey("api");
  }

  async end(): Promise<void> {
    await Promise.all([...this.#processes, ...this.#clients].map((each) => each.close()));
    for (const object of this.#made) {
      object.free();
    }
    this.#processes = [];
    this.#clients = [];
    this.#made = [];
  }

  /** Clients of the first and the second worker (of one: two clients of it) that live as long as the group. */
  get first(): HeteroClient {
    return this.#first as HeteroClient;
  }
  get second(): HeteroClient {
    return this.#second as HeteroClient;
  }

  /** The case's own key. */
  get key(): string {
    return this.#key;
  }

  /** IP:PORT of the first worker (0) or the second. */
  address(worker: 0 | 1): string {
    return this.#fixture?.addresses[worker === 0 ? 0 : this.workers - 1] ?? "";
  }

  /** A client that isn't connected yet, of the case's own. */
  newClient(worker: 0 | 1, token?: string): HeteroClient {
    const client = this.#make(worker, token);
    this.#clients.push(client);
    return client;
  }

  #make(worker: 0 | 1, token?: string): HeteroClient {
    const [host = "", port] = this.address(worker).split(":");
    // How busy the machine is must not matter.
    const options = { host, port: Number(port), requestTimeoutMs: 60_000 };
    return new HeteroClient(token === undefined ? options : { ...options, token });
  }

  async client(worker: 0 | 1, token?: string): Promise<HeteroClient> {
    const client = this.newClient(worker, token);
    await client.init();
    return client;
  }

  async process(worker: 0 | 1): Promise<ClientProcess> {
    const started = await ClientProcess.start(this.address(worker));
    this.#processes.push(started);
    return started;
  }

  memory(device: number, seed?: number, of: readonly number[] = sizes): DeviceObject {
    const object = new DeviceObject(device, of, seed);
    this.#made.push(object);
    return object;
  }

  async publish(client: HeteroClient, key: string, from: DeviceObject): Promise<TransferFuture> {
    const [future] = await client.devPublish([key], [from.list]);
    return future as TransferFuture;
  }

  async subscribe(client: HeteroClient, key: string, to: DeviceObject, timeoutMs?: number): Promise<TransferFuture> {
    const [future] = await client.devSubscribe([key], [to.list], timeoutMs === undefined ? {} : { timeoutMs });
    return future as TransferFuture;
  }
}

/** How a future ended: "OK", or the name of the code. */
export async function endOf(future: TransferFuture | undefined): Promise<string> {
  return await (future as TransferFuture).get(waitMs).then(
    () => "OK",
    (error: { code: StatusCode }) => StatusCode[error.code] ?? String(error),
  );
}

/** Different codes of a result with how many they are: of thousands of keys, what they answered. */
export function countsOf(result: { statuses: readonly { code: StatusCode }[] }): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { code } of result.statuses) {
    const name = StatusCode[code] ?? String(code);
    counts[name] = (counts[name] ?? 0) + 1;
  }
  return counts;
}

export type DefineCase<Group extends GroupName> = (name: CaseName<Group>, run: () => Promise<void>) => void;

/** Registers a group at all places. Fails for a case that isn't in the table, and when one of the table is missing. */
export function apiSuite<Group extends GroupName>(
  group: Group,
  define: (at: ApiPlace, define: DefineCase<Group>) => void,
): void {
  describe.each(places)(`${group}: $place`, (where) => {
    const at = new ApiPlace(where);
    const defined: string[] = [];
    beforeAll(async () => {
      await at.open(await startGroup(group, where), group !== "tenants");
    });
    beforeEach(() => at.begin());
    afterEach(async () => at.end());
    afterAll(async () => at.close());
    define(at, (name, run) => {
      defined.push(name);
      it(name, run);
    });
    it("every case of the table is here, once", () => {
      expect([...defined].sort()).toEqual([...apiGroups[group].cases].sort());
    });
  });
}
