/**
 * A real etcd (Debian's etcd-server) for a test: on free ports, with a directory of its own, and gone with everything
 * that it wrote.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { formatAddress } from "../../src/base/address.js";
import { createSystemClock } from "../../src/base/clock.js";
import { pause } from "../../src/base/deadline.js";
import type { EtcdFiles } from "../../src/base/etcd-access.js";
import { findFreePorts } from "../../src/base/free-port.js";
import { createEtcdStore } from "../../src/metadata/index.js";
import type { TlsFiles } from "../support/certificates.js";

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
  return (await findFreePorts(1))[0] ?? 0;
}

export interface EtcdTls {
  /** What it shows, and who signs the certificates that it asks its clients for. */
  server: TlsFiles;
  /** How the probe reaches it. */
  files: EtcdFiles;
}

/** Resolves once etcd answers, at this IP address. */
export async function startEtcd(tls?: EtcdTls, host = "127.0.0.1"): Promise<Etcd> {
  const folder = mkdtempSync(join(tmpdir(), "hbmesh-etcd-"));
  const endpoint = formatAddress({ host, port: await freePort() });
  const peer = `http://127.0.0.1:${await freePort()}`;
  const url = `${tls === undefined ? "http" : "https"}://${endpoint}`;
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
  const { server } = tls ?? {};
  const certificates =
    server === undefined
      ? []
      : ["--cert-file", server.tlsCert, "--key-file", server.tlsKey, "--trusted-ca-file", server.tlsCa];
  const asks = server === undefined ? [] : ["--client-cert-auth"];
  const all = [...flags, ...cluster, ...certificates, ...asks];
  let child: ChildProcess | undefined = spawn("etcd", all, { stdio: "ignore" });
  const ended = new Promise<void>((resolve) => child?.once("exit", () => resolve()));
  const stop = async (): Promise<void> => {
    child?.kill("SIGKILL");
    child = undefined;
    await ended;
    rmSync(folder, { recursive: true, force: true });
  };
  const deadlineMs = clock.monotonicMs() + 20_000;
  for (;;) {
    const store = createEtcdStore([endpoint], clock, tls?.files);
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
