/**
 * The chaos run: clients on three hosts set, replace, delete and get objects that carry what they are, while processes
 * die and links are cut; then everything is healed, and looked at. The seed gives the order of faults, where and how
 * long, and what each client does; how these meet is the machine's.
 */
import { readdirSync, readFileSync } from "node:fs";
import { expect } from "vitest";
import { createSeededRandom } from "../../src/base/random.js";
import { until } from "../cluster/commands.js";
import { ChaosClient, type ChaosCounts, type ChaosKey } from "./chaos-clients.js";
import { breakThings } from "./chaos-faults.js";
import { NetworkFixture, TRANSIENT } from "./fixture.js";
import { type Outcome, WRONG_BYTES } from "./host-process.js";

export interface ChaosOptions {
  seed: number;
  faults: number;
  brokenMsMax: number;
  clientsPerHost: number;
  keysPerClient: number;
}

const PATIENCE_MS = 120_000;
/**
 * Private memory of a sidecar, and all of a control process: both far above what they need, and far below what a leak
 * of each call would take.
 */
const SIDECAR_PRIVATE_MB_MAX = 128;
const CONTROL_MB_MAX = 512;
const FILES_MAX = 256;

export async function runChaos(options: ChaosOptions): Promise<void> {
  const { seed, faults, brokenMsMax, clientsPerHost, keysPerClient } = options;
  // However long a start takes on a busy machine: what a worker that is away holds is never a sure miss.
  const flags = ["--dead_after_ms", "3600000", "--replica_percent", "20", "--sidecar_hang_ms", "6000"];
  const net = await NetworkFixture.start({ etcd: 3, arenaMb: 64, flagsOf: () => flags });
  try {
    await net.untilWhole();
    const empty = await usageOf(net);
    const clients: ChaosClient[] = [];
    const counts: ChaosCounts = { calls: 0, confirmed: 0, read: 0, refused: 0, uncertain: 0, codes: {} };
    const violations: string[] = [];
    const startMs = performance.now();
    let doing = "";
    const when = (): string => `after ${((performance.now() - startMs) / 1_000).toFixed(1)} s, ${doing}`;
    const say = (line: string): void => {
      doing = line;
      console.log(`HBMESH_SEED=${seed} ${when()}`);
    };
    for (const host of net.all) {
      for (let number = 1; number <= clientsPerHost; number += 1) {
        const random = createSeededRandom(seed + 1_000 * host + number);
        const name = `c${host}-${number}`;
        clients.push(
          new ChaosClient({ net, random, host, name, all: clients, counts, violations, keysMax: keysPerClient, when }),
        );
      }
    }
    const ending = new AbortController();
    const running = Promise.all(clients.map((client) => client.run(ending.signal)));
    const context = { net, random: createSeededRandom(seed), clients, brokenMsMax };
    try {
      await Promise.race([breakThings(context, faults, say), running]);
    } finally {
      ending.abort();
    }
    await running;
    say(JSON.stringify(counts));
    expect(violations, `replay with HBMESH_SEED=${seed}`).toEqual([]);
    await net.untilWhole();
    const keys = clients.flatMap((client) => client.keys);
    await Promise.all(net.all.map((host) => expectRightAt(net, host, keys)));
    expect(counts.confirmed).toBeGreaterThan(keys.length / 2);
    await expectNothingLeaked(net, keys, empty);
  } finally {
    await net.close();
  }
}

/** Every key holds what it may hold, as this host sees it; what can't be told at first is asked again. */
async function expectRightAt(net: NetworkFixture, host: number, keys: readonly ChaosKey[]): Promise<void> {
  const client = await net.client(host);
  let left = [...keys];
  await until(
    `all keys are right at host ${host}`,
    async () => {
      const asked = { keys: left.map(({ name }) => name), sizes: left.map(({ sizes }) => sizes) };
      const outcomes = await client.ask<Outcome[]>("get", asked);
      const again: ChaosKey[] = [];
      for (const [index, { code, message, version = WRONG_BYTES }] of outcomes.entries()) {
        const key = left[index] as ChaosKey;
        const held = code === "NOT_FOUND" ? 0 : version;
        if (TRANSIENT.includes(code)) {
          again.push(key);
        } else {
          const what = `${key.name} at host ${host}: ${code} ${message}, may hold ${[...key.possible].join(" or ")}`;
          expect(["OK", "NOT_FOUND"], what).toContain(code);
          expect([...key.possible], what).toContain(held);
        }
      }
      left = again;
      if (left.length > 0) {
        await net.reconnect(host);
      }
      return left.length === 0;
    },
    PATIENCE_MS,
  );
}

interface Usage {
  arenaUsedBytes: number;
  objects: number;
}

async function usageOf(net: NetworkFixture): Promise<Usage[]> {
  const all = await Promise.all(net.all.map((host) => net.health(host)));
  return all.map((health) => ({ arenaUsedBytes: health?.arenaUsedBytes ?? -1, objects: health?.objects ?? -1 }));
}

/** After all keys are deleted the arenas are as they were before, and the processes have not grown. */
async function expectNothingLeaked(
  net: NetworkFixture,
  keys: readonly ChaosKey[],
  empty: readonly Usage[],
): Promise<void> {
  const client = await net.client(1);
  let left = keys.map(({ name }) => name);
  await until(
    "all keys are deleted",
    async () => {
      const outcomes = await client.ask<Outcome[]>("delete", { keys: left });
      left = outcomes.filter(({ code }) => code !== "OK").map(({ key }) => key);
      return left.length === 0;
    },
    PATIENCE_MS,
  );
  await until(
    `the arenas are empty again: ${JSON.stringify(empty)}`,
    async () => JSON.stringify(await usageOf(net)) === JSON.stringify(empty),
    PATIENCE_MS,
  ).catch(async (reason: Error) => {
    throw new Error(`${reason.message}; they are ${JSON.stringify(await usageOf(net))}`);
  });
  for (const host of net.all) {
    const [control, sidecar] = [net.worker(host).pid, net.sidecarPid(host)];
    expect(megabytesOf(sidecar, "RssAnon")).toBeLessThan(SIDECAR_PRIVATE_MB_MAX);
    expect(megabytesOf(control, "VmRSS")).toBeLessThan(CONTROL_MB_MAX);
    for (const pid of [control, sidecar]) {
      expect(readdirSync(`/proc/${pid}/fd`).length).toBeLessThan(FILES_MAX);
    }
  }
}

function megabytesOf(pid: number, field: string): number {
  const line = new RegExp(`^${field}:\\s+(\\d+) kB$`, "m").exec(readFileSync(`/proc/${pid}/status`, "utf8"));
  return Number(line?.[1]) / 1_024;
}
