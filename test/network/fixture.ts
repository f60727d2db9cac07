/**
 * A cluster over hosts of its own: network namespaces, real etcd, a worker on each host started by `hbmesh start -w`,
 * and a client process on each. What is set through it is remembered, so that after each failure everything that is on
 * a living host can be looked for from every other.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "vitest";
import { isAlive, mainPath, until } from "../cluster/commands.js";
import { expectNothingNew, type Leftovers, leftoversNow } from "../cluster/leftovers.js";
import { EtcdMembers } from "./etcd-members.js";
import { HostProcess, type Outcome } from "./host-process.js";
import { addressOf, Hosts, namespacesThere } from "./hosts.js";

export interface Health {
  ready: boolean;
  reason: string;
  arenaUsedBytes: number;
  objects: number;
  sessions: number;
}

export interface Worker {
  host: number;
  address: string;
  pid: number;
  sidecarPid: number;
  log: string;
}

/**
 * Codes with which a call may fail while something is broken: the caller is to try again, or to connect anew. Never
 * NOT_FOUND, and never OK with other bytes.
 */
export const TRANSIENT = [
  "TRY_AGAIN",
  "RPC_UNAVAILABLE",
  "RPC_DEADLINE_EXCEEDED",
  "RPC_PEER_DEAD",
  "CLIENT_WORKER_DISCONNECT",
  "NO_AVAILABLE_WORKER",
  "NOT_READY",
  "SHUTTING_DOWN",
];
const PATIENCE_MS = 60_000;
const END_MS = 15_000;
const PORT = 31501;

export interface NetworkFixtureOptions {
  hosts?: number;
  etcd?: 1 | 3;
  /** Further flags of the worker of a host. */
  flagsOf?: (host: number) => readonly string[];
  arenaMb?: number;
}

export class NetworkFixture {
  readonly hosts: Hosts;
  readonly etcd: EtcdMembers;
  readonly tokenFile: string;
  readonly workers = new Map<number, Worker>();
  /** By key: sizes of its blobs, the version that was set for sure, and the host that it was set at. */
  readonly objects = new Map<string, { sizes: number[]; version: number; host: number }>();
  readonly #folder: string;
  readonly #before: Leftovers;
  readonly #options: NetworkFixtureOptions;
  readonly #processes = new Map<number, HostProcess>();
  readonly #others: HostProcess[] = [];
  #written = 0;

