/**
 * Goal: whatever dies and is cut, nothing sealed on a living host is missing in the end, no read gives wrong bytes, no
 * key that is there is said to be missing, and no memory leaks. Method: the chaos run (chaos.ts) in its short form,
 * every kind of fault once. The seed is printed; HBMESH_SEED=N makes the same decisions. Long form: npm run test:slow.
 */
import { describe, it } from "vitest";
import { etcdMissing } from "../cluster/etcd.js";
import { runChaos } from "./chaos.js";
import { FAULTS } from "./chaos-faults.js";
import { namespacesMissing } from "./hosts.js";

const missing = namespacesMissing ?? etcdMissing;
const seed = Number(process.env["HBMESH_SEED"] ?? Math.floor(Math.random() * 2 ** 31));

describe.skipIf(missing !== undefined)(`chaos ${missing ?? ""}`, () => {
  it(`of every kind once (HBMESH_SEED=${seed})`, { timeout: 400_000 }, async () => {
    await runChaos({ seed, faults: FAULTS.length, brokenMsMax: 2_000, clientsPerHost: 2, keysPerClient: 100 });
  });
});
