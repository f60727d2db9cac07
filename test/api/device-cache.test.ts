/**
 * Goal: the device cache keeps the promises of docs/API.md over the whole path: many readers, retries, deletes during
 * use, local deletes. Method: the group's cases at each place of cases.ts; device memory is filled with patterns of
 * known seeds. What waits, waits for conditions.
 */
import { expect } from "vitest";
import { StatusCode } from "../../src/base/errors.js";
import { SimDevice } from "../../src/client/index.js";
import { until } from "../cluster/commands.js";
import { codesOf, type DeviceObject, failureOf } from "../cluster/fixture.js";
import { apiSuite, waitMs } from "./suite.js";

apiSuite("device cache", (at, it) => {
  it("many readers at once, all of them further sources, all bytes right", async () => {
    const source = at.memory(0, 50);
    expect(codesOf(await at.first.devMSet([at.key], [source.list]))).toEqual(["OK"]);
    const readers = await Promise.all(Array.from({ length: 7 }, () => at.client(1)));
    const targets = readers.map((_, index) => at.memory(index + 1));
    const results = await Promise.all(
      readers.map((reader, index) =>
        reader.devMGet([at.key], [(targets[index] as DeviceObject).list], { timeoutMs: waitMs, shareReplica: true }),
      ),
    );
    expect(results.map(codesOf)).toEqual(readers.map(() => ["OK"]));
    expect(targets.map((target) => target.holds(50))).toEqual(readers.map(() => true));
    const removed = await at.second.devDelete([at.key]);
    expect([codesOf(removed), removed.existed]).toEqual([["OK"], [true]]);
    expect(codesOf(await at.second.devMGet([at.key], [at.memory(2).list]))).toEqual(["NOT_FOUND"]);
    expect([source, ...targets].map((object) => object.holds(50))).toEqual([true, ...readers.map(() => true)]);
  });

  it("the same again is OK and existed; other memory or client, the same card, other blobs: INVALID", async () => {
    const source = at.memory(0, 51);
    const first = await at.first.devMSet([at.key], [source.list]);
    const again = await at.first.devMSet([at.key], [source.list]);
    expect([codesOf(first), first.existed, codesOf(again), again.existed]).toEqual([["OK"], [false], ["OK"], [true]]);
    expect(codesOf(await at.first.devMSet([at.key], [at.memory(0, 52).list]))).toEqual(["INVALID"]);
    expect(codesOf(await (await at.client(1)).devMSet([at.key], [at.memory(1, 53).list]))).toEqual(["INVALID"]);
    const card = await (await at.client(0)).devMGet([at.key], [at.memory(0).list]);
    expect(codesOf(card)).toEqual(["INVALID"]);
    expect(card.statuses[0]?.message).toContain("device 0");
    expect(codesOf(await at.second.devMGet([at.key], [at.memory(1, undefined, [1, 2]).list]))).toEqual(["INVALID"]);
    const target = at.memory(1);
    expect(codesOf(await at.second.devMGet([at.key], [target.list]))).toEqual(["OK"]);
    expect(target.holds(51)).toBe(true);
    expect(codesOf(await at.first.devDelete([at.key]))).toEqual(["OK"]);
  });

  it("existence fail: the second devMSet gets KEY_ALREADY_EXISTS; replace: INVALID", async () => {
    const { list } = at.memory(0, 58);
    const refused = await failureOf(at.first.devMSet([at.key], [list], { existence: "replace" }));
    expect(refused.code).toBe(StatusCode.INVALID);
    expect(refused.message).toContain("devDelete the key first");
    expect(codesOf(await at.first.devMSet([at.key], [list], { existence: "fail" }))).toEqual(["OK"]);
    expect(codesOf(await at.first.devMSet([at.key], [list], { existence: "fail" }))).toEqual(["KEY_ALREADY_EXISTS"]);
    const target = at.memory(1);
    expect(codesOf(await at.second.devMGet([at.key], [target.list]))).toEqual(["OK"]);
    expect(target.holds(58)).toBe(true);
    expect((await at.first.devDelete([at.key])).existed).toEqual([true]);
  });

  it("devDelete during use: who reads ends whole or is told; then nobody finds it", async () => {
    const blobs = Array.from({ length: 8 }, () => 1 << 20);
    const source = at.memory(0, undefined, blobs);
    fillWith(source, 0x5a);
    expect(codesOf(await at.first.devMSet([at.key], [source.list]))).toEqual(["OK"]);
    const targets = [1, 2, 3].map((device) => at.memory(device, undefined, blobs));
    const reading = targets.map((target) => at.second.devMGet([at.key], [target.list], { timeoutMs: 0 }));
    const removed = await at.first.devDelete([at.key]);
    expect(codesOf(removed)).toEqual(["OK"]);
    for (const [index, result] of (await Promise.all(reading)).entries()) {
      expect(["OK", "NOT_FOUND", "TRY_AGAIN"]).toContain(codesOf(result)[0]);
      if (codesOf(result)[0] === "OK") {
        expect(isFullOf(targets[index] as DeviceObject, 0x5a)).toBe(true);
      }
    }
    expect(codesOf(await at.second.devMGet([at.key], [(targets[0] as DeviceObject).list]))).toEqual(["NOT_FOUND"]);
    expect(isFullOf(source, 0x5a)).toBe(true);
  });

  it("devLocalDelete takes back only what this client offers: who shared, also on the setter's worker, serves on", async () => {
    expect(codesOf(await at.first.devMSet([at.key], [at.memory(0, 54).list]))).toEqual(["OK"]);
    const replica = at.memory(1);
    expect(codesOf(await at.second.devMGet([at.key], [replica.list], { shareReplica: true }))).toEqual(["OK"]);
    expect(codesOf(await at.first.devLocalDelete([at.key]))).toEqual(["OK"]);
    const target = at.memory(2);
    expect(codesOf(await at.second.devMGet([at.key], [target.list]))).toEqual(["OK"]);
    expect(target.holds(54)).toBe(true);
    expect(codesOf(await at.second.devLocalDelete([at.key]))).toEqual(["OK"]);
    await until("it is nowhere", async () => {
      return codesOf(await at.second.devMGet([at.key], [at.memory(3).list]))[0] === "NOT_FOUND";
    });
    expect(replica.holds(54)).toBe(true);
  });

  it("devLocalDelete by who offers nothing changes nothing; by the only holder it ends the object", async () => {
    const source = at.memory(0, 56);
    expect(codesOf(await at.first.devMSet([at.key], [source.list]))).toEqual(["OK"]);
    const stranger = await at.second.devLocalDelete([at.key]);
    expect([codesOf(stranger), stranger.existed]).toEqual([["OK"], [false]]);
    expect(codesOf(await at.second.devMGet([at.key], [at.memory(1).list]))).toEqual(["OK"]);
    const own = await at.first.devLocalDelete([at.key]);
    expect([codesOf(own), own.existed]).toEqual([["OK"], [true]]);
    await until("it is nowhere", async () => {
      return codesOf(await at.second.devMGet([at.key], [at.memory(3).list]))[0] === "NOT_FOUND";
    });
    expect(source.holds(56)).toBe(true);
  });

  it("devMGet waits for what is set meanwhile", async () => {
    const target = at.memory(1);
    const reading = at.second.devMGet([at.key], [target.list], { timeoutMs: waitMs });
    expect(codesOf(await at.first.devMSet([at.key], [at.memory(0, 55).list]))).toEqual(["OK"]);
    expect(codesOf(await reading)).toEqual(["OK"]);
    expect(target.holds(55)).toBe(true);
    expect(codesOf(await at.first.devDelete([at.key]))).toEqual(["OK"]);
    expect((await at.first.devDelete([at.key])).existed).toEqual([false]);
  });

  it("devMGet that waits ends when it is cancelled", async () => {
    const abort = new AbortController();
    const options = { timeoutMs: 60_000, signal: abort.signal };
    const reading = failureOf(at.second.devMGet([at.key], [at.memory(1).list], options));
    abort.abort();
    expect((await reading).code).toBe(StatusCode.RPC_CANCELLED);
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
