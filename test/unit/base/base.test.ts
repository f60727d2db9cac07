/**
 * Goal: configuration, clocks, deadlines and randomness behave at their limits. Method: tables of good and
 * bad values; virtual time.
 */
import { describe, expect, it } from "vitest";
import { createSystemClock, createVirtualClock } from "../../../src/base/clock.js";
import { parseMetadataAddress, resolveWorkerConfig, type WorkerSettings } from "../../../src/base/config.js";
import { createDeferred, pause, withDeadline } from "../../../src/base/deadline.js";
import { HbmeshError, StatusCode } from "../../../src/base/errors.js";
import { createLogger, createSilentLogger } from "../../../src/base/log.js";
import { createSeededRandom, createSystemRandom } from "../../../src/base/random.js";

describe("worker configuration", () => {
  it("has defaults for all but the address", () => {
    expect(resolveWorkerConfig({ workerAddress: "127.0.0.1:31501" })).toMatchObject({
      metadataAddress: "memory",
      linkAddress: "127.0.0.1:0",
      devices: 8,
      arenaBytes: 2 ** 30,
      keyRule: "strict",
      transport: "auto",
    });
  });

  it.each<[Partial<WorkerSettings>, string]>([
    [{ workerAddress: "127.0.0.1:0" }, "workerAddress must have a port from 1 to 65535"],
    [{ devices: 65 }, "devices must be a whole number from 0 to 64; it is 65"],
    [{ weight: -1 }, "weight must be a whole number from 0 to 1000; it is -1"],
    [{ arenaBytes: 1.5 }, "arenaBytes must be a whole number"],
    [{ leaseMs: 999 }, "leaseMs must be a whole number from 1000"],
    [{ lanes: 0 }, "lanes must be a whole number from 1 to 16; it is 0"],
    [{ clusterName: "a/b" }, "clusterName must be 1 to 64 letters"],
    [{ transport: "rdma" as "tcp" }, "transport must be one of auto, tcp, shm"],
    [{ keyRule: "none" as "strict" }, "keyRule must be one of strict, extended"],
    [{ workerAddress: "0.0.0.0:1" }, 'workerAddress "0.0.0.0:1" stands for all addresses of this host'],
    [{ workerAddress: "[::]:1" }, 'workerAddress "[::]:1" stands for all addresses of this host'],
    [{ workerAddress: "[fe80::1]:1" }, 'workerAddress "[fe80::1]:1" is of one link only (fe80::/10)'],
    [{ workerAddress: "localhost:1" }, 'workerAddress "localhost:1" has a name, which may lead elsewhere'],
    [{ linkAddress: "0.0.0.0:0" }, 'linkAddress "0.0.0.0:0" stands for all addresses of this host'],
    [{ metadataAddress: "nowhere" }, "metadataAddress must be memory, hbmesh://HOST:PORT, or etcd endpoints"],
    [{ metadataAddress: "nowhere" }, 'an etcd endpoint "nowhere" has no port'],
    [{ metadataAddress: "a:1,b:0" }, 'an etcd endpoint "b:0" has port 0, where nobody listens'],
    [{ metadataAddress: "http://root:secret@a:1" }, 'an etcd endpoint "...@a:1" has a host that is neither'],
    [{ metadataAddress: "https://a:1/path" }, 'an etcd endpoint "a:1/path" has a port that is no number'],
    [{ metadataAddress: "hbmesh://x" }, 'metadataAddress "x" has no port'],
    [{ linkAddress: "x" }, 'linkAddress "x" has no port'],
    [{ evictionHighPercent: 101 }, "evictionHighPercent must be a whole number from 1 to 100; it is 101"],
    [{ evictionHighPercent: 50, evictionLowPercent: 51 }, "evictionLowPercent must be at most evictionHighPercent"],
    [
      { spillBytes: 2 ** 30 },
      "spillBytes goes together with spillDirectory: the SSD tier needs a directory and a size",
    ],
    [{ spillDirectory: "/ssd" }, "spillBytes goes together with spillDirectory"],
  ])("%j is refused, naming the setting and what is allowed", (settings, message) => {
    expect(() => resolveWorkerConfig({ workerAddress: "127.0.0.1:1", ...settings })).toThrow(
      expect.objectContaining({ code: StatusCode.INVALID, message: expect.stringContaining(message) }),
    );
  });

  it("takes each limit itself, and undefined as not given", () => {
    const settings = {
      workerAddress: "127.0.0.1:1",
      devices: 64,
      weight: 0,
      leaseMs: 1_000,
      lanes: 16,
      spinMicros: 10_000,
    };
    expect(resolveWorkerConfig({ ...settings, keyRule: undefined } as unknown as WorkerSettings)).toMatchObject({
      ...settings,
      keyRule: "strict",
    });
  });

  it("reads the three kinds of store", () => {
    expect(parseMetadataAddress("memory")).toEqual({ t: "memory" });
    expect(parseMetadataAddress("hbmesh://127.0.0.1:5")).toEqual({ t: "hbmesh", address: "127.0.0.1:5" });
    expect(parseMetadataAddress("a:1, https://b.c:2")).toEqual({ t: "etcd", endpoints: ["a:1", "https://b.c:2"] });
    expect(parseMetadataAddress("hbmesh://[0::1]:5")).toEqual({ t: "hbmesh", address: "[::1]:5" });
    expect(parseMetadataAddress("[0:0::1]:2379,HTTPS://[FD00::1]:1")).toEqual({
      t: "etcd",
      endpoints: ["[::1]:2379", "https://[fd00::1]:1"],
    });
  });

  it("writes its own addresses in one way, since they are compared", () => {
    const given = { workerAddress: "[0:0:0:0:0:0:0:1]:5", linkAddress: "[::ffff:127.0.0.1]:6" };
    expect(resolveWorkerConfig(given)).toMatchObject({ workerAddress: "[::1]:5", linkAddress: "127.0.0.1:6" });
    expect(resolveWorkerConfig({ workerAddress: "[0::1]:5" }).linkAddress).toBe("[::1]:0");
  });
});

