/**
 * Goal: a death in the middle of a large transfer is told to the other end: RPC_PEER_DEAD, or the bytes of another
 * place that has them. The process that offers or receives, and the sidecar of its worker; publish, device cache, and
 * layers in both directions. Method: the middle is seen in the target's memory. Between workers, the sidecar that moves
 * the bytes is stopped (SIGSTOP) there, and goes on when the other side has noticed the death; what was whole before it
 * could be stopped is tried once more. Within one worker, the devices are slow.
 */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { StatusCode } from "../../src/base/errors.js";
import { type HeteroClient, SimDevice, type TransferFuture } from "../../src/client/index.js";
import { until } from "../cluster/commands.js";
import { codesOf, DeviceObject, type Fixture, startFixture } from "../cluster/fixture.js";
import { ClientProcess } from "./client-process.js";

const waitMs = 60_000;
const attemptsMax = 10;
/** No byte of it is 0. */
const word = 0x5a3c_7e11;

const places = [
  { place: "two workers over tcp", transport: "tcp", workers: 2, blobs: 16, blobBytes: 8 << 20, workerArgs: [] },
  { place: "two workers over shm", transport: "shm", workers: 2, blobs: 16, blobBytes: 8 << 20, workerArgs: [] },
  // 2 MiB at 1 MB/s.
  {
    place: "one worker",
    transport: "tcp",
    workers: 1,
    blobs: 16,
    blobBytes: 128 << 10,
    workerArgs: ["--sim_bandwidth_mb_per_s", "1"],
  },
] as const;

const codeOf = async (future: Promise<unknown>): Promise<string> =>
  await future.then(
    () => "OK",
    (error: { code: StatusCode }) => StatusCode[error.code] ?? String(error),
  );

function lastByteOf(object: DeviceObject, at: number): number {
  const blob = object.list.blobs.at(at);
  const sim = new SimDevice(object.list.deviceIndex);
  return blob === undefined ? 0 : (sim.copyOut(blob.pointer + blob.size - 1n, 1n)[0] ?? 0);
}

function words(bytes: number): Buffer {
  const pattern = Buffer.alloc(4);
  pattern.writeUInt32LE(word);
  return Buffer.alloc(bytes, pattern);
}

function fillWord(object: DeviceObject): DeviceObject {
  for (const blob of object.list.blobs) {
    new SimDevice(object.list.deviceIndex).copyIn(blob.pointer, words(Number(blob.size)));
  }
  return object;
}

function holdsWord(object: DeviceObject): boolean {
  return object.bytes().every((bytes) => bytes.equals(words(bytes.length)));
}

