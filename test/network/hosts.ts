/**
 * Hosts for a test: network namespaces of their own that are joined by a bridge, in a namespace of its own too, so that
 * nothing of the machine's own network is touched and addresses can't meet those of others. Links are cut and healed
 * from here.
 *
 * Names have the process that made them in them. What a killed run left behind is taken away by the next one: processes
 * in those namespaces first.
 */
import { type ChildProcess, type SpawnOptions, spawn, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { run } from "../cluster/commands.js";

const PREFIX = "hbmesh-net";
/** The namespace of the bridge, and of what all hosts reach: etcd. */
export const HUB = 0;
const DEVICE = "hb0";
/** Nobody has this hardware address: what is sent there is lost without a word. */
const NOWHERE = "02:00:00:00:ff:ff";

/** Why there can be no namespaces here, or undefined; said by the suites that are skipped. */
export const namespacesMissing = whyNotPermitted();

function whyNotPermitted(): string | undefined {
  const name = `${PREFIX}-${process.pid}-probe`;
  const remedy = "run the tests as root (CAP_SYS_ADMIN, CAP_NET_ADMIN) with iproute2 installed";
  const tried: string[][] = [
    ["netns", "add", name],
    ["-n", name, "link", "add", "name", DEVICE, "type", "bridge"],
    ["-n", name, "link", "add", "name", "left", "type", "veth", "peer", "name", "right"],
  ];
  const failed = tried.find((args) => spawnSync("ip", args).status !== 0);
  spawnSync("ip", ["netns", "del", name]);
  return failed === undefined ? undefined : `ip ${failed.join(" ")} is not permitted or not possible here; ${remedy}`;
}

/**
 * Of this process alone: namespaces keep the networks of two runs apart, but not their processes, which are looked for
 * by address.
 */
const NETWORK = `10.${128 + ((process.pid >> 8) & 127)}.${process.pid & 255}`;

/** 1 for the first host. The hub has those from 101 on, one for each etcd. */
export function addressOf(host: number): string {
  return `${NETWORK}.${host}`;
}

export function hubAddress(index: number): string {
  return `${NETWORK}.${101 + index}`;
}

const HUB_ADDRESSES = 3;

export class Hosts {
  readonly count: number;
  readonly #names: readonly string[];

  private constructor(count: number) {
    this.count = count;
    const names = Array.from({ length: count }, (_, index) => `${index + 1}`);
    this.#names = ["hub", ...names].map((name) => `${PREFIX}-${process.pid}-${startTicks(process.pid)}-${name}`);
  }

  /** Removes everything again when it fails. */
  static async create(count: number): Promise<Hosts> {
    await removeLeftovers();
    const hosts = new Hosts(count);
    try {
      await hosts.#build();
    } catch (reason) {
      await hosts.close();
      throw reason;
    }
    return hosts;
  }

  /** Ends what still runs in them, and removes them. */
  async close(): Promise<void> {
    await removeNamespaces(this.#names);
  }

  nameOf(host: number): string {
    return this.#names[host] ?? "";
  }

  /** A process of that host. `ip` replaces itself by the program, so that the process id is the program's. */
  spawn(host: number, program: string, args: readonly string[], options: SpawnOptions): ChildProcess {
    return spawn("ip", ["netns", "exec", this.nameOf(host), program, ...args], options);
  }

  /** Runs a command there to its end. */
  run(host: number, program: string, ...args: string[]): ReturnType<typeof run> {
    return run("ip", ["netns", "exec", this.nameOf(host), program, ...args]);
  }

  /**
   * From now on nothing that `source` sends reaches `target`; the other direction stays. No error is told to anyone.
   */
  async cutOneWay(source: number, target: number): Promise<void> {
    await this.#pointTo(source, addressOf(target), NOWHERE);
  }

  /** Nothing passes between the two, in both directions. */
  async cut(one: number, other: number): Promise<void> {
    await this.cutOneWay(one, other);
    await this.cutOneWay(other, one);
  }

  async heal(one: number, other: number): Promise<void> {
    await this.#pointTo(one, addressOf(other), hardwareAddress(other));
    await this.#pointTo(other, addressOf(one), hardwareAddress(one));
  }

  /** The host is cut from everybody, as when its cable is drawn. */
  async unplug(host: number): Promise<void> {
    await ip("-n", this.nameOf(HUB), "link", "set", `port${host}`, "down");
  }

  async plugIn(host: number): Promise<void> {
    await ip("-n", this.nameOf(HUB), "link", "set", `port${host}`, "up");
  }

  /** Nothing that this host sends reaches the hub any more: it can't reach etcd. */
  async cutFromHub(host: number): Promise<void> {
    for (let index = 0; index < HUB_ADDRESSES; index += 1) {
      await this.#pointTo(host, hubAddress(index), NOWHERE);
    }
  }

  async healToHub(host: number): Promise<void> {
    for (let index = 0; index < HUB_ADDRESSES; index += 1) {
      await this.#pointTo(host, hubAddress(index), hardwareAddress(HUB));
    }
  }

  async #pointTo(host: number, address: string, hardware: string): Promise<void> {
    const where = ["-n", this.nameOf(host), "neigh", "replace", address];
    await ip(...where, "lladdr", hardware, "nud", "permanent", "dev", DEVICE);
  }

  async #build(): Promise<void> {
    for (const name of this.#names) {
      await ip("netns", "add", name);
      await ip("-n", name, "link", "set", "lo", "up");
    }
    const hub = this.nameOf(HUB);
    await ip("-n", hub, "link", "add", "name", DEVICE, "address", hardwareAddress(HUB), "type", "bridge");
    for (let index = 0; index < HUB_ADDRESSES; index += 1) {
      await ip("-n", hub, "addr", "add", `${hubAddress(index)}/24`, "dev", DEVICE);
    }
    await ip("-n", hub, "link", "set", DEVICE, "up");
    for (let host = 1; host <= this.count; host += 1) {
      const [name, port] = [this.nameOf(host), `port${host}`];
      const peer = ["peer", "name", DEVICE, "address", hardwareAddress(host), "netns", name];
      await ip("-n", hub, "link", "add", "name", port, "type", "veth", ...peer);
      await ip("-n", hub, "link", "set", port, "master", DEVICE, "up");
      await ip("-n", name, "addr", "add", `${addressOf(host)}/24`, "dev", DEVICE);
      await ip("-n", name, "link", "set", DEVICE, "up");
    }
  }
}

