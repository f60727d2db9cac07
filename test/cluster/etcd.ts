/** A real etcd (Debian's etcd-server) for a test: on free ports, with a directory of its own, and gone with everything that it wrote. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createSystemClock } from "../../src/base/clock.js";
import { pause } from "../../src/base/deadline.js";
import { createEtcdStore } from "../../src/metadata/index.js";

/** What a suite says when it is skipped. */
export const etcdMissing =
  spawnSync("etcd", ["--version"]).status === 0
    ? undefined
    : "the program etcd is missing; install it with apt-get install etcd-server";

const clock = createSystemClock();

export interface Etcd {
  endpoint: string;
  stop: () => Promise<void>;
}

export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise<void>((resolve) => server.close(() => resolve()));
  return port;
}

/** Resolves once etcd answers. */
export async function startEtcd(): Promise<Etcd> {
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
