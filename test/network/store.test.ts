/**
 * Goal: etcd restarted, one of three gone, or all of it away for longer than every lease: reads and writes go on with
 * the last ring, the workers say so, and nothing is lost then or afterwards. Method: three hosts and an etcd of three
 * members, which are killed and started again with their data; leases are as short as etcd has them. test/slow has a
 * whole minute without etcd.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { until } from "../cluster/commands.js";
import { etcdMissing } from "../cluster/etcd.js";
import { kill, NetworkFixture } from "./fixture.js";
import { namespacesMissing } from "./hosts.js";
import { goOnWithoutStore } from "./store-away.js";

const missing = namespacesMissing ?? etcdMissing;
const LEASE_MS = 2_000;

describe.skipIf(missing !== undefined)(`etcd that fails ${missing ?? ""}`, { timeout: 180_000 }, () => {
  let net: NetworkFixture;

  beforeAll(async () => {
    net = await NetworkFixture.start({ etcd: 3, flagsOf: () => ["--lease_ms", String(LEASE_MS)] });
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

  it("each one of three: the members stay as they are, set and get go on, and a worker can join", async () => {
    for (const index of [0, 1, 2]) {
      await net.etcd.kill(index);
      for (const host of net.all) {
        await net.fillPatiently(host, 5);
      }
      await net.expectAllFound();
      await net.untilWhole();
      if (index === 1) {
        const { address } = net.worker(2);
        const { code, stderr } = await net.hbmesh(2, "stop", "--worker_address", address, "--quiet");
        expect(code, stderr).toBe(0);
        net.forget(2);
        await net.startWorker(2);
        await net.untilWhole();
      }
      await net.etcd.start(index);
    }
  });

  it("all of it killed and started again: the workers are members again by themselves", async () => {
    await net.etcd.killAll();
    await net.etcd.startAll();
    await net.untilWhole();
    for (const host of net.all) {
      await net.fillPatiently(host, 5);
    }
  });

  it("all of its data lost while workers run: they are members again, each with an id of its own, also one that is started meanwhile", async () => {
    for (const joins of [false, true]) {
      if (joins) {
        await kill(net.worker(3).pid);
      }
      await net.etcd.loseAll();
      await net.etcd.startAll();
      if (joins) {
        await net.startWorker(3);
      }
      await net.untilWhole();
      const ids = await Promise.all(net.all.map(async (host) => (await net.members(host))?.ids));
      expect(new Set(ids[0]).size, "all ids are different").toBe(net.all.length);
      expect(ids[1]).toEqual(ids[0]);
      expect(ids[2]).toEqual(ids[0]);
      await net.expectAllFound();
      for (const host of net.all) {
        await net.fillPatiently(host, 5);
      }
      await net.expectAllFound();
    }
  });

  it("all of it away for longer than the leases: reads and writes go on with the last ring, and health, status and log say so", async () => {
    const from = net.all.map((host) => net.logLength(host));
    const epochs = await Promise.all(net.all.map(async (host) => (await net.members(host))?.epoch));
    await net.etcd.killAll();
    await goOnWithoutStore(net, 2 * LEASE_MS);
    expect(await Promise.all(net.all.map(async (host) => (await net.members(host))?.epoch))).toEqual(epochs);
    await net.etcd.startAll();
    await net.untilWhole();
    for (const [index, host] of net.all.entries()) {
      await until("its log says that the store is back", () =>
        net.logOf(host, from[index]).includes("the store is reached again"),
      );
      await until("its health says nothing of it any more", async () => (await net.health(host))?.reason === "");
    }
  });
});
