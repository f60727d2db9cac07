/**
 * Goal: hosts that can't talk to each other, are gone, or were stopped for longer than their lease: nobody gets a wrong
 * answer, who can be asked answers, and all is found again afterwards. Method: three hosts (network namespaces);
 * packets between two of them are lost without a word, a host's link goes down, all processes of a worker are stopped
 * with SIGSTOP. Leases are those that a worker has by default.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { until } from "../cluster/commands.js";
import { etcdMissing } from "../cluster/etcd.js";
import { NetworkFixture, signal, TRANSIENT } from "./fixture.js";
import type { Outcome } from "./host-process.js";
import { namespacesMissing } from "./hosts.js";

const missing = namespacesMissing ?? etcdMissing;
const KEYS_EACH = 20;

describe.skipIf(missing !== undefined)(`hosts that are cut off ${missing ?? ""}`, { timeout: 180_000 }, () => {
  let net: NetworkFixture;

  beforeAll(async () => {
    net = await NetworkFixture.start();
    for (const host of net.all) {
      await net.fill(host, KEYS_EACH);
    }
  }, 120_000);

  afterEach(async () => {
    await net.untilWhole();
    await net.expectAllFound();
  });

  afterAll(async () => {
    await net?.close();
  }, 120_000);

  const keysOf = (host: number): string[] =>
    [...net.objects].filter(([, object]) => object.host === host).map(([key]) => key);
  /** Read, or told that it can't be now: never a miss, never other bytes. */
  const expectNoWrongAnswer = (outcomes: readonly Outcome[]): void => {
    for (const { key, code, version, message } of outcomes) {
      expect(["OK", ...TRANSIENT], `${key}: ${message}`).toContain(code);
      expect(code !== "OK" || version === net.objects.get(key)?.version, `bytes of ${key}`).toBe(true);
      expect(code === "OK" || message !== "", `${key} failed with ${code} and no message`).toBe(true);
    }
  };
  /**
   * Resolves when these hosts no longer know that one as a member: after how many ms the last of them did, as their
   * logs say.
   */
  const untilGone = async (host: number, at: readonly number[]): Promise<number> => {
    const { address } = net.worker(host);
    const startMs = Date.now();
    const from = at.map((other) => net.logLength(other));
    await Promise.all(
      at.map((other) =>
        until(`host ${other} knows`, async () => (await net.members(other))?.addresses.includes(address) === false),
      ),
    );
    const changesMs = at.map((other, index) => firstChangeMs(net.logOf(other, from[index])));
    return Math.max(...changesMs) - startMs;
  };

  it("two hosts that don't reach each other, while both reach the third and the store: told apart from misses, and healed", async () => {
    await net.hosts.cut(1, 2);
    // Not known to the store: both are members as before.
    const [at1, at2, at3] = await Promise.all([
      net.read(1, keysOf(2)),
      net.read(2, keysOf(1)),
      net.read(3, [...keysOf(1), ...keysOf(2)]),
    ]);
    expectNoWrongAnswer([...at1, ...at2, ...at3]);
    expect(at1.filter(({ code }) => code === "OK")).toEqual([]);
    expect(at2.filter(({ code }) => code === "OK")).toEqual([]);
    for (const host of net.all) {
      expect(
        (await net.read(host, keysOf(host))).every(({ code }) => code === "OK"),
        `host ${host} itself`,
      ).toBe(true);
    }
    await net.hosts.heal(1, 2);
  });

  it("a cut in one direction only: the same", async () => {
    await net.hosts.cutOneWay(1, 2);
    const [at1, at2] = await Promise.all([net.read(1, keysOf(2)), net.read(2, keysOf(1))]);
    expectNoWrongAnswer([...at1, ...at2]);
    await net.hosts.heal(1, 2);
  });

  it("a host that is cut off from everyone is known to be gone within 5 s; it serves what it has to its own clients, and is back when its link is", async () => {
    await net.hosts.unplug(1);
    const tookMs = await untilGone(1, [2, 3]);
    console.log(`a lost host was known after ${tookMs.toFixed(0)} ms`);
    expect(tookMs).toBeLessThan(5_000);
    expect((await net.read(1, keysOf(1))).every(({ code }) => code === "OK")).toBe(true);
    for (const host of [2, 3]) {
      const outcomes = await net.read(host, keysOf(1));
      expect(new Set(outcomes.map(({ code }) => code)), outcomes[0]?.message).toEqual(new Set(["TRY_AGAIN"]));
      expect(outcomes[0]?.message).toContain("a worker vanished without leaving, and may hold it");
      const presences = await (await net.client(host)).ask<Outcome[]>("exist", { keys: keysOf(1) });
      expect(new Set(presences.map(({ presence }) => presence))).toEqual(new Set(["UNKNOWN"]));
      await net.fillPatiently(host, 5);
      await net.expectAllFound([host], [...keysOf(2), ...keysOf(3)]);
    }
    // Its own sets are not confirmed: others own the keys, or may.
    const client = await net.client(1);
    const set = await client.ask<Outcome[]>("set", { keys: ["unconfirmed"], sizes: [[64]], versions: [1] });
    expect(TRANSIENT).toContain(set[0]?.code);
    await until("it says why", async () => (await net.health(1))?.reason !== "");
    await net.hosts.plugIn(1);
  });

  it("a host that does not reach the store alone stops deciding for its keys, and the others own them", async () => {
    await net.hosts.cutFromHub(1);
    await untilGone(1, [2, 3]);
    await until("it says why it isn't ready", async () => (await net.health(1))?.ready === false);
    expect((await net.health(1))?.reason).toBe("its lease in the store has ended, and it has not joined again yet");
    expect((await net.read(1, keysOf(1))).every(({ code }) => code === "OK")).toBe(true);
    const asked = await (await net.client(1)).ask<Outcome[]>("exist", { keys: ["never-1", "never-2", "never-3"] });
    expect(asked.map(({ presence }) => presence)).not.toContain("MISS");
    await net.fillPatiently(2, 5);
    await net.hosts.healToHub(1);
  });

  it("a host that was stopped for longer than its lease does not serve as an owner when it wakes, before it has joined again", async () => {
    const { pid } = net.worker(1);
    const client = await net.client(1);
    const owned = await keysOwnedBy(1, 12);
    const [written, kept] = [owned.slice(0, 6), owned.slice(6)];
    signal(pid, "SIGSTOP");
    signal(net.sidecarPid(1), "SIGSTOP");
    const tookMs = await untilGone(1, [2, 3]);
    console.log(`a stopped host was known after ${tookMs.toFixed(0)} ms`);
    // Others own its keys now, and these are set.
    await net.fillPatiently(2, written.length, [64], written);
    // What it finds when it wakes: questions about keys that it owned, which it would answer with a miss, and sets that
    // it would allow.
    const answers = Promise.all([
      client.ask<Outcome[]>("exist", { keys: written }),
      client.ask<Outcome[]>("get", { keys: written, sizes: written.map(() => [64]) }),
      client.ask<Outcome[]>("set", {
        keys: written,
        sizes: written.map(() => [64]),
        versions: written.map(() => 1_000),
        existence: "fail",
      }),
      client.ask<Outcome[]>("exist", { keys: kept }),
    ]);
    signal(net.sidecarPid(1), "SIGCONT");
    signal(pid, "SIGCONT");
    const [exist, get, set, unset] = await answers;
    expect(exist.map(({ presence }) => presence)).not.toContain("MISS");
    expectNoWrongAnswer(get);
    expect(set.map(({ code }) => code)).not.toContain("OK");
    for (const { code, message } of set) {
      expect(["KEY_ALREADY_EXISTS", ...TRANSIENT], message).toContain(code);
    }
    // Right, or not known.
    expect(unset.map(({ presence }) => presence)).not.toContain("HIT");
    await net.untilWhole();
    for (let round = 0; round < 3; round += 1) {
      expectNoWrongAnswer(await net.read(1, written));
    }
  });

  /** New keys, not set, that a host owns. */
  const keysOwnedBy = async (host: number, count: number): Promise<string[]> => {
    const client = await net.client(host);
    const found: string[] = [];
    for (let number = 0; found.length < count; number += 1) {
      const key = `unset-${number}`;
      const { owner } = await client.ask<{ owner: string }>("explain", { key });
      if (owner === net.worker(host).address) {
        found.push(key);
      }
    }
    return found;
  };
});

/** When a worker took another ring into use, in ms since 1970. */
function firstChangeMs(log: string): number {
  const line = log.split("\n").find((each) => each.includes("the ring has changed"));
  return (JSON.parse(line ?? "{}") as { time: number }).time;
}
