/**
 * Goal: a member that others can't connect to does not join, so that it owns no keys that nobody can ask for; one that
 * gets out of reach later is named by the others, in log and health, until it is back. Method: control processes in
 * virtual time, with links that are cut; and confirmReach alone where members answer differently.
 */
import type { Transport } from "@connectrpc/connect";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createVirtualClock } from "../../../src/base/clock.js";
import { HbmeshError, StatusCode } from "../../../src/base/errors.js";
import { createSilentLogger } from "../../../src/base/log.js";
import { createSeededRandom } from "../../../src/base/random.js";
import type { MembershipView } from "../../../src/control/membership.js";
import type { ControlNetwork } from "../../../src/control/network.js";
import type { Peers } from "../../../src/control/peers.js";
import { confirmReach, createReachService, ReachWatch } from "../../../src/control/reach.js";
import type { Member } from "../../../src/gen/hbmesh/v1/cluster_pb.js";
import { Presence } from "../../../src/gen/hbmesh/v1/objects_pb.js";
import { toConnectError } from "../../../src/rpc/index.js";
import { createKeepingLogger } from "../rpc/link-peers.js";
import { FakeCluster } from "./fake-cluster.js";

const KEYS = Array.from({ length: 40 }, (_, index) => `key-${index}`);

describe("a member that others can't connect to", () => {
  let cluster: FakeCluster;

  beforeEach(() => {
    cluster = new FakeCluster();
  });
  afterEach(async () => {
    await cluster.close();
  });

  it("does not join, says who can't reach it and why, and no key becomes UNKNOWN", async () => {
    const a = await cluster.start(1);
    const b = await cluster.start(2);
    await cluster.drive(a.sidecar.set(KEYS, "from a"));
    const epoch = a.control.epoch;
    const failure = await cluster.start(3, {}, { settle: false, isolated: true }).then(
      () => undefined,
      (reason: unknown) => reason,
    );
    expect(failure).toMatchObject({
      code: StatusCode.NOT_READY,
      message: expect.stringMatching(
        /^the other workers can't reach this one at its control link 127\.0\.0\.1:3, so it does not join \(127\.0\.0\.1:20001 says: .*127\.0\.0\.1:3.*; 127\.0\.0\.1:20002 says: .*\): let them connect/,
      ),
    });
    expect([a, b].map(({ control }) => control.members.map(({ id }) => id))).toEqual([
      [1, 2],
      [1, 2],
    ]);
    expect(a.control.epoch).toBe(epoch);
    const presences = await cluster.drive(b.control.objects.exist(KEYS));
    expect(presences.map(({ presence }) => presence)).toEqual(KEYS.map(() => Presence.HIT));
  });

  it("joins when they reach it within a few seconds", async () => {
    await cluster.start(1);
    const starting = cluster.start(2, {}, { settle: false, isolated: true });
    starting.catch(() => {});
    cluster.clock.setTimer(2_000, () => cluster.network.cut.clear());
    const b = await starting;
    await cluster.ready();
    expect(b.control.members.map(({ id }) => id)).toEqual([1, 2]);
  });

  it("is named in log and health of the others when that happens later, once, until it is back", async () => {
    const { log, text } = createKeepingLogger();
    const settings = { leaseMs: 600_000 };
    const a = await cluster.start(1, settings, { log });
    const b = await cluster.start(2, settings);
    const c = await cluster.start(3, settings);
    const linesWith = (part: string): string[] =>
      text()
        .split("\n")
        .filter((line) => line.includes(part));
    const named = (): string[] => linesWith("can't be reached: keys");
    expect(await cluster.drive(a.control.health())).toMatchObject({ ready: true, reason: "" });
    cluster.isolate(c);
    await cluster.clock.advance(4_000);
    expect(named()).toEqual([]);
    await cluster.clock.advance(10_000);
    for (const { control } of [a, b]) {
      const { ready, reason } = await cluster.drive(control.health());
      expect(ready).toBe(true);
      expect(reason).toMatch(
        /^worker 127\.0\.0\.1:20003 can't be reached for \d+ s, and keys that it owns are UNKNOWN here: .*127\.0\.0\.1:3 can't be reached/,
      );
    }
    expect(named()).toHaveLength(1);
    expect(named()[0]).toContain('"node":"127.0.0.1:20003"');
    await cluster.clock.advance(60_000);
    expect(named()).toHaveLength(1);
    cluster.heal(c);
    await cluster.clock.advance(5_000);
    expect(await cluster.drive(a.control.health())).toMatchObject({ ready: true, reason: "" });
    expect(linesWith("is reached again")).toHaveLength(1);
  });

  it("is named no more when it is no member any more", async () => {
    const a = await cluster.start(1);
    const b = await cluster.start(2);
    cluster.kill(b);
    await cluster.clock.advance(60_000);
    expect(await cluster.drive(a.control.health())).toMatchObject({ reason: "" });
  });
});

