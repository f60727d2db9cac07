/**
 * Goal: etcd keeps the Store's contract, and one that stops is named. Method: the conformance suite against a real etcd
 * (Debian's etcd-server), started here on free ports with a directory of its own, and ended with everything that it
 * wrote. Without the program the suite is skipped, by name.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createSystemClock } from "../../src/base/clock.js";
import { pause } from "../../src/base/deadline.js";
import { StatusCode } from "../../src/base/errors.js";
import { createEtcdStore } from "../../src/metadata/index.js";
import { describeStore } from "../unit/metadata/store-conformance.js";
import { type Etcd, etcdMissing, startEtcd } from "./etcd.js";

const clock = createSystemClock();

if (etcdMissing !== undefined) {
  describe("Store: etcd", () => {
    it.skip(`skipped: ${etcdMissing}`, () => {});
  });
} else {
  let etcd: Etcd | undefined;

  beforeAll(async () => {
    etcd = await startEtcd();
  });

  afterAll(async () => {
    await etcd?.stop();
  });

  describeStore("etcd", async () => {
    const store = createEtcdStore([etcd?.endpoint ?? ""], clock);
    return { store, close: () => store.close(), pass: (durationMs) => pause(clock, durationMs) };
  });

  describe("etcd that stops", () => {
    it("rejects calls and watches with RPC_UNAVAILABLE, the endpoint and the command to check", async () => {
      const short = await startEtcd();
      const store = createEtcdStore([short.endpoint], clock);
      const watch = store.watch("p", { signal: new AbortController().signal })[Symbol.asyncIterator]();
      await watch.next();
      // One change shows that the watch is attached; the next answer is the loss.
      await store.put("p/1", Buffer.from("1"));
      expect((await watch.next()).value).toMatchObject({ events: [{ entry: { key: "p/1" } }] });
      const lost = expect(watch.next()).rejects.toMatchObject({
        code: StatusCode.RPC_UNAVAILABLE,
        node: short.endpoint,
      });
      await Promise.all([lost, short.stop()]);
      await expect(store.get("k", { timeoutMs: 2_000 })).rejects.toMatchObject({
        code: StatusCode.RPC_UNAVAILABLE,
        node: short.endpoint,
        message: expect.stringContaining(`etcdctl --endpoints ${short.endpoint} endpoint health`),
      });
      await store.close();
    });
  });
}
