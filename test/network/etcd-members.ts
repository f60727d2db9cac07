/**
 * Real etcd on the hub: one, or three that form a cluster, each of which can be killed, stopped and started again with
 * the data that it had.
 */
import type { ChildProcess } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Hosts, HUB, hubAddress } from "./hosts.js";

const CLIENT_PORT = 2379;
const PEER_PORT = 2380;

export class EtcdMembers {
  readonly #hosts: Hosts;
  readonly #count: number;
  readonly #folder = mkdtempSync(join(tmpdir(), "hbmesh-net-etcd-"));
  readonly #running = new Map<number, ChildProcess>();

  private constructor(hosts: Hosts, count: number) {
    this.#hosts = hosts;
    this.#count = count;
  }

  /** Resolves when all of them serve. */
  static async start(hosts: Hosts, count: 1 | 3): Promise<EtcdMembers> {
    const members = new EtcdMembers(hosts, count);
    try {
      await members.startAll();
    } catch (reason) {
      await members.close();
      throw reason;
    }
    return members;
  }

  /** For --etcd_address. */
  get endpoints(): string {
    return this.#each((index) => `${hubAddress(index)}:${CLIENT_PORT}`).join(",");
  }

  async startAll(): Promise<void> {
    await Promise.all(this.#each((index) => this.start(index)));
  }

  /** SIGKILL for those that run; resolves when they are gone. */
  async killAll(): Promise<void> {
    await Promise.all(this.#each((index) => this.kill(index)));
  }

  /** Of no effect on one that runs. Resolves when it serves: for one of three that takes another one. */
  async start(index: number): Promise<void> {
    if (this.#running.has(index)) {
      return;
    }
    const child = this.#hosts.spawn(HUB, "etcd", this.#flags(index), { stdio: ["ignore", "ignore", "pipe"] });
    this.#running.set(index, child);
    await new Promise<void>((resolve, reject) => {
      let said = "";
      child.stderr?.setEncoding("utf8").on("data", (text: string) => {
        said = `${said}${text}`.slice(-20_000);
        if (said.includes("ready to serve client requests")) {
          resolve();
        }
      });
      child.once("close", (code, signal) => {
        this.#running.delete(index);
        reject(new Error(`etcd ${index} ended (${signal ?? code}); it said last: ${said.slice(-500)}`));
      });
    });
  }

  async kill(index: number): Promise<void> {
    const child = this.#running.get(index);
    if (child === undefined) {
      return;
    }
    const ended = new Promise<void>((resolve) => child.once("close", () => resolve()));
    child.kill("SIGKILL");
    await ended;
  }

  /** As killAll, and all of their data is lost. */
  async loseAll(): Promise<void> {
    await this.killAll();
    for (const index of this.#each((each) => each)) {
      rmSync(this.#dataOf(index), { recursive: true, force: true });
    }
  }

  async close(): Promise<void> {
    await this.killAll();
    rmSync(this.#folder, { recursive: true, force: true });
  }

  #each<Value>(make: (index: number) => Value): Value[] {
    return Array.from({ length: this.#count }, (_, index) => make(index));
  }

  #dataOf(index: number): string {
    return join(this.#folder, `${index}`);
  }

  #flags(index: number): string[] {
    const client = `http://${hubAddress(index)}:${CLIENT_PORT}`;
    const peer = (each: number): string => `http://${hubAddress(each)}:${PEER_PORT}`;
    const flags = {
      name: `e${index}`,
      "data-dir": this.#dataOf(index),
      "listen-client-urls": client,
      "advertise-client-urls": client,
      "listen-peer-urls": peer(index),
      "initial-advertise-peer-urls": peer(index),
      "initial-cluster": this.#each((each) => `e${each}=${peer(each)}`).join(","),
    };
    return [...Object.entries(flags).map(([name, value]) => `--${name}=${value}`), "--unsafe-no-fsync"];
  }
}