  private constructor(hosts: Hosts, etcd: EtcdMembers, before: Leftovers, options: NetworkFixtureOptions) {
    this.hosts = hosts;
    this.etcd = etcd;
    this.#before = before;
    this.#options = options;
    this.#folder = mkdtempSync(join(tmpdir(), "hbmesh-net-"));
    this.tokenFile = join(this.#folder, "token");
    writeFileSync(this.tokenFile, "the-token-of-the-network-test\n");
  }

  static async start(options: NetworkFixtureOptions = {}): Promise<NetworkFixture> {
    const before = leftoversNow();
    const hosts = await Hosts.create(options.hosts ?? 3);
    let etcd: EtcdMembers | undefined;
    let fixture: NetworkFixture | undefined;
    try {
      etcd = await EtcdMembers.start(hosts, options.etcd ?? 1);
      fixture = new NetworkFixture(hosts, etcd, before, options);
      const started = fixture;
      await Promise.all(started.all.map((host) => started.startWorker(host)));
      await Promise.all(started.all.map((host) => started.client(host)));
      return fixture;
    } catch (reason) {
      await (fixture?.close() ?? Promise.all([etcd?.close(), hosts.close()]));
      throw reason;
    }
  }

  /** Numbers of the hosts. */
  get all(): number[] {
    return Array.from({ length: this.hosts.count }, (_, index) => index + 1);
  }

  othersThan(host: number): number[] {
    return this.all.filter((each) => each !== host);
  }

  worker(host: number): Worker {
    const worker = this.workers.get(host);
    if (worker === undefined) {
      throw new Error(`host ${host} has no worker`);
    }
    return worker;
  }

  /** Of the sidecar that runs on a host now; 0: none. */
  sidecarPid(host: number): number {
    const wanted = `--worker_address=${addressOf(host)}:${PORT}`;
    const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
    return Number(pids.find((pid) => isSidecar(pid, wanted)) ?? 0);
  }

  /** The same, once there is one. */
  async untilSidecar(host: number): Promise<number> {
    return until(`host ${host} has a sidecar`, () => this.sidecarPid(host) || undefined, PATIENCE_MS);
  }

  /** `hbmesh ...args` on a host. */
  hbmesh(host: number, ...args: string[]): ReturnType<Hosts["run"]> {
    return this.hosts.run(host, process.execPath, mainPath, ...args);
  }

  /** `hbmesh start -w` on a host: takes over what an earlier worker left there. */
  async startWorker(host: number): Promise<Worker> {
    const address = `${addressOf(host)}:${PORT}`;
    const place = ["--worker_address", address, "--etcd_address", this.etcd.endpoints, "--log_dir", this.#folder];
    const { arenaMb = 48, flagsOf = () => [] } = this.#options;
    const size = ["--shared_memory_size_mb", String(arenaMb), "--devices", "2", "--lanes", "2", "--transport", "tcp"];
    const secret = ["--cluster_token_file", this.tokenFile];
    const flags = [...place, ...size, ...secret, ...flagsOf(host), "--json"];
    const { code, stdout, stderr } = await this.hbmesh(host, "start", "-w", ...flags);
    expect(code, stderr).toBe(0);
    const worker: Worker = { host, address, ...(JSON.parse(stdout) as Omit<Worker, "host" | "address">) };
    this.workers.set(host, worker);
    return worker;
  }

  /** The client process of a host; connected once, and kept. */
  async client(host: number): Promise<HostProcess> {
    const known = this.#processes.get(host);
    if (known?.isRunning === true) {
      return known;
    }
    const made = await this.newClient(host);
    this.#processes.set(host, made);
    return made;
  }

  /** A further one. */
  async newClient(host: number): Promise<HostProcess> {
    const made = await this.newProcess(host);
    await made.ask("connect");
    return made;
  }

  /** One that is not connected yet. */
  async newProcess(host: number): Promise<HostProcess> {
    const made = await HostProcess.start(this.hosts, host, `${addressOf(host)}:${PORT}`, this.tokenFile);
    this.#others.push(made);
    return made;
  }

  /** What a worker says of itself; undefined: it does not answer. */
  async health(host: number): Promise<Health | undefined> {
    const said = await this.#api<Partial<Record<keyof Health, unknown>>>(host, "ClusterService/Health");
    if (said === undefined) {
      return undefined;
    }
    return {
      ready: said.ready === true,
      reason: String(said.reason ?? ""),
      arenaUsedBytes: Number(said.arenaUsedBytes ?? 0),
      objects: Number(said.objects ?? 0),
      sessions: Number(said.sessions ?? 0),
    };
  }

  /** Worker addresses that it knows as members, sorted; undefined: it does not answer. */
  async members(host: number): Promise<{ epoch: bigint; addresses: string[]; ids: number[] } | undefined> {
    const said = await this.#api<{ epoch?: string; members?: { workerAddress: string; id: number }[] }>(
      host,
      "ClusterService/ListMembers",
    );
    return said === undefined
      ? undefined
      : {
          epoch: BigInt(said.epoch ?? 0),
          addresses: (said.members ?? []).map((m) => m.workerAddress).sort(),
          ids: (said.members ?? []).map((m) => m.id),
        };
  }

  /** All of these hosts are members as each of them sees it, and answer with certainty. */
  async untilWhole(hosts: readonly number[] = this.all): Promise<void> {
    const wanted = hosts.map((host) => `${addressOf(host)}:${PORT}`).sort();
    await Promise.all(
      hosts.map((host) =>
        until(
          `worker ${host} knows ${wanted.join(", ")}, and is ready`,
          async () => {
            const [members, health] = await Promise.all([this.members(host), this.health(host)]);
            return health?.ready === true && members?.addresses.join() === wanted.join();
          },
          PATIENCE_MS,
        ),
      ),
    );
  }

  /** What a worker has logged since `from` bytes of its log. */
  logOf(host: number, from = 0): string {
    return readFileSync(this.worker(host).log, "utf8").slice(from);
  }

  logLength(host: number): number {
    return this.logOf(host).length;
  }

  /** Sets so many new objects at a host, and remembers them. */
  async fill(host: number, count: number, sizes: readonly number[] = [4_096, 60]): Promise<string[]> {
    const keys = this.#newKeys(host, count);
    expect((await this.#set(host, keys, sizes)).filter(({ code }) => code !== "OK")).toEqual([]);
    return keys;
  }

  /** The same while something is broken: what can't be set at first is set again. */
  async fillPatiently(
    host: number,
    count: number,
    sizes: readonly number[] = [4_096, 60],
    keys: readonly string[] = this.#newKeys(host, count),
  ): Promise<readonly string[]> {
    let left = keys;
    await until(
      `${count} objects are set at host ${host}`,
      async () => {
        const set = await this.#set(host, left, sizes);
        for (const { key, code, message } of set) {
          expect(["OK", ...TRANSIENT], `${key} at host ${host}: ${message}`).toContain(code);
        }
        left = set.filter(({ code }) => code !== "OK").map(({ key }) => key);
        if (set.some(({ code }) => NEEDS_CONNECT.includes(code))) {
          await this.reconnect(host);
        }
        return left.length === 0;
      },
      PATIENCE_MS,
    );
    return keys;
  }

  /** What was set at a host is gone with it. */
  forget(host: number): void {
    for (const [key, object] of this.objects) {
      if (object.host === host) {
        this.objects.delete(key);
      }
    }
  }

  /**
   * Everything that was set is read at each of these hosts, with its bytes: what can't be told at first is asked again,
   * and nothing is ever said to be missing.
   */
  async expectAllFound(
    hosts: readonly number[] = this.all,
    keys: readonly string[] = [...this.objects.keys()],
  ): Promise<void> {
    await Promise.all(hosts.map((host) => this.#expectFoundAt(host, keys)));
  }

  /** Ends everything and fails if something stayed. */
  async close(): Promise<void> {
    for (const { pid, host } of this.workers.values()) {
      signal(pid, "SIGCONT");
      signal(this.sidecarPid(host), "SIGCONT");
    }
    await Promise.all(this.#others.map((process) => process.kill()));
    await this.#endWorkers();
    const addresses = [...this.workers.values()].map(({ address }) => address);
    await this.etcd.close();
    await this.hosts.close();
    rmSync(this.#folder, { recursive: true, force: true });
    expectNothingNew(this.#before, addresses);
    expect(namespacesThere().filter((name) => name.includes(`-${process.pid}-`))).toEqual([]);
  }

  /** As a service manager does it; what is left after that is killed with its host. */
  async #endWorkers(): Promise<void> {
    const pids = [...this.workers.values()].flatMap(({ host, pid }) => [pid, this.sidecarPid(host)]);
    for (const pid of pids) {
      signal(pid, "SIGTERM");
    }
    await until("the workers have ended", () => !pids.some((pid) => pid > 0 && isAlive(pid)), END_MS).catch(
      () => undefined,
    );
  }

  async #expectFoundAt(host: number, keys: readonly string[]): Promise<void> {
    let left = [...keys];
    await until(
      `all of ${keys.length} objects are read at host ${host}`,
      async () => {
        const outcomes = await this.read(host, left);
        for (const { key, code, message, version } of outcomes) {
          const what = `${key} at host ${host}: ${message}`;
          expect(["OK", ...TRANSIENT], what).toContain(code);
          expect(version === 0 || version === this.objects.get(key)?.version || code !== "OK", `bytes of ${what}`).toBe(
            true,
          );
        }
        left = outcomes.filter(({ code }) => code !== "OK").map(({ key }) => key);
        if (outcomes.some(({ code }) => NEEDS_CONNECT.includes(code))) {
          await this.reconnect(host);
        }
        return left.length === 0;
      },
      PATIENCE_MS,
    );
  }

  /** One get of these objects at a host. */
  async read(host: number, keys: readonly string[]): Promise<Outcome[]> {
    const client = await this.client(host);
    return client.ask<Outcome[]>("get", { keys, sizes: keys.map((key) => this.objects.get(key)?.sizes) });
  }

  /** After the sidecar of a host was lost. */
  async reconnect(host: number): Promise<void> {
    const client = await this.client(host);
    await until(
      `the client at host ${host} is connected again`,
      () =>
        client.ask("connect").then(
          () => true,
          () => false,
        ),
      PATIENCE_MS,
    );
  }

  #newKeys(host: number, count: number): string[] {
    return Array.from({ length: count }, () => `k-${host}-${++this.#written}`);
  }

  async #set(host: number, keys: readonly string[], sizes: readonly number[]): Promise<Outcome[]> {
    const client = await this.client(host);
    const versions = keys.map((_, index) => index + 1);
    const set = await client.ask<Outcome[]>("set", { keys, sizes: keys.map(() => sizes), versions });
    for (const [index, { key, code }] of set.entries()) {
      if (code === "OK") {
        this.objects.set(key, { sizes: [...sizes], version: versions[index] as number, host });
      }
    }
    return set;
  }

  async #api<Answer>(host: number, method: string): Promise<Answer | undefined> {
    const client = await this.client(host);
    return client.ask<Answer | undefined>("api", { method });
  }
}

/** Codes after which a client has to connect anew. */
export const NEEDS_CONNECT = ["CLIENT_WORKER_DISCONNECT", "NO_AVAILABLE_WORKER", "NOT_READY", "SHUTTING_DOWN"];

function isSidecar(pid: string, argument: string): boolean {
  try {
    const [program = "", ...args] = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
    return program.endsWith("/hbmesh-sidecar") && args.includes(argument);
  } catch {
    return false;
  }
}

/** To this process, if it is there. */
export function signal(pid: number, name: NodeJS.Signals): void {
  if (pid > 0 && isAlive(pid)) {
    process.kill(pid, name);
  }
}

/** SIGKILL; resolves when it is gone. */
export async function kill(...pids: number[]): Promise<void> {
  // 0 would be this process and all that it started.
  if (pids.some((pid) => pid <= 1)) {
    throw new Error(`no process to kill among ${pids.join(", ")}`);
  }
  for (const pid of pids) {
    process.kill(pid, "SIGKILL");
  }
  await until(`processes ${pids.join(", ")} are gone`, () => !pids.some((pid) => pid > 0 && isAlive(pid)));
}
