/**
 * Goal: a worker that is stopped as planned has others take over what it holds, so that nothing is lost: whatever its
 * objects are like, while clients read and delete, and whoever is killed meanwhile; never faster than it was told; and
 * it stays when there is no room, or when it is told to. Method: real workers on a real etcd, stopped by the command as
 * a shell runs it. The test's process is a client of all of them, and knows the bytes of each object.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { StatusCode } from "../../src/base/errors.js";
import type { HeteroClient, SetOptions } from "../../src/client/index.js";
import { type CommandResult, hbmesh, mainPath, until } from "./commands.js";
import { type Etcd, etcdMissing, freePort, startEtcd } from "./etcd.js";
import { clientOf, codesOf, DeviceObject, failureOf } from "./fixture.js";
import { expectNothingNew, type Leftovers, leftoversNow } from "./leftovers.js";

interface Started {
  address: string;
  pid: number;
  sidecarPid: number;
  client: HeteroClient;
}

interface Report {
  drain: Record<string, number> & { state: string; reason: string };
}

const MIB = 2 ** 20;
const sizes = [700_000, 1, 348_575];

describe.skipIf(etcdMissing !== undefined)(`planned leave ${etcdMissing ?? ""}`, { timeout: 240_000 }, () => {
  let etcd: Etcd;
  let folder: string;
  let before: Leftovers;
  let clusters = 0;
  let workers: Started[] = [];
  const addresses: string[] = [];

  beforeAll(async () => {
    before = leftoversNow();
    folder = mkdtempSync(join(tmpdir(), "hbmesh-leave-"));
    etcd = await startEtcd();
  });

  beforeEach(() => {
    clusters++;
    workers = [];
  });

  afterEach(async () => {
    await Promise.all(workers.map(({ client }) => client.close()));
    const left = leftoversNow(workers.map(({ address }) => address)).processes;
    for (const { address } of workers.filter((each) => left.some((line) => line.includes(each.address)))) {
      await hbmesh("stop", "--worker_address", address, "--drain", "false", "--force", "--stop_timeout_ms", "10000");
    }
  });

  afterAll(async () => {
    await etcd.stop();
    rmSync(folder, { recursive: true, force: true });
    expectNothingNew(before, addresses);
  });

  const start = async (...flags: string[]): Promise<Started> => {
    const address = `127.0.0.1:${await freePort()}`;
    addresses.push(address);
    const place = ["--worker_address", address, "--etcd_address", etcd.endpoint, "--cluster_name", `leave-${clusters}`];
    const { code, stdout, stderr } = await hbmesh("start", "-w", ...place, "--log_dir", folder, "--json", ...flags);
    expect(code, stderr).toBe(0);
    const { pid, sidecarPid } = JSON.parse(stdout) as { pid: number; sidecarPid: number };
    const client = clientOf(address, { connectTimeoutMs: 30_000 });
    await client.init();
    const worker = { address, pid, sidecarPid, client };
    workers.push(worker);
    return worker;
  };
  const stop = ({ address }: Started, ...flags: string[]): Promise<CommandResult> =>
    hbmesh("stop", "--worker_address", address, "--json", ...flags);
  const reportOf = ({ code, stdout, stderr }: CommandResult): Report["drain"] => {
    expect(code, stderr).toBe(0);
    return (JSON.parse(stdout) as Report).drain;
  };
  const set = async (worker: Started, key: string, seed: number, options?: SetOptions): Promise<void> => {
    const object = new DeviceObject(0, sizes, seed);
    expect(codesOf(await worker.client.mSetD2H([key], [object.list], options)), key).toEqual(["OK"]);
    object.free();
  };
  /** The code of a get; what is OK has the bytes that were set. */
  const get = async (worker: Started, key: string, seed: number): Promise<string> => {
    const object = new DeviceObject(1, sizes);
    const result = await worker.client.mGetH2D([key], [object.list]);
    const [code = ""] = codesOf(result);
    expect(code !== "OK" || object.holds(seed), `${key} has other bytes than were set`).toBe(true);
    object.free();
    return code === "OK" ? code : `${code}: ${result.statuses[0]?.message}`;
  };
  const locations = async (worker: Started, key: string): Promise<string[]> => {
    const { stdout } = await hbmesh("meta", key, "--worker", worker.address, "--json");
    return [...stdout.matchAll(/"(127\.0\.0\.1:\d+)"/g)].map(([, address = ""]) => address).sort();
  };
  const drainOf = async ({ address }: Started): Promise<Record<string, unknown>> => {
    const url = `http://${address}/hbmesh.v1.ClusterService/GetDrain`;
    const reply = await fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body: "{}" });
    return (await reply.json()) as Record<string, unknown>;
  };
  /** What its sidecar says of a key. */
  const explain = async (worker: Started, key: string): Promise<string> =>
    (await hbmesh("explain", key, "--worker", worker.address)).stdout;

  it("objects of all sorts move, with what they are like; gets go on at every moment; deletes hold", async () => {
    const spill = ["--spill_directory", join(folder, "spill"), "--spill_mb", "64"];
    const leaver = await start("--shared_memory_size_mb", "16", ...spill);
    const second = await start("--shared_memory_size_mb", "64", "--replica_percent", "50");
    const third = await start("--shared_memory_size_mb", "64");
    const keys = Array.from({ length: 32 }, (_, index) => `kv-${index}`);
    const optionsOf = (index: number): SetOptions => ({
      checksum: index % 3 === 0,
      ttlSeconds: index % 4 === 0 ? 3_600 : 0,
      pin: index === 1 ? "hard" : index === 2 ? "soft" : "none",
    });
    for (const [index, key] of keys.entries()) {
      await set(leaver, key, index, optionsOf(index));
    }
    expect(await explain(leaver, "kv-4")).toContain('"where":"ssd"');
    // A copy that is elsewhere already.
    expect(await get(second, "kv-31", 31)).toBe("OK");
    await until("the copy is known", async () => (await locations(third, "kv-31")).includes(second.address));
    expect(await explain(second, "kv-31")).toContain('"replica":true');
    const cached = new DeviceObject(0, sizes, 1);
    expect(codesOf(await leaver.client.devMSet(["cached"], [cached.list]))).toEqual(["OK"]);

    const leaving = stop(leaver, "--drain_mb_per_second", "16");
    let isOver = false;
    void leaving.then(() => {
      isOver = true;
    });
    let reads = 0;
    while (!isOver) {
      for (const reader of [second, third]) {
        const index = 1 + (reads++ % 31);
        expect(await get(reader, keys[index] ?? "", index), `${keys[index]} at ${reader.address}`).toBe("OK");
      }
      if (reads === 6) {
        expect((await third.client.delete(["kv-0"])).failedKeys).toEqual([]);
      }
    }
    const drain = reportOf(await leaving);
    expect(drain).toMatchObject({
      state: "moved",
      reason: "",
      objectsLeft: 0,
      bytesLeft: 0,
      deviceCached: 1,
      published: 0,
    });
    const { objectsMoved = 0, objectsElsewhere = 0, objectsEnded = 0 } = drain;
    expect(objectsMoved + objectsElsewhere + objectsEnded).toBe(drain.objects);
    expect(objectsElsewhere).toBeGreaterThanOrEqual(1);
    // The product's own record: never ahead of the rate by more than one piece of a quarter of a second, or one object.
    const rate = (16 * MIB * (drain.milliseconds ?? 0)) / 1_000;
    expect(drain.bytesMoved).toBeLessThanOrEqual(rate + 4 * MIB + MIB);
    for (const [index, key] of keys.entries()) {
      for (const reader of [second, third]) {
        const code = await get(reader, key, index);
        expect(index === 0 ? code.split(":")[0] : code, `${key} at ${reader.address}`).toBe(
          index === 0 ? "NOT_FOUND" : "OK",
        );
      }
    }
    // What it was like went along.
    const holderOf = async (key: string): Promise<Started> =>
      (await locations(third, key)).includes(third.address) ? third : second;
    expect(await explain(await holderOf("kv-1"), "kv-1")).toContain('"pin":"hard"');
    expect(await explain(await holderOf("kv-2"), "kv-2")).toContain('"pin":"soft"');
    expect(await explain(await holderOf("kv-8"), "kv-8")).toMatch(/"expiresInMilliseconds":"?\d{6,7}\b/);
    expect(await explain(second, "kv-31")).toContain('"replica":false');
    expect(codesOf(await third.client.delete(keys)).filter((code) => code !== "OK")).toEqual([]);
  });

  it("without room it stays as it was, and says how much has none; --force leaves the rest behind", async () => {
    const leaver = await start("--shared_memory_size_mb", "32");
    const second = await start("--shared_memory_size_mb", "8");
    for (let index = 0; index < 12; index++) {
      await set(leaver, `kv-${index}`, index);
    }
    const refused = await stop(leaver, "--drain_mb_per_second", "0");
    expect(refused.code).toBe(1);
    expect(refused.stderr).toMatch(
      /stays, with 12 objects with 12\.0 MiB that were not moved: the other workers have no room for \d objects/,
    );
    expect(refused.stderr).toContain("or stop it with --force");
    // As it was: nothing moved, and sets are taken.
    expect(await locations(second, "kv-3")).toEqual([leaver.address]);
    await set(leaver, "kv-12", 12);
    const { objectsMoved = 0, objectsLeft = 0, objects, state, reason } = reportOf(await stop(leaver, "--force"));
    expect(state).toBe("moved");
    expect(reason).toMatch(/no room for \d+ objects/);
    expect(objectsMoved).toBeGreaterThan(2);
    expect(objectsMoved + objectsLeft).toBe(objects);
    const codes: string[] = [];
    for (let index = 0; index <= 12; index++) {
      codes.push((await get(second, `kv-${index}`, index)).split(":")[0] ?? "");
    }
    expect(codes.filter((code) => code === "OK")).toHaveLength(objectsMoved);
    expect(codes.filter((code) => code === "NOT_FOUND")).toHaveLength(objectsLeft);
  });

  it("while it leaves sets are refused with the remedy; interrupted it stays, and a second stop goes on", async () => {
    const leaver = await start("--shared_memory_size_mb", "32");
    const second = await start("--shared_memory_size_mb", "64");
    for (let index = 0; index < 16; index++) {
      await set(leaver, `kv-${index}`, index);
    }
    const flags = ["--worker_address", leaver.address, "--drain-mb-per-second", "1"];
    const first: ChildProcess = spawn(process.execPath, [mainPath, "stop", ...flags], { stdio: "ignore" });
    const ended = new Promise<number | null>((resolve) => first.once("exit", resolve));
    const object = new DeviceObject(0, sizes, 99);
    const refused = await until("sets are refused", async () => {
      const error = await failureOf(leaver.client.mSetD2H(["late"], [object.list], { existence: "replace" })).catch(
        () => undefined,
      );
      return error;
    });
    expect(refused).toMatchObject({ code: StatusCode.SCALING });
    expect(refused.message).toContain("is leaving its cluster and moves its objects to other workers");
    expect(refused.message).toContain("use another worker");
    const status = await hbmesh("status", "--worker_address", leaver.address);
    expect(status.stdout).toContain("is leaving and moves its objects to others");
    first.kill("SIGINT");
    expect(await ended).toBe(130);
    expect(codesOf(await leaver.client.mSetD2H(["late"], [object.list]))).toEqual(["OK"]);
    object.free();
    const drain = reportOf(await stop(leaver, "--drain_mb_per_second", "0"));
    expect(drain).toMatchObject({ state: "moved", objectsLeft: 0 });
    for (let index = 0; index < 16; index++) {
      expect(await get(second, `kv-${index}`, index)).toBe("OK");
    }
    expect(await get(second, "late", 99)).toBe("OK");
  });

  it("kill -9 of a sidecar that takes over, and of the one that leaves: nothing is lost", async () => {
    const leaver = await start("--shared_memory_size_mb", "64");
    const second = await start("--shared_memory_size_mb", "64");
    const third = await start("--shared_memory_size_mb", "64");
    for (let index = 0; index < 24; index++) {
      await set(leaver, `kv-${index}`, index);
    }
    const leaving = stop(leaver, "--drain_mb_per_second", "2");
    await until("some have moved", async () => Number((await drainOf(leaver)).objectsMoved ?? 0) > 1);
    process.kill(second.sidecarPid, "SIGKILL");
    process.kill(leaver.sidecarPid, "SIGKILL");
    const first = await leaving;
    if (first.code !== 0) {
      // It could not go on without its sidecar, says so, and stays: the objects are adopted by the next one.
      expect(first.stderr).toContain("stays, with");
      expect(reportOf(await stop(leaver)).objectsLeft).toBe(0);
    }
    for (let index = 0; index < 24; index++) {
      const code = await until(`kv-${index} is told of`, async () => {
        const said = await get(third, `kv-${index}`, index);
        return said.startsWith("TRY_AGAIN") || said.startsWith("RPC_") ? undefined : said;
      });
      expect(code, `kv-${index}`).toBe("OK");
    }
  });

  it("kill -9 of the whole worker that leaves loses only what had not moved, and the time limit ends the moving", async () => {
    const leaver = await start("--shared_memory_size_mb", "32");
    const second = await start("--shared_memory_size_mb", "64", "--dead_after_ms", "0");
    for (let index = 0; index < 12; index++) {
      await set(leaver, `kv-${index}`, index);
    }
    const late = await stop(leaver, "--drain_mb_per_second", "1", "--drain_timeout_ms", "1500");
    expect(late.code).toBe(1);
    expect(late.stderr).toContain("the time limit of 1500 ms is over");
    const moved = new Set<number>();
    for (let index = 0; index < 12; index++) {
      expect(await get(second, `kv-${index}`, index)).toBe("OK");
      if ((await locations(second, `kv-${index}`)).join() === second.address) {
        moved.add(index);
      }
    }
    expect(moved.size).toBeGreaterThan(0);
    expect(moved.size).toBeLessThan(12);
    process.kill(leaver.pid, "SIGKILL");
    process.kill(leaver.sidecarPid, "SIGKILL");
    for (const index of moved) {
      expect(await get(second, `kv-${index}`, index)).toBe("OK");
    }
  });
});
