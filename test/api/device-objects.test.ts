/**
 * Goal: device objects keep the promises of docs/API.md over the whole path: publish and subscribe, the device cache; also
 * with wrong input, and when a process at either end is killed.
 * Method: the same cases for two workers over tcp, two over shm, and one worker; device memory is filled with patterns of known seeds.
 * Killed clients are processes of their own (client-process.mjs). What waits, waits for conditions.
 */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { StatusCode } from "../../src/base/errors.js";
import { type HeteroClient, SimDevice, type TransferFuture } from "../../src/client/index.js";
import { until } from "../cluster/commands.js";
import { codesOf, DeviceObject, type Fixture, failureOf, startFixture } from "../cluster/fixture.js";
import { ClientProcess } from "./client-process.js";

const sizes = [72 * 1024, 1, 4096, 100_000];
const totalBytes = BigInt(sizes.reduce((sum, size) => sum + size, 0));
const waitMs = 30_000;

const places = [
  { place: "two workers over tcp", transport: "tcp", workers: 2 },
  { place: "two workers over shm", transport: "shm", workers: 2 },
  { place: "one worker", transport: "tcp", workers: 1 },
] as const;

describe.each(places)("device objects: $place", ({ transport, workers }) => {
  let fixture: Fixture;
  let sender: HeteroClient;
  let receiver: HeteroClient;
  let key: string;
  let made: DeviceObject[] = [];
  let processes: ClientProcess[] = [];

  const memory = (device: number, seed?: number, of: readonly number[] = sizes): DeviceObject => {
    const object = new DeviceObject(device, of, seed);
    made.push(object);
    return object;
  };
  const processAt = async (worker: number): Promise<ClientProcess> => {
    const started = await ClientProcess.start(fixture.addresses[worker] ?? "");
    processes.push(started);
    return started;
  };
  const publish = async (client: HeteroClient, name: string, from: DeviceObject): Promise<TransferFuture> => {
    const [future] = await client.devPublish([name], [from.list]);
    return future as TransferFuture;
  };
  const subscribe = async (
    client: HeteroClient,
    name: string,
    to: DeviceObject,
    timeoutMs?: number,
  ): Promise<TransferFuture> => {
    const [future] = await client.devSubscribe([name], [to.list], timeoutMs === undefined ? {} : { timeoutMs });
    return future as TransferFuture;
  };
  const endOf = async (future: TransferFuture): Promise<string> =>
    await future.get(waitMs).then(
      () => "OK",
      (error: { code: StatusCode }) => StatusCode[error.code] ?? String(error),
    );

  beforeAll(async () => {
    fixture = await startFixture({ transport, workers, devices: 8 });
    sender = await fixture.client(0);
    receiver = await fixture.client(workers - 1);
  });

  beforeEach(() => {
    key = sender.generateKey("api");
  });

  afterEach(async () => {
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

  describe("publish and subscribe", () => {
    it("publish, then subscribe: the bytes arrive, both futures end, the path is named", async () => {
      const sent = await publish(sender, key, memory(0, 1));
      const target = memory(1);
      const received = await (await subscribe(receiver, key, target)).get(waitMs);
      expect(received).toMatchObject({ key, bytes: totalBytes });
      expect(received.paths.map((path) => path.transport)).toEqual([workers === 1 ? "local" : transport]);
      expect(await endOf(sent)).toBe("OK");
      expect(target.holds(1)).toBe(true);
    });

    it("subscribe may come first", async () => {
      const target = memory(1);
      const waiting = await subscribe(receiver, key, target);
      await expect(waiting.get(0)).rejects.toMatchObject({ code: StatusCode.FUTURE_TIMEOUT, key });
      const sent = await publish(sender, key, memory(0, 2));
      expect([await endOf(waiting), await endOf(sent)]).toEqual(["OK", "OK"]);
      expect(target.holds(2)).toBe(true);
    });

    it("publishing the same memory again is a retry: both futures end with the transfer", async () => {
      const source = memory(0, 3);
      const futures = [await publish(sender, key, source), await publish(sender, key, source)];
      const target = memory(1);
      const received = await subscribe(receiver, key, target);
      expect(await Promise.all([...futures, received].map(endOf))).toEqual(["OK", "OK", "OK"]);
      expect(target.holds(3)).toBe(true);
    });

    it("other memory, or another client's key: INVALID; what was published stands", async () => {
      const sent = await publish(sender, key, memory(0, 4));
      const otherMap = await failureOf((await publish(sender, key, memory(0, 5))).get(waitMs));
      expect(otherMap).toMatchObject({ code: StatusCode.INVALID, key });
      for (const worker of [0, workers - 1]) {
        const stranger = await fixture.client(worker);
        const refused = await failureOf((await publish(stranger, key, memory(2, 6))).get(waitMs));
        expect(refused).toMatchObject({ code: StatusCode.INVALID, key });
        expect(refused.message).toContain("another client's");
      }
      const target = memory(1);
      expect(await endOf(await subscribe(receiver, key, target))).toBe("OK");
      expect(await endOf(sent)).toBe("OK");
      expect(target.holds(4)).toBe(true);
    });

    it("the same card at both ends: INVALID, naming it; another card gets it", async () => {
      const sent = await publish(sender, key, memory(0, 7));
      const near = await fixture.client(0);
      const refused = await failureOf((await subscribe(near, key, memory(0))).get(waitMs));
      expect(refused).toMatchObject({ code: StatusCode.INVALID, key });
      expect(refused.message).toContain("device 0");
      const target = memory(1);
      expect(await endOf(await subscribe(near, key, target))).toBe("OK");
      expect(await endOf(sent)).toBe("OK");
      expect(target.holds(7)).toBe(true);
    });

    it("other blobs than the publisher's: INVALID, naming both; the object is free for the next", async () => {
      const sent = await publish(sender, key, memory(0, 8, [64, 128]));
      const refused = await failureOf((await subscribe(receiver, key, memory(1, undefined, [64, 129]))).get(waitMs));
      expect(refused).toMatchObject({ code: StatusCode.INVALID, key });
      expect(refused.message).toMatch(/129.*128|128.*129/s);
      const target = memory(1, undefined, [64, 128]);
      expect(await endOf(await subscribe(receiver, key, target))).toBe("OK");
      expect(await endOf(sent)).toBe("OK");
      expect(target.holds(8)).toBe(true);
    });

    it("the object is gone after it was received, and the key is free for other memory", async () => {
      const sent = await publish(sender, key, memory(0, 9));
      expect(await endOf(await subscribe(receiver, key, memory(1)))).toBe("OK");
      expect(await endOf(sent)).toBe("OK");
      expect(await endOf(await subscribe(receiver, key, memory(1), 50))).toBe("FUTURE_TIMEOUT");
      const again = await publish(sender, key, memory(2, 10));
      const target = memory(3);
      expect(await endOf(await subscribe(receiver, key, target))).toBe("OK");
      expect(await endOf(again)).toBe("OK");
      expect(target.holds(10)).toBe(true);
    });

    it("of two subscribers one gets it; the other waits for the next publish", async () => {
      const targets = [memory(1), memory(2)];
      const waiting = [
        await subscribe(receiver, key, targets[0] as DeviceObject),
        await subscribe(receiver, key, targets[1] as DeviceObject),
      ];
      const sources = [memory(0, 11), memory(3, 12)];
      expect(await endOf(await publish(sender, key, sources[0] as DeviceObject))).toBe("OK");
      await until("one of them has it", () => waiting.some((future) => future.done));
      expect(waiting.filter((future) => future.done)).toHaveLength(1);
      expect(await endOf(await publish(sender, key, sources[1] as DeviceObject))).toBe("OK");
      expect(await Promise.all(waiting.map(endOf))).toEqual(["OK", "OK"]);
      const first = targets[0]?.holds(11) === true ? [11, 12] : [12, 11];
      expect(targets.map((target, index) => target.holds(first[index]))).toEqual([true, true]);
    });

    it("many keys in one call arrive each in its place; a key that can't be published holds up no other", async () => {
      const keys = Array.from({ length: 200 }, (_, index) => `${key}-${index}`);
      const taken = keys[17] as string;
      const stranger = await fixture.client(0);
      const foreign = await publish(stranger, taken, memory(4, 5_000, [512, 117]));
      const sources = keys.map((_, index) => memory(0, 100 + index, [512, 100 + index]));
      const targets = keys.map((_, index) => memory(1, undefined, [512, 100 + index]));
      const sent = await sender.devPublish(
        keys,
        sources.map((source) => source.list),
      );
      const received = await receiver.devSubscribe(
        keys,
        targets.map((target) => target.list),
      );
      const wanted = keys.map((name) => (name === taken ? "INVALID" : "OK"));
      expect(await Promise.all(sent.map(endOf))).toEqual(wanted);
      expect(await Promise.all(received.map(endOf))).toEqual(keys.map(() => "OK"));
      expect(await endOf(foreign)).toBe("OK");
      expect(targets.every((target, index) => target.holds(index === 17 ? 5_000 : 100 + index))).toBe(true);
    });

    it("cancel ends one key alone, at either end", async () => {
      const keys = [`${key}-a`, `${key}-b`];
      const sources = keys.map((_, index) => memory(0, 20 + index));
      const sent = await sender.devPublish(
        keys,
        sources.map((source) => source.list),
      );
      sent[0]?.cancel();
      expect(await endOf(sent[0] as TransferFuture)).toBe("RPC_CANCELLED");
      expect(await endOf(await subscribe(receiver, `${key}-a`, memory(1), 50))).toBe("FUTURE_TIMEOUT");
      const nobody = await subscribe(receiver, `${key}-c`, memory(1));
      nobody.cancel();
      expect(await endOf(nobody)).toBe("RPC_CANCELLED");
      const target = memory(1);
      expect(await endOf(await subscribe(receiver, `${key}-b`, target))).toBe("OK");
      expect(await endOf(sent[1] as TransferFuture)).toBe("OK");
      expect(target.holds(21)).toBe(true);
      const offered = await publish(sender, `${key}-c`, memory(0, 22));
      offered.cancel();
      expect(await endOf(offered)).toBe("RPC_CANCELLED");
    });

    it("an aborted signal ends what is open of the whole call", async () => {
      const abort = new AbortController();
      const keys = [`${key}-a`, `${key}-b`];
      const waiting = await receiver.devSubscribe(
        keys,
        keys.map(() => memory(1).list),
        { signal: abort.signal },
      );
      abort.abort();
      expect(await Promise.all(waiting.map(endOf))).toEqual(["RPC_CANCELLED", "RPC_CANCELLED"]);
    });

    it("nobody publishes in time: FUTURE_TIMEOUT with the key", async () => {
      const failure = await failureOf((await subscribe(receiver, key, memory(1), 20)).get(waitMs));
      expect(failure).toMatchObject({ code: StatusCode.FUTURE_TIMEOUT, key });
      expect(failure.message).not.toBe("");
    });

    it("closing the client ends its futures with SHUTTING_DOWN, and its offers are gone", async () => {
      const leaving = await fixture.client(0);
      const sent = await publish(leaving, key, memory(0, 23));
      await leaving.close();
      expect(await endOf(sent)).toBe("SHUTTING_DOWN");
      const other = memory(2, 24);
      await until("the key is free again", async () => {
        const future = await publish(sender, key, other);
        const ended = await Promise.race([endOf(future), Promise.resolve("open")]);
        return ended === "open" && !future.done;
      });
      const target = memory(1);
      expect(await endOf(await subscribe(receiver, key, target))).toBe("OK");
      expect(target.holds(24)).toBe(true);
    });

    it("10,001 keys: INVALID with the number, and nothing is done", async () => {
      const keys = Array.from({ length: 10_001 }, (_, index) => `${key}-${index}`);
      const source = memory(0, 1, [64]);
      const lists = keys.map(() => source.list);
      for (const call of [
        sender.devPublish(keys, lists),
        sender.devSubscribe(keys, lists),
        sender.devMSet(keys, lists),
        sender.devMGet(keys, lists),
        sender.devDelete(keys),
        sender.devLocalDelete(keys),
        sender.reserveLayers(lists),
      ]) {
        const failure = await failureOf(call);
        expect(failure.code).toBe(StatusCode.INVALID);
        expect(failure.message).toContain("10,001");
      }
      expect(codesOf(await receiver.devMGet([`${key}-0`], [memory(1, undefined, [64]).list]))).toEqual(["NOT_FOUND"]);
    });
  });

  describe("families", () => {
    it("a published key is for devSubscribe only", async () => {
      const sent = await publish(sender, key, memory(0, 30));
      for (const client of [sender, receiver]) {
        for (const call of [client.mGetH2D([key], [memory(1).list]), client.devMGet([key], [memory(1).list])]) {
          const result = await call;
          expect(codesOf(result)).toEqual(["INVALID"]);
          expect(result.statuses[0]?.message).toContain("devSubscribe");
        }
        for (const call of [client.mSetD2H([key], [memory(1, 1).list]), client.devMSet([key], [memory(1, 1).list])]) {
          expect(codesOf(await call)).toEqual(["INVALID"]);
        }
        expect(codesOf(await client.delete([key]))).toEqual(["INVALID"]);
        expect(codesOf(await client.devDelete([key]))).toEqual(["INVALID"]);
      }
      expect(await endOf(await subscribe(receiver, key, memory(1)))).toBe("OK");
      expect(await endOf(sent)).toBe("OK");
    });

    it("a set key and a cached key are for no subscriber, and not for each other's calls", async () => {
      expect(codesOf(await sender.mSetD2H([`${key}-host`], [memory(0, 31).list]))).toEqual(["OK"]);
      expect(codesOf(await sender.devMSet([`${key}-cache`], [memory(0, 32).list]))).toEqual(["OK"]);
      for (const [name, remedy] of [
        [`${key}-host`, "mGetH2D"],
        [`${key}-cache`, "devMGet"],
      ] as const) {
        for (const client of [sender, receiver]) {
          const refused = await failureOf((await subscribe(client, name, memory(1))).get(waitMs));
          expect(refused).toMatchObject({ code: StatusCode.INVALID, key: name });
          expect(refused.message).toContain(remedy);
          expect(await endOf(await publish(client, name, memory(2, 1)))).toBe("INVALID");
        }
      }
      expect(codesOf(await receiver.devMGet([`${key}-host`], [memory(1).list]))).toEqual(["INVALID"]);
      expect(codesOf(await receiver.mGetH2D([`${key}-cache`], [memory(1).list]))).toEqual(["INVALID"]);
      expect(codesOf(await receiver.devDelete([`${key}-host`]))).toEqual(["INVALID"]);
      expect(codesOf(await receiver.delete([`${key}-cache`]))).toEqual(["INVALID"]);
      expect(codesOf(await receiver.delete([`${key}-host`]))).toEqual(["OK"]);
      expect(codesOf(await receiver.devDelete([`${key}-cache`]))).toEqual(["OK"]);
    });
  });

  describe("a client process is killed", () => {
    it("the publisher: its key is gone, and another may publish it to whoever waits", async () => {
      const child = await processAt(0);
      await child.ask("publish", { keys: [key], device: 0, sizes: [4096], word: 1 });
      await child.kill();
      const source = memory(2, 40);
      let sent: TransferFuture | undefined;
      await until("the key is free", async () => {
        const future = await publish(sender, key, source);
        sent = future;
        return (await future.get(0).catch((error: { code: StatusCode }) => error.code)) === StatusCode.FUTURE_TIMEOUT;
      });
      const target = memory(1);
      expect(await endOf(await subscribe(receiver, key, target))).toBe("OK");
      expect(await endOf(sent as TransferFuture)).toBe("OK");
      expect(target.holds(40)).toBe(true);
    });

    it("the subscriber that waits: what is published then goes to another", async () => {
      const child = await processAt(workers - 1);
      await child.ask("subscribe", { keys: [key], device: 1, sizes });
      await child.kill();
      const sent = await publish(sender, key, memory(0, 41));
      const target = memory(2);
      expect(await endOf(await subscribe(receiver, key, target))).toBe("OK");
      expect(await endOf(sent)).toBe("OK");
      expect(target.holds(41)).toBe(true);
    });

    it("the setter of a cached object: it is not found any more", async () => {
      const child = await processAt(0);
      expect(await child.ask("devSet", { keys: [key], device: 0, sizes: [4096], word: 7 })).toEqual(["OK"]);
      expect(codesOf(await receiver.devMGet([key], [memory(1, undefined, [4096]).list]))).toEqual(["OK"]);
      await child.kill();
      await until("it is gone", async () => {
        const codes = codesOf(await receiver.devMGet([key], [memory(1, undefined, [4096]).list]));
        return codes[0] === "NOT_FOUND";
      });
    });

    it("the decode side: pushers are told", async () => {
      const child = await processAt(workers - 1);
      const text = await child.ask<string>("reserve", { layers: 3, device: 1, sizes });
      expect(codesOf(await sender.push(text, 0, memory(0, 42).list))).toEqual(["OK"]);
      await child.kill();
      let layer = 1;
      await until("a push is refused", async () => {
        try {
          await sender.push(text, layer, memory(0, 43).list);
          layer += 1;
          return false;
        } catch (error) {
          const { code } = error as { code: StatusCode };
          expect(code).toBe(StatusCode.RPC_PEER_DEAD);
          return true;
        }
      });
    });
  });

  describe("device cache", () => {
    it("many readers at once, all of them further sources, all bytes right", async () => {
      const source = memory(0, 50);
      expect(codesOf(await sender.devMSet([key], [source.list]))).toEqual(["OK"]);
      const readers = await Promise.all(Array.from({ length: 7 }, () => fixture.client(workers - 1)));
      const targets = readers.map((_, index) => memory(index + 1));
      const results = await Promise.all(
        readers.map((reader, index) =>
          reader.devMGet([key], [(targets[index] as DeviceObject).list], { timeoutMs: waitMs, shareReplica: true }),
        ),
      );
      expect(results.map(codesOf)).toEqual(readers.map(() => ["OK"]));
      expect(targets.map((target) => target.holds(50))).toEqual(readers.map(() => true));
      const removed = await receiver.devDelete([key]);
      expect([codesOf(removed), removed.existed]).toEqual([["OK"], [true]]);
      expect(codesOf(await receiver.devMGet([key], [memory(2).list]))).toEqual(["NOT_FOUND"]);
      expect([source, ...targets].map((object) => object.holds(50))).toEqual([true, ...readers.map(() => true)]);
    });

    it("the same again is OK and existed; other memory or client, the same card, other blobs: INVALID", async () => {
      const source = memory(0, 51);
      const first = await sender.devMSet([key], [source.list]);
      const again = await sender.devMSet([key], [source.list]);
      expect([codesOf(first), first.existed, codesOf(again), again.existed]).toEqual([["OK"], [false], ["OK"], [true]]);
      expect(codesOf(await sender.devMSet([key], [memory(0, 52).list]))).toEqual(["INVALID"]);
      expect(codesOf(await (await fixture.client(workers - 1)).devMSet([key], [memory(1, 53).list]))).toEqual([
        "INVALID",
      ]);
      const card = await (await fixture.client(0)).devMGet([key], [memory(0).list]);
      expect(codesOf(card)).toEqual(["INVALID"]);
      expect(card.statuses[0]?.message).toContain("device 0");
      expect(codesOf(await receiver.devMGet([key], [memory(1, undefined, [1, 2]).list]))).toEqual(["INVALID"]);
      const target = memory(1);
      expect(codesOf(await receiver.devMGet([key], [target.list]))).toEqual(["OK"]);
      expect(target.holds(51)).toBe(true);
      expect(codesOf(await sender.devDelete([key]))).toEqual(["OK"]);
    });

    it("devDelete during use: who reads ends whole or is told; then nobody finds it", async () => {
      const blobs = Array.from({ length: 8 }, () => 1 << 20);
      const source = memory(0, undefined, blobs);
      fillWith(source, 0x5a);
      expect(codesOf(await sender.devMSet([key], [source.list]))).toEqual(["OK"]);
      const targets = [1, 2, 3].map((device) => memory(device, undefined, blobs));
      const reading = targets.map((target) => receiver.devMGet([key], [target.list], { timeoutMs: 0 }));
      const removed = await sender.devDelete([key]);
      expect(codesOf(removed)).toEqual(["OK"]);
      for (const [index, result] of (await Promise.all(reading)).entries()) {
        expect(["OK", "NOT_FOUND", "TRY_AGAIN"]).toContain(codesOf(result)[0]);
        if (codesOf(result)[0] === "OK") {
          expect(isFullOf(targets[index] as DeviceObject, 0x5a)).toBe(true);
        }
      }
      expect(codesOf(await receiver.devMGet([key], [(targets[0] as DeviceObject).list]))).toEqual(["NOT_FOUND"]);
      expect(isFullOf(source, 0x5a)).toBe(true);
    });

    it("devLocalDelete takes back only what this client offers: who shared, also on the setter's worker, serves on", async () => {
      expect(codesOf(await sender.devMSet([key], [memory(0, 54).list]))).toEqual(["OK"]);
      const replica = memory(1);
      expect(codesOf(await receiver.devMGet([key], [replica.list], { shareReplica: true }))).toEqual(["OK"]);
      expect(codesOf(await sender.devLocalDelete([key]))).toEqual(["OK"]);
      const target = memory(2);
      expect(codesOf(await receiver.devMGet([key], [target.list]))).toEqual(["OK"]);
      expect(target.holds(54)).toBe(true);
      expect(codesOf(await receiver.devLocalDelete([key]))).toEqual(["OK"]);
      await until("it is nowhere", async () => {
        return codesOf(await receiver.devMGet([key], [memory(3).list]))[0] === "NOT_FOUND";
      });
      expect(replica.holds(54)).toBe(true);
    });

    it("devLocalDelete by who offers nothing changes nothing; by the only holder it ends the object", async () => {
      const source = memory(0, 56);
      expect(codesOf(await sender.devMSet([key], [source.list]))).toEqual(["OK"]);
      const stranger = await receiver.devLocalDelete([key]);
      expect([codesOf(stranger), stranger.existed]).toEqual([["OK"], [false]]);
      expect(codesOf(await receiver.devMGet([key], [memory(1).list]))).toEqual(["OK"]);
      const own = await sender.devLocalDelete([key]);
      expect([codesOf(own), own.existed]).toEqual([["OK"], [true]]);
      await until("it is nowhere", async () => {
        return codesOf(await receiver.devMGet([key], [memory(3).list]))[0] === "NOT_FOUND";
      });
      expect(source.holds(56)).toBe(true);
    });

    it("devMGet waits for what is set meanwhile", async () => {
      const target = memory(1);
      const reading = receiver.devMGet([key], [target.list], { timeoutMs: waitMs });
      expect(codesOf(await sender.devMSet([key], [memory(0, 55).list]))).toEqual(["OK"]);
      expect(codesOf(await reading)).toEqual(["OK"]);
      expect(target.holds(55)).toBe(true);
      expect(codesOf(await sender.devDelete([key]))).toEqual(["OK"]);
      expect((await sender.devDelete([key])).existed).toEqual([false]);
    });
  });
});

function fillWith(object: DeviceObject, byte: number): void {
  const sim = new SimDevice(object.list.deviceIndex);
  for (const blob of object.list.blobs) {
    sim.copyIn(blob.pointer, Buffer.alloc(Number(blob.size), byte));
  }
}

function isFullOf(object: DeviceObject, byte: number): boolean {
  return object.bytes().every((bytes) => bytes.equals(Buffer.alloc(bytes.length, byte)));
}
