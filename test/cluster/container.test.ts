/**
 * Goal: as process 1 of a container a worker leaves no defunct processes, neither its own nor strangers'; its probes
 * say when it doesn't serve. Method: a worker in a process-id namespace of its own, as `docker run` makes one; its
 * sidecar is killed several times, an orphan of another process ends there, and the processes are looked at from
 * outside.
 */
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { findFreePorts } from "../../src/base/free-port.js";
import { createAuthority } from "../support/certificates.js";
import { hbmesh, until } from "./commands.js";
import { startWorkerProcess, type WorkerProcess } from "./worker-process.js";

const root = process.getuid?.() === 0 ? [] : ["--user", "--map-root-user"];
const NAMESPACE = ["unshare", ...root, "--pid", "--fork", "--mount-proc", "--kill-child"];
const [program = "", ...flags] = NAMESPACE;
const canUnshare = spawnSync(program, [...flags, "true"]).status === 0;

interface Seen {
  pid: number;
  parent: number;
  state: string;
  name: string;
}

function processes(): Seen[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        const [, name = "", state = "", parent] =
          /^\d+ \((.*)\) (\S) (\d+)/s.exec(readFileSync(`/proc/${pid}/stat`, "latin1")) ?? [];
        return [{ pid: Number(pid), parent: Number(parent), state, name }];
      } catch {
        return []; // it has just ended
      }
    });
}

const childrenOf = (parent: number): Seen[] => processes().filter((each) => each.parent === parent);
const defunct = (parent: number): string[] =>
  childrenOf(parent)
    .filter(({ state }) => state === "Z")
    .map(({ name }) => name);

describe.skipIf(!canUnshare)(
  canUnshare ? "as process 1 of a container" : "as process 1 of a container (skipped: no process-id namespace here)",
  () => {
    let worker: WorkerProcess | undefined;
    let first = 0;

    afterEach(async () => {
      await worker?.stop(first);
      worker = undefined;
    });

    const start = async (...args: string[]): Promise<WorkerProcess> => {
      const started = await startWorkerProcess({ behind: NAMESPACE, args });
      worker = started;
      [first = 0] = childrenOf(started.process.pid ?? 0).map(({ pid }) => pid);
      return started;
    };
    const sidecar = (): number | undefined =>
      childrenOf(first).find(({ name, state }) => name === "hbmesh-sidecar" && state !== "Z")?.pid;

    it("sidecars that are killed, their keepers, and orphans of others are waited for", async () => {
      const { log } = await start();
      for (let restarts = 1; restarts <= 3; restarts += 1) {
        const pid = await until("a sidecar runs", sidecar);
        process.kill(pid, "SIGKILL");
        await until("it was restarted", () => log().split('"msg":"the sidecar was restarted"').length > restarts);
      }
      // A process that entered the container, as docker exec does, leaves a child that loses its parent there.
      const inside = ["--target", String(first), "--pid", "--mount", ...(root.length === 0 ? [] : ["--user"])];
      const orphan = spawn("nsenter", [...inside, "sh", "-c", "(sleep 0.05 &) ; exit 0"], { stdio: "ignore" });
      await new Promise((resolve) => orphan.once("exit", resolve));
      await until(
        "the orphan has come to process 1, and went",
        () => !childrenOf(first).some(({ name }) => name === "sleep"),
      );
      await until("nothing is defunct", () => defunct(first).length === 0);
      // A keeper that waits for the next sidecar lives, and is process 1's child too.
      const alive = childrenOf(first).map(({ name }) => name);
      expect(alive.filter((name) => name !== "hbmesh-keeper")).toEqual(["hbmesh-sidecar"]);
    });

    it("with TLS probes are asked at an address of their own, without a certificate; the API still wants one", async () => {
      const folder = mkdtempSync(join(tmpdir(), "hbmesh-container-"));
      try {
        const { tlsCert, tlsKey, tlsCa } = createAuthority(folder, "cluster").issue("worker");
        const [port = 0] = await findFreePorts(1);
        const tls = ["--tls_cert", tlsCert, "--tls_key", tlsKey, "--tls_ca", tlsCa];
        const { address } = await start(...tls, "--probe_address", `127.0.0.1:${port}`);
        const probe = await fetch(`http://127.0.0.1:${port}/readyz`);
        expect([probe.status, await probe.text()]).toEqual([200, "ok\n"]);
        expect((await fetch(`http://127.0.0.1:${port}/hbmesh.v1.ClusterService/Health`)).status).toBe(404);
        const plain = await fetch(`http://${address}/readyz`);
        expect(plain.status).toBe(400);
        expect(await plain.text()).toContain("this worker speaks TLS");
        const health = await hbmesh("health", "--worker", address, ...tls);
        expect(health.code, health.stderr).toBe(0);
      } finally {
        rmSync(folder, { recursive: true });
      }
    });

    it("/readyz follows a sidecar that hangs, /healthz stays good", async () => {
      const { address } = await start("--sidecar_hang_ms", "3000");
      const ask = async (path: string): Promise<[number, string]> => {
        const response = await fetch(`http://${address}${path}`);
        return [response.status, await response.text()];
      };
      expect([await ask("/healthz"), await ask("/readyz")]).toEqual([
        [200, "ok\n"],
        [200, "ok\n"],
      ]);
      process.kill(await until("a sidecar runs", sidecar), "SIGSTOP");
      const [, reason] = await until("it is not ready", async () => {
        const [status, text] = await ask("/readyz");
        return status === 503 && ([status, text] as const);
      });
      expect(reason).toMatch(/^the sidecar .+\n$/);
      expect(await ask("/healthz")).toEqual([200, "ok\n"]);
      // It is killed then, and started again.
      await until("it is ready again", async () => (await ask("/readyz"))[0] === 200);
    });
  },
);
