/**
 * Goal: a worker that others can't reach any more is named in their health and status, a planned end moves nothing to
 * it and says so, and all is well again when it is back. Method: two real workers on an etcd with leases that last; the
 * control process of one is stopped (SIGSTOP), so that it is a member and answers nobody.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { hbmesh, until } from "./commands.js";
import { type Etcd, etcdMissing, freePort, startEtcd } from "./etcd.js";
import { clientOf, codesOf, DeviceObject } from "./fixture.js";
import { expectNothingNew, type Leftovers, leftoversNow } from "./leftovers.js";

const PATIENCE_MS = 180_000;

describe.skipIf(etcdMissing !== undefined)(
  `a worker out of reach ${etcdMissing ?? ""}`,
  { timeout: PATIENCE_MS },
  () => {
    let before: Leftovers;
    let folder: string;
    let etcd: Etcd;
    const addresses: string[] = [];

    beforeAll(async () => {
      before = leftoversNow();
      folder = mkdtempSync(join(tmpdir(), "hbmesh-unreachable-"));
      etcd = await startEtcd();
    });
    afterAll(async () => {
      for (const address of addresses) {
        await hbmesh("stop", "--worker_address", address, "--force", "--stop_timeout_ms", "20000");
      }
      await etcd.stop();
      rmSync(folder, { recursive: true, force: true });
      expectNothingNew(before, addresses);
    }, PATIENCE_MS);

    const start = async (): Promise<{ address: string; pid: number }> => {
      const address = `127.0.0.1:${await freePort()}`;
      const { code, stdout, stderr } = await hbmesh(
        ...["start", "-w", "--worker_address", address, "--etcd_address", etcd.endpoint, "--lease_ms", "600000"],
        ...["--shared_memory_size_mb", "32", "--devices", "2", "--log_dir", folder, "--json"],
      );
      expect(code, stderr).toBe(0);
      addresses.push(address);
      return { address, pid: (JSON.parse(stdout) as { pid: number }).pid };
    };
    const reasonAt = async (address: string): Promise<{ state: string; reason: string } | undefined> => {
      const { stdout } = await hbmesh("status", "--worker_address", address, "--json");
      return (JSON.parse(stdout) as { workers: { state: string; reason: string }[] }).workers[0];
    };

    it("is named, is given nothing, and is forgotten about when it is back", async () => {
      const first = await start();
      const second = await start();
      const client = clientOf(first.address);
      await client.init();
      // Enough of them for each worker to own some.
      const keys = Array.from({ length: 16 }, (_, index) => `k${index}`);
      const written = new DeviceObject(0, [10_000], 1);
      expect(
        codesOf(
          await client.mSetD2H(
            keys,
            keys.map(() => written.list),
          ),
        ),
      ).toEqual(keys.map(() => "OK"));
      expect(await reasonAt(first.address)).toMatchObject({ state: "ready", reason: "" });
      process.kill(second.pid, "SIGSTOP");
      try {
        const named = await until(
          "the first names the second",
          // That calls to it fail is said at once; this after 5 s.
          async () => {
            const seen = await reasonAt(first.address);
            return seen?.reason.startsWith(`worker ${second.address} `) ? seen : false;
          },
          60_000,
        );
        expect(named.state).toBe("ready");
        expect(named.reason).toMatch(
          /^worker 127\.0\.0\.1:\d+ can't be reached for \d+ s, and keys that it owns are UNKNOWN here: /,
        );
        expect((await hbmesh("health", "--worker", first.address)).stdout).toContain("can't be reached for");
        const stopped = await hbmesh("stop", "--worker_address", first.address, "--drain_timeout_ms", "60000");
        expect(stopped.code).toBe(1);
        expect(stopped.stderr).toMatch(
          /stays, with .* objects .*: no other worker can be reached to take \d+ objects with \d+ bytes: /,
        );
        expect(stopped.stderr).toContain(second.address);
      } finally {
        process.kill(second.pid, "SIGCONT");
      }
      await until("it is forgotten about", async () => (await reasonAt(first.address))?.reason === "", 60_000);
      const stopped = await hbmesh("stop", "--worker_address", first.address, "--json");
      expect(stopped.code, stopped.stderr).toBe(0);
      expect(JSON.parse(stopped.stdout)).toMatchObject({ drain: { state: "moved", objectsLeft: 0 } });
      await client.close();
      const found = new DeviceObject(1, [10_000]);
      const other = clientOf(second.address);
      await other.init();
      expect(codesOf(await other.mGetH2D(["k7"], [found.list], { timeoutMs: 20_000 }))).toEqual(["OK"]);
      expect(found.holds(1)).toBe(true);
      await other.close();
    });
  },
);
