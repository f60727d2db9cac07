/**
 * Goal: etcd keeps the Store's contract, and one that stops is named. Method: the conformance suite against a real etcd (Debian's etcd-server), started here on free ports
 * with a directory of its own, and ended with everything that it wrote. Without the program the suite is skipped, by name.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createSystemClock } from "../../src/base/clock.js";
import { pause } from "../../src/base/deadline.js";
import { StatusCode } from "../../src/base/errors.js";
import { createEtcdStore } from "../../src/metadata/index.js";
import { describeStore } from "../unit/metadata/store-conformance.js";

const installed = spawnSync("etcd", ["--version"]).status === 0;
const clock = createSystemClock();

interface Etcd {
  endpoint: string;
  stop: () => Promise<void>;
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise<void>((resolve) => server.close(() => resolve()));
  return port;
}

/** Resolves once etcd answers. */
async function startEtcd(): Promise<Etcd> {
  const folder = mkdtempSync(join(tmpdir(), "hbmesh-etcd-"));
  const endpoint = `127.0.0.1:${await freePort()}`;
  const peer = `http://127.0.0.1:${await freePort()}`;
  const url = `http://${endpoint}`;
  const flags = [
    "--data-dir",
    folder,
    "--listen-client-urls",
    url,
    "--advertise-client-urls",
    url,
    "--listen-peer-urls",
    peer,
  ];
  const cluster = ["--initial-advertise-peer-urls", peer, "--initial-cluster", `default=${peer}`, "--unsafe-no-fsync"];
  let child: ChildProcess | undefined = spawn("etcd", [...flags, ...cluster], { stdio: "ignore" });
  const ended = new Promise<void>((resolve) => child?.once("exit", () => resolve()));
  const stop = async (): Promise<void> => {
    child?.kill("SIGKILL");
    child = undefined;
    await ended;
    rmSync(folder, { recursive: true, force: true });
  };
  const deadlineMs = clock.monotonicMs() + 20_000;
  for (;;) {
    const store = createEtcdStore([endpoint], clock);
    try {
      await store.get("probe", { timeoutMs: 1_000 });
      await store.close();
      return { endpoint, stop };
    } catch (reason) {
      await store.close();
      if (clock.monotonicMs() > deadlineMs) {
        await stop();
        throw reason;
      }
      await pause(clock, 100);
    }
  }
}

if (!installed) {
  describe("Store: etcd", () => {
    it.skip("skipped: the program etcd is missing; install it with apt-get install etcd-server", () => {});
  });
} else {
  let etcd: Etcd | undefined;

  beforeAll(async () => {
    etcd = await startEtcd();
  });

  afterAll(async () => {
    await etcd?.stop();
  });

  describeStore("etcd", async () => {
    const store = createEtcdStore([etcd?.endpoint ?? ""], clock);
    return { store, close: () => store.close(), pass: (durationMs) => pause(clock, durationMs) };
  });

  describe("etcd that stops", () => {
    it("rejects calls and watches with RPC_UNAVAILABLE, the endpoint and the command to check", async () => {
      const short = await startEtcd();
      const store = createEtcdStore([short.endpoint], clock);
      const watch = store.watch("p", { signal: new AbortController().signal })[Symbol.asyncIterator]();
      await watch.next();
      // One change shows that the watch is attached; the next answer is the loss.
      await store.put("p/1", Buffer.from("1"));
      expect((await watch.next()).value).toMatchObject({ events: [{ entry: { key: "p/1" } }] });
      const lost = expect(watch.next()).rejects.toMatchObject({
        code: StatusCode.RPC_UNAVAILABLE,
        node: short.endpoint,
      });
      await Promise.all([lost, short.stop()]);
      await expect(store.get("k", { timeoutMs: 2_000 })).rejects.toMatchObject({
        code: StatusCode.RPC_UNAVAILABLE,
        node: short.endpoint,
        message: expect.stringContaining(`etcdctl --endpoints ${short.endpoint} endpoint health`),
      });
      await store.close();
    });
  });
}