describe.each(places)("a death in the middle: $place", ({ transport, workers, blobs, blobBytes, workerArgs }) => {
  const sizes = Array.from({ length: blobs }, () => blobBytes);
  let fixture: Fixture;
  let near: HeteroClient;
  let watchers: HeteroClient[] = [];
  let key: string;
  let made: DeviceObject[] = [];
  let processes: ClientProcess[] = [];

  const memory = (device: number): DeviceObject => {
    const object = new DeviceObject(device, sizes);
    made.push(object);
    return object;
  };
  const processAt = async (worker: number): Promise<ClientProcess> => {
    const started = await ClientProcess.start(fixture.addresses[worker] ?? "");
    processes.push(started);
    return started;
  };
  const sidecarOf = (worker: number): number => {
    const pid = fixture.cluster.workers[worker]?.ready.sidecarPid ?? 0;
    expect(pid).toBeGreaterThan(1);
    return pid;
  };
  /**
   * Stops the sidecar that moves the bytes, when the first have come. False: all of them had. Slow devices need no
   * stop.
   */
  const stopInTheMiddle = async (mover: number, target: DeviceObject): Promise<boolean> => {
    while (lastByteOf(target, 0) === 0) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    if (workers > 1) {
      process.kill(sidecarOf(mover), "SIGSTOP");
    }
    return lastByteOf(target, -1) === 0;
  };
  const resume = (mover: number): void => {
    process.kill(sidecarOf(mover), "SIGCONT");
  };
  /** Kills the client process; where a sidecar is stopped, resolves when that of the process's worker has seen it. */
  const killAndSee = async (child: ClientProcess, worker: number): Promise<void> => {
    const watcher = watchers[worker];
    const before = (await watcher?.healthCheck())?.sessions ?? 0;
    await child.kill();
    if (watcher !== undefined) {
      await until("its worker has seen it", async () => (await watcher.healthCheck()).sessions < before);
    }
  };
  /** Until an attempt was in the middle: resolves to its outcome. */
  const attempt = async (one: () => Promise<string | undefined>): Promise<string> => {
    for (let number = 1; number <= attemptsMax; number += 1) {
      const outcome = await one();
      if (outcome !== undefined) {
        return outcome;
      }
    }
    throw new Error(`the transfer was whole before it could be stopped, in ${attemptsMax} attempts`);
  };

  beforeAll(async () => {
    fixture = await startFixture({
      transport,
      workers,
      devices: 4,
      workerArgs: ["--slice_kb", "64", ...workerArgs],
    });
    near = await fixture.client(workers - 1);
    watchers = workers === 1 ? [] : [await fixture.client(0), near];
  });

  beforeEach(() => {
    key = near.generateKey("middle");
  });

  afterEach(async () => {
    for (let worker = 0; worker < workers; worker += 1) {
      resume(worker);
    }
    await Promise.all(processes.map((each) => each.close()));
    processes = [];
    for (const object of made) {
      object.free();
    }
    made = [];
  });

  afterAll(async () => {
    await fixture.close();
  });

  it("the publisher: its subscriber gets RPC_PEER_DEAD, and the key is free", async () => {
    const outcome = await attempt(async () => {
      const child = await processAt(0);
      await child.ask("publish", { keys: [key], device: 0, sizes, word });
      const target = memory(1);
      const [future] = await near.devSubscribe([key], [target.list], { timeoutMs: waitMs });
      const inside = await stopInTheMiddle(workers - 1, target);
      await killAndSee(child, 0);
      resume(workers - 1);
      const code = await codeOf((future as TransferFuture).get(waitMs));
      return inside && code !== "OK" ? code : undefined;
    });
    expect(outcome).toBe("RPC_PEER_DEAD");
    const free = await near.devSubscribe([key], [memory(2).list], { timeoutMs: 50 });
    expect(await codeOf((free[0] as TransferFuture).get(waitMs))).toBe("FUTURE_TIMEOUT");
  });

  it("the setter of the device cache, alone: its reader gets RPC_PEER_DEAD", async () => {
    const outcome = await attempt(async () => {
      const child = await processAt(0);
      const name = near.generateKey("middle");
      expect(await child.ask("devSet", { keys: [name], device: 0, sizes, word })).toEqual(["OK"]);
      const target = memory(1);
      const reading = near.devMGet([name], [target.list]);
      const inside = await stopInTheMiddle(workers - 1, target);
      await killAndSee(child, 0);
      resume(workers - 1);
      const [code] = codesOf(await reading);
      return inside && code !== "OK" ? code : undefined;
    });
    expect(outcome).toBe("RPC_PEER_DEAD");
  });

  it("the setter of the device cache, with a replica elsewhere: the reader gets the replica's bytes", async () => {
    const outcome = await attempt(async () => {
      const child = await processAt(0);
      const name = near.generateKey("middle");
      expect(await child.ask("devSet", { keys: [name], device: 0, sizes, word })).toEqual(["OK"]);
      const sharer = await fixture.client(0);
      const replica = memory(3);
      expect(codesOf(await sharer.devMGet([name], [replica.list], { shareReplica: true }))).toEqual(["OK"]);
      const target = memory(1);
      const reading = near.devMGet([name], [target.list]);
      const inside = await stopInTheMiddle(workers - 1, target);
      await killAndSee(child, 0);
      resume(workers - 1);
      const [code] = codesOf(await reading);
      const isWhole = holdsWord(target);
      await sharer.close();
      expect([code, isWhole]).toEqual(["OK", true]);
      return inside ? code : undefined;
    });
    expect(outcome).toBe("OK");
  });

  it("the decode side: the pusher of a layer gets RPC_PEER_DEAD, also for the next one", async () => {
    const pusher = await fixture.client(0);
    const source = fillWord(memory(0));
    let text = "";
    const outcome = await attempt(async () => {
      const child = await processAt(workers - 1);
      text = await child.ask<string>("reserve", { layers: 2, device: 1, sizes });
      const pushing = codeOf(pusher.push(text, 0, source.list));
      const stop = workers > 1 ? sidecarOf(0) : undefined;
      const inside = await child.ask<boolean>("stopInLayer", { layer: 0, stop });
      await killAndSee(child, workers - 1);
      resume(0);
      const code = await pushing;
      return inside && code !== "OK" ? code : undefined;
    });
    expect(outcome).toBe("RPC_PEER_DEAD");
    expect(await codeOf(pusher.push(text, 1, source.list))).toBe("RPC_PEER_DEAD");
    await pusher.close();
  });

  it("the prefill side: the layer, and with it the ticket, ends with RPC_PEER_DEAD", async () => {
    const outcome = await attempt(async () => {
      const child = await processAt(0);
      const targets = [memory(1), memory(1)] as const;
      const ticket = await near.reserveLayers(targets.map((target) => target.list));
      const pushing = child
        .ask("push", { ticket: ticket.text, layer: 0, device: 0, sizes, word })
        .catch(() => undefined);
      const inside = await stopInTheMiddle(0, targets[0]);
      await child.kill();
      resume(0);
      await pushing;
      const codes = [await codeOf(ticket.layer(0, waitMs))];
      ticket.cancel();
      codes.push(await codeOf(ticket.layer(1, waitMs)));
      return inside && codes[0] !== "OK" ? codes.join() : undefined;
    });
    expect(outcome).toBe("RPC_PEER_DEAD,RPC_PEER_DEAD");
  });
});

