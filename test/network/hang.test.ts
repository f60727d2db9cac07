/**
 * Goal: a sidecar that lives and does not answer (SIGSTOP) holds up no change of the ring for long, is killed at its
 * limit, and its successor has all its objects; one that goes on before that stays, and everything is found. Method:
 * three hosts (network namespaces) with real etcd; real sidecars are stopped, while a worker of another host is killed
 * and started again. What is waited for is what the workers say, not a time.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { until } from "../cluster/commands.js";
import { etcdMissing } from "../cluster/etcd.js";
import { kill, NetworkFixture, signal } from "./fixture.js";
import { namespacesMissing } from "./hosts.js";

const missing = namespacesMissing ?? etcdMissing;
/** Of host 1 the default: it has time to go on. */
const HANG_MS = 9_000;
const PATIENCE_MS = 120_000;

describe.skipIf(missing !== undefined)(`sidecars that hang ${missing ?? ""}`, { timeout: 300_000 }, () => {
  let net: NetworkFixture;

  beforeAll(async () => {
    net = await NetworkFixture.start({
      flagsOf: (host) => (host === 2 ? ["--sidecar_hang_ms", String(HANG_MS)] : []),
    });
    for (const host of net.all) {
      await net.fill(host, 20);
    }
  }, 120_000);

  afterAll(async () => {
    await net?.close();
  }, 120_000);

  const untilHung = (host: number): Promise<unknown> =>
    until(
      `host ${host} says that its sidecar does not answer`,
      async () => (await net.health(host))?.reason.includes("the sidecar has not answered for"),
      PATIENCE_MS,
    );

  it("stopped for too long: the ring changes without it, it is killed, and nothing is lost", async () => {
    const stopped = await net.untilSidecar(2);
    signal(stopped, "SIGSTOP");
    await kill(net.worker(3).pid);
    // Ready when all have announced, or said that they can't.
    await net.startWorker(3);
    await until("another sidecar is there", () => ![0, stopped].includes(net.sidecarPid(2)), PATIENCE_MS);
    await net.untilWhole();
    await net.reconnect(2);
    await net.expectAllFound();
    const log = net.logOf(2);
    const lines = ["the sidecar does not answer", "the sidecar is killed: it has not answered for too long"];
    const at = [...lines, "the sidecar was restarted"].map((line) => log.indexOf(line));
    expect(at).not.toContain(-1);
    expect(at).toEqual([...at].sort((a, b) => a - b));
    expect(log).toContain('"state":"T"');
  });

  it("stopped, and going on before its limit: said so, and it stays", async () => {
    const stopped = await net.untilSidecar(1);
    signal(stopped, "SIGSTOP");
    await untilHung(1);
    expect((await net.health(1))?.reason).toContain(
      "(state T: stopped); it is killed and started again after 30000 ms",
    );
    signal(stopped, "SIGCONT");
    await net.untilWhole();
    await net.expectAllFound();
    expect(net.sidecarPid(1)).toBe(stopped);
    expect(net.logOf(1)).toContain("the sidecar answers again");
    expect(net.logOf(1)).not.toContain("the sidecar is killed");
  });

  it("nobody else was taken for one that hangs", () => {
    expect(net.logOf(3)).not.toContain("the sidecar does not answer");
  });
});