describe("time", () => {
  it("the virtual clock fires timers in order, those set at a time by their setting, and stops where it is told", async () => {
    const clock = createVirtualClock(5_000);
    const fired: string[] = [];
    clock.setTimer(20, () => fired.push(`20@${clock.monotonicMs()}`));
    clock.setTimer(10, () => {
      fired.push(`10@${clock.monotonicMs()}`);
      clock.setTimer(5, () => fired.push(`15@${clock.monotonicMs()}`));
    });
    clock.setTimer(20, () => fired.push("20 again"));
    clock.setTimer(12, () => fired.push("never")).cancel();
    clock.setTimer(31, () => fired.push("late"));
    await clock.advance(30);
    expect(fired).toEqual(["10@10", "15@15", "20@20", "20 again"]);
    expect([clock.nowMs(), clock.monotonicMs(), clock.pendingTimers]).toEqual([5_030, 30, 1]);
  });

  it("the system clock moves on and fires", async () => {
    const clock = createSystemClock();
    const before = clock.monotonicMs();
    await pause(clock, 1);
    expect(clock.monotonicMs()).toBeGreaterThan(before);
    expect(clock.nowMs()).toBeGreaterThan(1_700_000_000_000);
  });

  it("a deadline names what it waited for; work that ends in time wins; an abort ends the wait", async () => {
    const clock = createVirtualClock();
    const never = new Promise<never>(() => {});
    const late = expect(withDeadline(never, { clock, timeoutMs: 100, what: "the answer" })).rejects.toMatchObject({
      code: StatusCode.RPC_DEADLINE_EXCEEDED,
      message: "the answer took longer than 100 ms",
    });
    await clock.advance(100);
    await late;
    expect(await withDeadline(Promise.resolve(5), { clock, timeoutMs: 100, what: "x" })).toBe(5);
    const ending = new AbortController();
    const aborted = expect(
      withDeadline(never, { clock, signal: ending.signal, what: "the answer" }),
    ).rejects.toMatchObject({
      code: StatusCode.RPC_CANCELLED,
      message: "the answer was cancelled by its caller",
    });
    ending.abort();
    await aborted;
    const reason = new HbmeshError(StatusCode.SHUTTING_DOWN, "closing");
    await expect(withDeadline(never, { clock, signal: AbortSignal.abort(reason), what: "x" })).rejects.toBe(reason);
    expect(clock.pendingTimers).toBe(0);
  });

  it("a pause ends early, without an error, when its signal aborts", async () => {
    const clock = createVirtualClock();
    const ending = new AbortController();
    const paused = pause(clock, 1_000, ending.signal);
    ending.abort();
    await paused;
    expect(clock.pendingTimers).toBe(0);
    const deferred = createDeferred<number>();
    deferred.resolve(1);
    deferred.reject(new Error("ignored"));
    expect(await deferred.promise).toBe(1);
  });
});

describe("randomness and logs", () => {
  it("the seeded source repeats, differs by seed, and stays within its limits", () => {
    const take = (seed: number): number[] => {
      const random = createSeededRandom(seed);
      return Array.from({ length: 100 }, () => random.nextBelow(10));
    };
    expect(take(1)).toEqual(take(1));
    expect(take(1)).not.toEqual(take(2));
    expect(take(3).every((value) => value >= 0 && value < 10)).toBe(true);
    expect(createSystemRandom().nextFraction()).toBeLessThan(1);
  });

  it("loggers take fields and make children; the silent one says nothing", () => {
    for (const logger of [createLogger("test", "silent"), createSilentLogger()]) {
      logger.child({ part: "x" }).error({ epoch: 1n, bytes: 2n }, "not shown");
    }
  });
});