describe.each(places.slice(0, 2))("a sidecar's death in the middle: $place", ({ transport, blobs, blobBytes }) => {
  const sizes = Array.from({ length: blobs }, () => blobBytes);
  let fixture: Fixture;
  let made: DeviceObject[] = [];

  const memory = (device: number): DeviceObject => {
    const object = new DeviceObject(device, sizes);
    made.push(object);
    return object;
  };
  const start = async (): Promise<{ there: HeteroClient; here: HeteroClient; pids: [number, number] }> => {
    fixture = await startFixture({ transport, workers: 2, workerArgs: ["--slice_kb", "64"] });
    const pids = fixture.cluster.workers.map(({ ready }) => ready.sidecarPid) as [number, number];
    return { there: await fixture.client(0), here: await fixture.client(1), pids };
  };
  /**
   * Stops the mover's sidecar when the first bytes have come, kills the other one, and lets the mover go on. False: all
   * of the bytes had come.
   */
  const killInTheMiddle = async (target: DeviceObject, mover: number, victim: number): Promise<boolean> => {
    while (lastByteOf(target, 0) === 0) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    process.kill(mover, "SIGSTOP");
    const inside = lastByteOf(target, -1) === 0;
    process.kill(victim, "SIGKILL");
    process.kill(mover, "SIGCONT");
    return inside;
  };
  /** In a cluster of its own each, until it was in the middle. */
  const attempt = async (one: () => Promise<string | undefined>): Promise<string | undefined> => {
    for (let number = 1; number <= attemptsMax; number += 1) {
      try {
        const outcome = await one();
        if (outcome !== undefined) {
          return outcome;
        }
      } finally {
        for (const object of made) {
          object.free();
        }
        made = [];
        await fixture.close();
      }
    }
    throw new Error(`the transfer was whole before it could be stopped, in ${attemptsMax} attempts`);
  };

  it("the publisher's: the subscriber gets RPC_PEER_DEAD, the publisher CLIENT_WORKER_DISCONNECT", async () => {
    const outcome = await attempt(async () => {
      const { there, here, pids } = await start();
      const [sent] = await there.devPublish(["k"], [fillWord(memory(0)).list]);
      const target = memory(1);
      const [received] = await here.devSubscribe(["k"], [target.list], { timeoutMs: waitMs });
      const inside = await killInTheMiddle(target, pids[1], pids[0]);
      const codes = [received, sent].map((future) => codeOf((future as TransferFuture).get(waitMs)));
      const ends = await Promise.all(codes);
      return inside && ends[0] !== "OK" ? ends.join() : undefined;
    });
    expect(outcome).toBe("RPC_PEER_DEAD,CLIENT_WORKER_DISCONNECT");
  });

  it("the decode side's: the pusher gets RPC_PEER_DEAD, the reservation CLIENT_WORKER_DISCONNECT", async () => {
    const outcome = await attempt(async () => {
      const { there, here, pids } = await start();
      const target = memory(1);
      const ticket = await here.reserveLayers([target.list]);
      const pushing = codeOf(there.push(ticket.text, 0, fillWord(memory(0)).list));
      const inside = await killInTheMiddle(target, pids[0], pids[1]);
      const ends = await Promise.all([pushing, codeOf(ticket.layer(0, waitMs))]);
      return inside && ends[0] !== "OK" ? ends.join() : undefined;
    });
    expect(outcome).toBe("RPC_PEER_DEAD,CLIENT_WORKER_DISCONNECT");
  });
});
