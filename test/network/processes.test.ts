/**
 * Goal: kill -9 of any process of a worker, or of a client, loses nothing that is sealed on a living host, and is told
 * with a code that says what to do. Method: three hosts (network namespaces) with real etcd and workers started by
 * hbmesh start; one failure after the other, and after each everything that was set is read from every host. Device 0
 * of host 3 is slowed down, so that a set there is certainly under way when its client is killed; a get is stopped in
 * the middle by stopping its source.
 */
import { readdirSync, readFileSync } from "node:fs";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { isAlive, until } from "../cluster/commands.js";
import { etcdMissing } from "../cluster/etcd.js";
import { kill, NetworkFixture, signal, TRANSIENT } from "./fixture.js";
import type { Outcome } from "./host-process.js";
import { namespacesMissing } from "./hosts.js";

const missing = namespacesMissing ?? etcdMissing;
const LARGE = Array.from({ length: 10 }, () => 4 << 20);
const SLOW_HOST = 3;
const SLOW = ["--sim_bandwidth_mb_per_s", "20"];

describe.skipIf(missing !== undefined)(`processes that are killed ${missing ?? ""}`, { timeout: 180_000 }, () => {
  let net: NetworkFixture;

  beforeAll(async () => {
    net = await NetworkFixture.start({
      arenaMb: 128,
      flagsOf: (host) => (host === SLOW_HOST ? [...SLOW, "--replica_percent", "50"] : []),
    });
    for (const host of net.all) {
      await net.fill(host, 20);
    }
  }, 120_000);

  afterEach(async () => {
    await net.untilWhole();
    await net.expectAllFound();
  });

  afterAll(async () => {
    await net?.close();
  }, 120_000);

  const untilReady = async (host: number): Promise<void> => {
    await until("the worker is ready again", async () => (await net.health(host))?.ready);
  };

  /** Of these keys those that a host owns, as it says itself. */
  const ownedBy = async (host: number, keys: readonly string[]): Promise<string[]> => {
    const client = await net.client(host);
    const owners = await Promise.all(keys.map((key) => client.ask<{ owner: string }>("explain", { key })));
    return keys.filter((_, index) => owners[index]?.owner === net.worker(host).address);
  };

  it("a sidecar: the next one adopts its memory", async () => {
    const { pid } = net.worker(1);
    const used = (await net.health(1))?.objects;
    await kill(net.sidecarPid(1));
    await until("the next one has all of its objects", async () => (await net.health(1))?.objects === used);
    expect(isAlive(pid)).toBe(true);
    expect(net.logOf(1)).toContain("the sidecar was restarted");
  });

  it("a control process: its clients go on reading what is there; the next one takes the sidecar over", async () => {
    const { pid } = net.worker(2);
    const sidecarPid = net.sidecarPid(2);
    const local = [...net.objects].filter(([, { host }]) => host === 2).map(([key]) => key);
    await kill(pid);
    expect((await net.read(2, local)).map(({ code }) => code)).toEqual(local.map(() => "OK"));
    const again = await net.startWorker(2);
    expect(again.sidecarPid).toBe(sidecarPid);
    expect((await net.read(2, local)).map(({ code }) => code)).toEqual(local.map(() => "OK"));
    await net.untilWhole();
  });

  it("the owner of keys, while their bytes are elsewhere: no miss, and found again with the next ring", async () => {
    const keys = await net.fill(3, 60);
    const owned = await ownedBy(1, keys);
    expect(owned.length).toBeGreaterThan(0);
    await kill(net.worker(1).pid);
    await net.expectAllFound([2], owned);
    await net.startWorker(1);
  });

  it("a dead control process is known to all others within a second, and the store forgets it", async () => {
    // The first by id, whose task it is to look at others, and another one.
    for (const host of [1, 3]) {
      const { pid, address } = net.worker(host);
      const start = performance.now();
      process.kill(pid, "SIGKILL");
      const isKnownAt = (other: number): Promise<unknown> =>
        until(`host ${other} knows`, async () => (await net.members(other))?.addresses.includes(address) === false);
      await Promise.all(net.othersThan(host).map(isKnownAt));
      const tookMs = performance.now() - start;
      console.log(`the death of a control process was known after ${tookMs.toFixed(0)} ms`);
      // A lease alone takes several seconds.
      expect(tookMs).toBeLessThan(1_000);
      await net.startWorker(host);
      await net.untilWhole();
    }
  });

  it("a client in the middle of a set: the key is nowhere, and no memory stays taken", async () => {
    const client = await net.newClient(SLOW_HOST);
    const before = await net.health(SLOW_HOST);
    const setting = client.ask("set", { keys: ["half"], sizes: [LARGE], versions: [1] }).catch(() => undefined);
    await until("the arena holds the half-written object", async () => {
      const used = (await net.health(SLOW_HOST))?.arenaUsedBytes ?? 0;
      return used > (before?.arenaUsedBytes ?? 0);
    });
    await client.kill();
    await setting;
    await until("its memory is free again", async () => {
      const now = await net.health(SLOW_HOST);
      return now?.arenaUsedBytes === before?.arenaUsedBytes && now?.objects === before?.objects;
    });
    for (const host of net.all) {
      const [found] = await (await net.client(host)).ask<Outcome[]>("exist", { keys: ["half"] });
      expect(found).toMatchObject({ code: "OK", presence: "MISS" });
    }
  });

  /** A get at host 2 whose source is stopped in the middle. */
  const stopInGet = async (key: string, source: number): Promise<void> => {
    const reader = await net.client(2);
    const sidecarPid = net.sidecarPid(source);
    for (let attempt = 1; attempt <= 20; attempt += 1) {
      const { isWhole } = await reader.ask<{ isWhole: boolean }>("stopInGet", { key, sizes: LARGE, stop: sidecarPid });
      if (!isWhole) {
        return;
      }
      // It was over before the source was stopped: once more.
      signal(sidecarPid, "SIGCONT");
      await reader.ask("heldGet");
    }
    throw new Error("each of 20 gets was over before its source could be stopped");
  };

  it("the only source in the middle of a get: the caller is told, and reads it when the source is back", async () => {
    const [key = ""] = await net.fill(1, 1, LARGE);
    await stopInGet(key, 1);
    await kill(net.sidecarPid(1));
    const outcome = await (await net.client(2)).ask<Outcome>("heldGet");
    expect(TRANSIENT).toContain(outcome.code);
    expect(outcome.message).not.toBe("");
    await net.expectAllFound([2], [key]);
  });

  it("one of two sources in the middle of a get: the get goes on at the other one", async () => {
    const [key = ""] = await net.fill(1, 1, LARGE);
    // The slow host keeps a copy of what it reads, and is the second source.
    await net.expectAllFound([SLOW_HOST], [key]);
    const reader = await net.client(2);
    await until("its owner knows of both", async () => {
      const { locations } = await reader.ask<{ locations: object[] }>("explain", { key });
      return locations.length === 2;
    });
    const [first] = await net.read(2, [key]);
    const source = net.all.find((host) => net.worker(host).address === first?.source) ?? 0;
    expect([1, SLOW_HOST]).toContain(source);
    await stopInGet(key, source);
    await kill(net.sidecarPid(source));
    const outcome = await reader.ask<Outcome>("heldGet");
    expect(outcome).toMatchObject({ code: "OK", version: net.objects.get(key)?.version });
  });

  it("a control process and then its sidecar, one after the other: the memory is adopted both times", async () => {
    await kill(net.worker(2).pid);
    await net.startWorker(2);
    await kill(net.sidecarPid(2));
    await untilReady(2);
  });

  it("both at once: what keeps the memory gives it to the next ones", async () => {
    const objects = (await net.health(1))?.objects;
    const before = net.sidecarPid(1);
    await kill(net.worker(1).pid, before);
    const { sidecarPid } = await net.startWorker(1);
    expect(sidecarPid).not.toBe(before);
    expect((await net.health(1))?.objects).toBe(objects);
    expect(net.logOf(1)).toContain("adopting the memory that an earlier sidecar");
  });

  it("stop after both were killed ends what keeps the memory, and says what that means", async () => {
    const { address, pid } = net.worker(3);
    await kill(pid, net.sidecarPid(3));
    const { code, stdout, stderr } = await net.hbmesh(3, "stop", "--worker_address", address);
    expect(code, stderr).toBe(0);
    expect(stdout).toContain(`both processes of worker ${address} were gone already`);
    expect(keepersOf(address)).toEqual([]);
    net.forget(3);
    await net.startWorker(3);
    expect((await net.health(3))?.objects).toBe(0);
  });
});

/** Process ids of what keeps the memory of this worker. */
function keepersOf(address: string): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, "utf8").startsWith(`hbmesh-keeper\0${address}\0`);
      } catch {
        return false;
      }
    })
    .map(Number);
}