describe("a member that refuses whoever asks", () => {
  it("changes what is warned of when it is named, is reached again, or leaves; and else nothing does", async () => {
    const clock = createVirtualClock();
    const warnings: string[] = [];
    let isGood = false;
    const witness = async (): Promise<void> => {
      if (!isGood) {
        throw new HbmeshError(StatusCode.RPC_UNAVAILABLE, "its certificate is over");
      }
    };
    const peers = {
      get: () => ({ directory: { witness } }),
      nameOf: (id: number) => `h${id}`,
      errorOf: (_: number, e: Error) => e,
    };
    const onChange = (): void => void warnings.push(watch.warning.replace(/ can't be reached.*/, ""));
    const watch = new ReachWatch({ clock, log: createSilentLogger(), peers: peers as unknown as Peers, onChange });
    const setMembers = (...ids: number[]): void =>
      watch.setView({ selfId: 1, members: new Map(ids.map((id) => [id, {}])) } as unknown as MembershipView);
    const pass = async (turns: number): Promise<void> => {
      for (let turn = 0; turn < turns; turn++) {
        await clock.advance(2_000);
      }
    };
    setMembers(1, 2);
    await pass(3);
    isGood = true;
    await pass(2);
    expect(warnings, "too short to be named").toEqual([]);
    isGood = false;
    await pass(8);
    expect(warnings).toEqual(["worker h2"]);
    isGood = true;
    await pass(2);
    expect(warnings).toEqual(["worker h2", ""]);
    isGood = false;
    await pass(8);
    setMembers(1, 2, 3);
    expect(warnings).toEqual(["worker h2", "", "worker h2"]);
    setMembers(1);
    expect(warnings).toEqual(["worker h2", "", "worker h2", ""]);
    watch.close();
  });
});

type Say = { reached: boolean; cause: string } | HbmeshError;

/** What each member says that is asked to connect back; by its link address. */
function networkOf(says: Record<string, Say>, asked: string[]): ControlNetwork {
  const transport = (address: string): Transport => ({
    unary: async () => {
      asked.push(address);
      const said = says[address] ?? { reached: true, cause: "" };
      if (said instanceof HbmeshError) {
        throw toConnectError(said);
      }
      return { message: said } as never;
    },
    stream: () => Promise.reject(new Error("no streams here")),
  });
  return {
    listen: () => Promise.reject(new Error("nobody listens here")),
    connect: (address) => ({ transport: transport(address), close: () => {} }),
  };
}

const memberAt = (id: number): Member =>
  ({ id, workerAddress: `10.0.0.${id}:31501`, linkAddress: `10.0.0.${id}:4000` }) as Member;

async function askAll(says: Record<string, Say>, count: number): Promise<{ outcome: unknown; asked: string[] }> {
  const clock = createVirtualClock();
  const asked: string[] = [];
  const joining = confirmReach({
    clock,
    log: createSilentLogger(),
    random: createSeededRandom(1),
    network: networkOf(says, asked),
    linkAddress: "10.0.0.99:4000",
    members: Array.from({ length: count }, (_, index) => memberAt(index + 1)),
    signal: new AbortController().signal,
  }).then(
    () => "joins",
    (reason: unknown) => reason,
  );
  for (let passed = 0; passed < 20; passed++) {
    await clock.advance(1_000);
  }
  return { outcome: await joining, asked };
}

describe("who joins", () => {
  const no = { reached: false, cause: "connect ETIMEDOUT 10.0.0.99:4000" };
  const dead = new HbmeshError(StatusCode.RPC_UNAVAILABLE, "refused", {
    cause: Object.assign(new Error("connect ECONNREFUSED"), { code: "ECONNREFUSED" }),
  });
  const turnedAway = new HbmeshError(StatusCode.RPC_UNAVAILABLE, "TLS", {
    cause: Object.assign(new Error("self-signed certificate"), { code: "SELF_SIGNED_CERT_IN_CHAIN" }),
  });
  const stranger = new HbmeshError(StatusCode.NOT_AUTHORIZED, "it has another cluster token");
  const old = new HbmeshError(StatusCode.NOT_SUPPORTED, "an older release does not offer it");
  const at = (...each: Say[]): Record<string, Say> =>
    Object.fromEntries(each.map((say, index) => [`10.0.0.${index + 1}:4000`, say]));

  it.each<[string, Record<string, Say>, boolean]>([
    ["all reach it", at(), true],
    ["one of three does not", at(no), true],
    ["two of three don't", at(no, no), false],
    ["one does not, and the others are dead", at(no, dead, dead), false],
    ["all are dead", at(dead, dead, dead), true],
    ["all are of an older release", at(old, old, old), true],
    ["all turn it away, by TLS or by the token", at(turnedAway, stranger, turnedAway), false],
  ])("%s", async (_, says, joins) => {
    const { outcome } = await askAll(says, 3);
    if (joins) {
      expect(outcome).toBe("joins");
    } else {
      expect(outcome).toMatchObject({ code: StatusCode.NOT_READY, node: "10.0.0.99:4000" });
      expect((outcome as Error).message).toContain("10.0.0.1:31501 says: ");
    }
  });

  it("asks the first three and two others of a large cluster, and nobody where it is the first", async () => {
    const { asked } = await askAll({}, 100);
    expect(new Set(asked).size).toBe(5);
    expect(asked).toEqual(expect.arrayContaining(["10.0.0.1:4000", "10.0.0.2:4000", "10.0.0.3:4000"]));
    expect(await askAll({}, 0)).toEqual({ outcome: "joins", asked: [] });
  });
});

describe("connecting back", () => {
  it("says whether it worked, and why not; takes nothing but an IP and a port", async () => {
    const lost = new HbmeshError(StatusCode.RPC_UNAVAILABLE, "connect ECONNREFUSED 10.0.0.1:4000");
    const reach = createReachService(networkOf({ "10.0.0.1:4000": lost }, []));
    expect(await reach({ linkAddress: "10.0.0.2:4000" })).toEqual({ reached: true, cause: "" });
    expect(await reach({ linkAddress: "10.0.0.1:4000" })).toEqual({
      reached: false,
      cause: expect.stringContaining("connect ECONNREFUSED 10.0.0.1:4000"),
    });
    for (const wrong of ["node7:4000", "10.0.0.1", "10.0.0.1:0", ""]) {
      await expect(reach({ linkAddress: wrong })).rejects.toMatchObject({ code: StatusCode.INVALID });
    }
  });
});
