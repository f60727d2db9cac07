/** What breaks in a chaos run, one after the other: which, where and for how long follows from the seed. */
import { setTimeout as delay } from "node:timers/promises";
import type { RandomSource } from "../../src/base/random.js";
import type { ChaosClient } from "./chaos-clients.js";
import { kill, type NetworkFixture, signal } from "./fixture.js";

export interface ChaosContext {
  net: NetworkFixture;
  random: RandomSource;
  clients: readonly ChaosClient[];
  /** Longest time that something stays broken; less than the time after which a worker that vanished counts as dead. */
  brokenMsMax: number;
}

interface Fault {
  name: string;
  /** Breaks something and repairs it. The last argument is how long it stays broken. */
  run: (context: ChaosContext, host: number, other: number, brokenMs: number) => Promise<void>;
}

const ETCD_MEMBERS = 3;

export const FAULTS: readonly Fault[] = [
  { name: "sidecar killed", run: async ({ net }, host) => kill(await net.untilSidecar(host)) },
  {
    name: "control process killed",
    async run({ net }, host, _other, brokenMs) {
      await kill(net.worker(host).pid);
      await delay(brokenMs / 4);
      await net.startWorker(host);
    },
  },
  {
    name: "control process killed, then its sidecar",
    async run({ net }, host) {
      await kill(net.worker(host).pid);
      await net.startWorker(host);
      await kill(await net.untilSidecar(host));
    },
  },
  {
    name: "control process and sidecar killed at once",
    async run({ net }, host) {
      await kill(net.worker(host).pid, await net.untilSidecar(host));
      await net.startWorker(host);
    },
  },
  {
    name: "clients killed",
    async run({ clients }, host) {
      await Promise.all(clients.filter((client) => client.host === host).map((client) => client.kill()));
    },
  },
  {
    name: "link cut",
    async run({ net }, host, other, brokenMs) {
      await net.hosts.cut(host, other);
      await delay(brokenMs);
      await net.hosts.heal(host, other);
    },
  },
  {
    name: "link cut in one direction",
    async run({ net }, host, other, brokenMs) {
      await net.hosts.cutOneWay(host, other);
      await delay(brokenMs);
      await net.hosts.heal(host, other);
    },
  },
  {
    name: "host cut off from everyone",
    async run({ net }, host, _other, brokenMs) {
      await net.hosts.unplug(host);
      await delay(brokenMs);
      await net.hosts.plugIn(host);
    },
  },
  {
    name: "host cut off from etcd",
    async run({ net }, host, _other, brokenMs) {
      await net.hosts.cutFromHub(host);
      await delay(brokenMs);
      await net.hosts.healToHub(host);
    },
  },
  {
    name: "worker stopped",
    async run({ net }, host, _other, brokenMs) {
      const pids = [net.worker(host).pid, await net.untilSidecar(host)];
      for (const pid of pids) {
        signal(pid, "SIGSTOP");
      }
      await delay(brokenMs);
      for (const pid of pids) {
        signal(pid, "SIGCONT");
      }
    },
  },
  {
    name: "sidecar stopped",
    async run({ net }, host, _other, brokenMs) {
      const pid = await net.untilSidecar(host);
      signal(pid, "SIGSTOP");
      await delay(brokenMs);
      // It may have been killed, for its silence.
      signal(pid, "SIGCONT");
    },
  },
  {
    name: "one etcd of three killed",
    async run({ net, random }, _host, _other, brokenMs) {
      const index = random.nextBelow(ETCD_MEMBERS);
      await net.etcd.kill(index);
      await delay(brokenMs);
      await net.etcd.start(index);
    },
  },
  {
    name: "all etcd killed",
    async run({ net }, _host, _other, brokenMs) {
      await net.etcd.killAll();
      await delay(brokenMs);
      await net.etcd.startAll();
    },
  },
];

/** So many faults, each one of the list once before any comes again. `say` is told of each. */
export async function breakThings(context: ChaosContext, count: number, say: (line: string) => void): Promise<void> {
  const { net, random, brokenMsMax } = context;
  let left: Fault[] = [];
  for (let number = 1; number <= count; number += 1) {
    left = left.length === 0 ? [...FAULTS] : left;
    const [fault] = left.splice(random.nextBelow(left.length), 1) as [Fault];
    const host = 1 + random.nextBelow(net.hosts.count);
    const other = 1 + ((host - 1 + 1 + random.nextBelow(net.hosts.count - 1)) % net.hosts.count);
    const brokenMs = Math.round(brokenMsMax * (0.1 + 0.9 * random.nextFraction()));
    const restMs = 300 + random.nextBelow(700);
    say(`${number}. ${fault.name}: host ${host}, other ${other}, ${brokenMs} ms`);
    await fault.run(context, host, other, brokenMs);
    await delay(restMs);
  }
}
