/**
 * Goal: device objects keep the promises of docs/API.md over the whole path: publish and subscribe, the families, also
 * when a process at either end is killed.
 * Method: the group's cases at each place of cases.ts; device memory is filled with patterns of known seeds. Killed
 * clients are processes of their own (client-process.mjs). What waits, waits for conditions.
 */
import { expect } from "vitest";
import { StatusCode } from "../../src/base/errors.js";
import type { TransferFuture } from "../../src/client/index.js";
import { until } from "../cluster/commands.js";
import { codesOf, type DeviceObject, failureOf } from "../cluster/fixture.js";
import { apiSuite, endOf, sizes, totalBytes, waitMs } from "./suite.js";

apiSuite("publish and subscribe", (at, it) => {
  it("publish, then subscribe: the bytes arrive, both futures end, the path is named", async () => {
    const sent = await at.publish(at.first, at.key, at.memory(0, 1));
    const target = at.memory(1);
    const received = await (await at.subscribe(at.second, at.key, target)).get(waitMs);
    expect(received).toMatchObject({ key: at.key, bytes: totalBytes });
    expect(received.paths.map((path) => path.transport)).toEqual([at.transport]);
    expect(await endOf(sent)).toBe("OK");
    expect(target.holds(1)).toBe(true);
  });

  it("subscribe may come first", async () => {
    const target = at.memory(1);
    const waiting = await at.subscribe(at.second, at.key, target);
    await expect(waiting.get(0)).rejects.toMatchObject({ code: StatusCode.FUTURE_TIMEOUT, key: at.key });
    const sent = await at.publish(at.first, at.key, at.memory(0, 2));
    expect([await endOf(waiting), await endOf(sent)]).toEqual(["OK", "OK"]);
    expect(target.holds(2)).toBe(true);
  });

  it("publishing the same memory again is a retry: both futures end with the transfer", async () => {
    const source = at.memory(0, 3);
    const futures = [await at.publish(at.first, at.key, source), await at.publish(at.first, at.key, source)];
    const target = at.memory(1);
    const received = await at.subscribe(at.second, at.key, target);
    expect(await Promise.all([...futures, received].map(endOf))).toEqual(["OK", "OK", "OK"]);
    expect(target.holds(3)).toBe(true);
  });

  it("other memory, or another client's key: INVALID; what was published stands", async () => {
    const sent = await at.publish(at.first, at.key, at.memory(0, 4));
    const otherMap = await failureOf((await at.publish(at.first, at.key, at.memory(0, 5))).get(waitMs));
    expect(otherMap).toMatchObject({ code: StatusCode.INVALID, key: at.key });
    for (const worker of [0, 1] as const) {
      const stranger = await at.client(worker);
      const refused = await failureOf((await at.publish(stranger, at.key, at.memory(2, 6))).get(waitMs));
      expect(refused).toMatchObject({ code: StatusCode.INVALID, key: at.key });
      expect(refused.message).toContain("another client's");
    }
    const target = at.memory(1);
    expect(await endOf(await at.subscribe(at.second, at.key, target))).toBe("OK");
    expect(await endOf(sent)).toBe("OK");
    expect(target.holds(4)).toBe(true);
  });

  it("the same card at both ends: INVALID, naming it; another card gets it", async () => {
    const sent = await at.publish(at.first, at.key, at.memory(0, 7));
    const near = await at.client(0);
    const refused = await failureOf((await at.subscribe(near, at.key, at.memory(0))).get(waitMs));
    expect(refused).toMatchObject({ code: StatusCode.INVALID, key: at.key });
    expect(refused.message).toContain("device 0");
    const target = at.memory(1);
    expect(await endOf(await at.subscribe(near, at.key, target))).toBe("OK");
    expect(await endOf(sent)).toBe("OK");
    expect(target.holds(7)).toBe(true);
  });

  it("other blobs than the publisher's: INVALID, naming both; the object is free for the next", async () => {
    const sent = await at.publish(at.first, at.key, at.memory(0, 8, [64, 128]));
    const refused = await failureOf(
      (await at.subscribe(at.second, at.key, at.memory(1, undefined, [64, 129]))).get(waitMs),
    );
    expect(refused).toMatchObject({ code: StatusCode.INVALID, key: at.key });
    expect(refused.message).toMatch(/129.*128|128.*129/s);
    const target = at.memory(1, undefined, [64, 128]);
    expect(await endOf(await at.subscribe(at.second, at.key, target))).toBe("OK");
    expect(await endOf(sent)).toBe("OK");
    expect(target.holds(8)).toBe(true);
  });

  it("the object is gone after it was received, and the key is free for other memory", async () => {
    const sent = await at.publish(at.first, at.key, at.memory(0, 9));
    expect(await endOf(await at.subscribe(at.second, at.key, at.memory(1)))).toBe("OK");
    expect(await endOf(sent)).toBe("OK");
    expect(await endOf(await at.subscribe(at.second, at.key, at.memory(1), 50))).toBe("FUTURE_TIMEOUT");
    const again = await at.publish(at.first, at.key, at.memory(2, 10));
    const target = at.memory(3);
    expect(await endOf(await at.subscribe(at.second, at.key, target))).toBe("OK");
    expect(await endOf(again)).toBe("OK");
    expect(target.holds(10)).toBe(true);
  });

  it("of two subscribers one gets it; the other waits for the next publish", async () => {
    const targets = [at.memory(1), at.memory(2)];
    const waiting = [
      await at.subscribe(at.second, at.key, targets[0] as DeviceObject),
      await at.subscribe(at.second, at.key, targets[1] as DeviceObject),
    ];
    const sources = [at.memory(0, 11), at.memory(3, 12)];
    expect(await endOf(await at.publish(at.first, at.key, sources[0] as DeviceObject))).toBe("OK");
    await until("one of them has it", () => waiting.some((future) => future.done));
    expect(waiting.filter((future) => future.done)).toHaveLength(1);
    expect(await endOf(await at.publish(at.first, at.key, sources[1] as DeviceObject))).toBe("OK");
    expect(await Promise.all(waiting.map(endOf))).toEqual(["OK", "OK"]);
    const first = targets[0]?.holds(11) === true ? [11, 12] : [12, 11];
    expect(targets.map((target, index) => target.holds(first[index]))).toEqual([true, true]);
  });

  it("many keys in one call arrive each in its place; a key that can't be published holds up no other", async () => {
    const keys = Array.from({ length: 200 }, (_, index) => `${at.key}-${index}`);
    const taken = keys[17] as string;
    const stranger = await at.client(0);
    const foreign = await at.publish(stranger, taken, at.memory(4, 5_000, [512, 117]));
    const sources = keys.map((_, index) => at.memory(0, 100 + index, [512, 100 + index]));
    const targets = keys.map((_, index) => at.memory(1, undefined, [512, 100 + index]));
    const sent = await at.first.devPublish(
      keys,
      sources.map((source) => source.list),
    );
    const received = await at.second.devSubscribe(
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
    const keys = [`${at.key}-a`, `${at.key}-b`];
    const sources = keys.map((_, index) => at.memory(0, 20 + index));
    const sent = await at.first.devPublish(
      keys,
      sources.map((source) => source.list),
    );
    sent[0]?.cancel();
    expect(await endOf(sent[0] as TransferFuture)).toBe("RPC_CANCELLED");
    expect(await endOf(await at.subscribe(at.second, `${at.key}-a`, at.memory(1), 50))).toBe("FUTURE_TIMEOUT");
    const nobody = await at.subscribe(at.second, `${at.key}-c`, at.memory(1));
    nobody.cancel();
    expect(await endOf(nobody)).toBe("RPC_CANCELLED");
    const target = at.memory(1);
    expect(await endOf(await at.subscribe(at.second, `${at.key}-b`, target))).toBe("OK");
    expect(await endOf(sent[1] as TransferFuture)).toBe("OK");
    expect(target.holds(21)).toBe(true);
    const offered = await at.publish(at.first, `${at.key}-c`, at.memory(0, 22));
    offered.cancel();
    expect(await endOf(offered)).toBe("RPC_CANCELLED");
  });

  it("cancelling a whole subscription ends each of its keys", async () => {
    const abort = new AbortController();
    const keys = [`${at.key}-a`, `${at.key}-b`];
    const waiting = await at.second.devSubscribe(
      keys,
      keys.map(() => at.memory(1).list),
      { signal: abort.signal },
    );
    abort.abort();
    expect(await Promise.all(waiting.map(endOf))).toEqual(["RPC_CANCELLED", "RPC_CANCELLED"]);
  });

  it("nobody publishes in time: FUTURE_TIMEOUT with the key", async () => {
    const failure = await failureOf((await at.subscribe(at.second, at.key, at.memory(1), 20)).get(waitMs));
    expect(failure).toMatchObject({ code: StatusCode.FUTURE_TIMEOUT, key: at.key });
    expect(failure.message).not.toBe("");
  });

  it("closing the client ends its futures with SHUTTING_DOWN, and its offers are gone", async () => {
    const leaving = await at.client(0);
    const sent = await at.publish(leaving, at.key, at.memory(0, 23));
    await leaving.close();
    expect(await endOf(sent)).toBe("SHUTTING_DOWN");
    const other = at.memory(2, 24);
    await until("the key is free again", async () => {
      const future = await at.publish(at.first, at.key, other);
      const ended = await Promise.race([endOf(future), Promise.resolve("open")]);
      return ended === "open" && !future.done;
    });
    const target = at.memory(1);
    expect(await endOf(await at.subscribe(at.second, at.key, target))).toBe("OK");
    expect(target.holds(24)).toBe(true);
  });

  it("a future's wait is from 0 to 1,800,000 ms, and it may be asked again", async () => {
    const waiting = await at.subscribe(at.second, at.key, at.memory(1), 1_800_000);
    const wrong = { code: StatusCode.INVALID, message: expect.stringContaining("1800001") };
    await expect(waiting.get(1_800_001)).rejects.toMatchObject(wrong);
    await expect(waiting.get(0)).rejects.toMatchObject({ code: StatusCode.FUTURE_TIMEOUT });
    waiting.cancel();
    expect([await endOf(waiting), await endOf(waiting)]).toEqual(["RPC_CANCELLED", "RPC_CANCELLED"]);
    await expect(waiting.get(1_800_001)).rejects.toMatchObject(wrong); // even now
    const tooLong = failureOf(at.subscribe(at.second, at.key, at.memory(1), 1_800_001));
    expect((await tooLong).code).toBe(StatusCode.INVALID);
  });
});

apiSuite("families", (at, it) => {
  it("a published key is for devSubscribe only", async () => {
    const sent = await at.publish(at.first, at.key, at.memory(0, 30));
    for (const client of [at.first, at.second]) {
      for (const call of [
        client.mGetH2D([at.key], [at.memory(1).list]),
        client.devMGet([at.key], [at.memory(1).list]),
      ]) {
        const result = await call;
        expect(codesOf(result)).toEqual(["INVALID"]);
        expect(result.statuses[0]?.message).toContain("devSubscribe");
      }
      for (const call of [
        client.mSetD2H([at.key], [at.memory(1, 1).list]),
        client.devMSet([at.key], [at.memory(1, 1).list]),
      ]) {
        expect(codesOf(await call)).toEqual(["INVALID"]);
      }
      expect(codesOf(await client.delete([at.key]))).toEqual(["INVALID"]);
      expect(codesOf(await client.devDelete([at.key]))).toEqual(["INVALID"]);
    }
    expect(await endOf(await at.subscribe(at.second, at.key, at.memory(1)))).toBe("OK");
    expect(await endOf(sent)).toBe("OK");
  });

  it("a set key and a cached key are for no subscriber, and not for each other's calls", async () => {
    expect(codesOf(await at.first.mSetD2H([`${at.key}-host`], [at.memory(0, 31).list]))).toEqual(["OK"]);
    expect(codesOf(await at.first.devMSet([`${at.key}-cache`], [at.memory(0, 32).list]))).toEqual(["OK"]);
    for (const [name, remedy] of [
      [`${at.key}-host`, "mGetH2D"],
      [`${at.key}-cache`, "devMGet"],
    ] as const) {
      for (const client of [at.first, at.second]) {
        const refused = await failureOf((await at.subscribe(client, name, at.memory(1))).get(waitMs));
        expect(refused).toMatchObject({ code: StatusCode.INVALID, key: name });
        expect(refused.message).toMatch(new RegExp(remedy));
        expect(await endOf(await at.publish(client, name, at.memory(2, 1)))).toBe("INVALID");
      }
    }
    expect(codesOf(await at.second.devMGet([`${at.key}-host`], [at.memory(1).list]))).toEqual(["INVALID"]);
    expect(codesOf(await at.second.mGetH2D([`${at.key}-cache`], [at.memory(1).list]))).toEqual(["INVALID"]);
    expect(codesOf(await at.second.devDelete([`${at.key}-host`]))).toEqual(["INVALID"]);
    expect(codesOf(await at.second.delete([`${at.key}-cache`]))).toEqual(["INVALID"]);
    expect(codesOf(await at.second.delete([`${at.key}-host`]))).toEqual(["OK"]);
    expect(codesOf(await at.second.devDelete([`${at.key}-cache`]))).toEqual(["OK"]);
  });
});

apiSuite("a client process is killed", (at, it) => {
  it("the publisher: its key is gone, and another may publish it to whoever waits", async () => {
    const child = await at.process(0);
    await child.ask("publish", { keys: [at.key], device: 0, sizes: [4096], word: 1 });
    await child.kill();
    const source = at.memory(2, 40);
    let sent: TransferFuture | undefined;
    await until("the key is free", async () => {
      const future = await at.publish(at.first, at.key, source);
      sent = future;
      return (await future.get(0).catch((error: { code: StatusCode }) => error.code)) === StatusCode.FUTURE_TIMEOUT;
    });
    const target = at.memory(1);
    expect(await endOf(await at.subscribe(at.second, at.key, target))).toBe("OK");
    expect(await endOf(sent as TransferFuture)).toBe("OK");
    expect(target.holds(40)).toBe(true);
  });

  it("the subscriber that waits: what is published then goes to another", async () => {
    const child = await at.process(1);
    await child.ask("subscribe", { keys: [at.key], device: 1, sizes });
    await child.kill();
    const sent = await at.publish(at.first, at.key, at.memory(0, 41));
    const target = at.memory(2);
    expect(await endOf(await at.subscribe(at.second, at.key, target))).toBe("OK");
    expect(await endOf(sent)).toBe("OK");
    expect(target.holds(41)).toBe(true);
  });

  it("the setter of a cached object: it is not found any more", async () => {
    const child = await at.process(0);
    expect(await child.ask("devSet", { keys: [at.key], device: 0, sizes: [4096], word: 7 })).toEqual(["OK"]);
    expect(codesOf(await at.second.devMGet([at.key], [at.memory(1, undefined, [4096]).list]))).toEqual(["OK"]);
    await child.kill();
    await until("it is gone", async () => {
      const codes = codesOf(await at.second.devMGet([at.key], [at.memory(1, undefined, [4096]).list]));
      return codes[0] === "NOT_FOUND";
    });
  });

  it("the decode side: pushers are told", async () => {
    const child = await at.process(1);
    const text = await child.ask<string>("reserve", { layers: 3, device: 1, sizes });
    expect(codesOf(await at.first.push(text, 0, at.memory(0, 42).list))).toEqual(["OK"]);
    await child.kill();
    let layer = 1;
    await until("a push is refused", async () => {
      try {
        await at.first.push(text, layer, at.memory(0, 43).list);
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
