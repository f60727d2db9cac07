/**
 * Goal: what test/network shows in short, for longer: a whole minute without etcd, during which reads and writes go on
 * with the last ring; and a chaos run of a hundred faults. Method: as there, over network namespaces and real etcd; run
 * by `npm run test:slow`. HBMESH_SEED=N repeats the decisions of a chaos run, HBMESH_FAULTS=N makes it longer or
 * shorter.
 */
import { describe, it } from "vitest";
import { etcdMissing } from "../cluster/etcd.js";
import { runChaos } from "../network/chaos.js";
import { NetworkFixture } from "../network/fixture.js";
import { namespacesMissing } from "../network/hosts.js";
import { goOnWithoutStore } from "../network/store-away.js";

const missing = namespacesMissing ?? etcdMissing;
const seed = Number(process.env["HBMESH_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
const faults = Number(process.env["HBMESH_FAULTS"] ?? 100);
const MINUTE_MS = 60_000;

describe.skipIf(missing !== undefined)(`over networks, long ${missing ?? ""}`, () => {
  it("a minute without etcd", { timeout: 600_000 }, async () => {
    const net = await NetworkFixture.start({ etcd: 3, arenaMb: 128 });
    try {
      for (const host of net.all) {
        await net.fill(host, 100);
      }
      await net.etcd.killAll();
      await goOnWithoutStore(net, MINUTE_MS);
      await net.etcd.startAll();
      await net.untilWhole();
      await net.expectAllFound();
    } finally {
      await net.close();
    }
  });

  it(`chaos of ${faults} faults (HBMESH_SEED=${seed})`, { timeout: 7_200_000 }, async () => {
    await runChaos({ seed, faults, brokenMsMax: 12_000, clientsPerHost: 3, keysPerClient: 400 });
  });
});