/** Network namespaces of runs of this fixture, this one's and others', that are there now. */
export function namespacesThere(): string[] {
  const { stdout } = spawnSync("ip", ["netns", "list"], { encoding: "utf8" });
  return (stdout ?? "")
    .split("\n")
    .map((line) => line.split(" ")[0] ?? "")
    .filter((name) => name.startsWith(`${PREFIX}-`));
}

function hardwareAddress(host: number): string {
  return `02:00:00:00:00:${host.toString(16).padStart(2, "0")}`;
}

async function ip(...args: string[]): Promise<void> {
  const { code, stderr } = await run("ip", args);
  if (code !== 0) {
    throw new Error(`ip ${args.join(" ")} failed: ${stderr.trim()}`);
  }
}

/** Of runs whose process is gone. */
async function removeLeftovers(): Promise<void> {
  const isLeft = (name: string): boolean => {
    const [pid = "", ticks = ""] = name.slice(PREFIX.length + 1).split("-");
    return /^\d+$/.test(pid) && startTicks(Number(pid)) !== ticks;
  };
  await removeNamespaces(namespacesThere().filter(isLeft));
}

async function removeNamespaces(names: readonly string[]): Promise<void> {
  const there = namespacesThere().filter((name) => names.includes(name));
  for (const name of there) {
    const { stdout } = await run("ip", ["netns", "pids", name]);
    for (const pid of stdout.split("\n").filter((line) => line !== "")) {
      try {
        process.kill(Number(pid), "SIGKILL");
      } catch {}
    }
  }
  for (const name of there) {
    await ip("netns", "del", name);
  }
}

/** When the process started, in clock ticks: tells it from a later one with the same number. Empty: there is none. */
function startTicks(pid: number): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? "";
  } catch {
    return "";
  }
}
