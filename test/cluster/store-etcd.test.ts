/**
 * Goal: etcd keeps the Store's contract, one that stops is named, and found again at once. Method: the conformance
 * suite against a real etcd (Debian's etcd-server), started here on free ports with a directory of its own, and ended
 * with everything that it wrote. Without the program the suite is skipped, by name.
 */
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parseAddress } from "../../src/base/address.js";
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

    it("is found by the first call after it is there again, however many failed before", async () => {
      const { host, port } = parseAddress(etcd?.endpoint ?? "", "etcd's endpoint");
      const sockets = new Set<Socket>();
      const openGate = (at: number): Promise<Server> =>
        new Promise((resolve) => {
          const gate = createServer((socket) => {
            const behind = connect({ host, port });
            for (const each of [socket, behind]) {
              sockets.add(each);
              each.on("error", () => {});
            }
            socket.pipe(behind).pipe(socket);
          }).listen(at, "127.0.0.1", () => resolve(gate));
        });
      const gate = await openGate(0);
      const { port: at } = gate.address() as AddressInfo;
      const store = createEtcdStore([`127.0.0.1:${at}`], clock);
      await store.put("gate", Buffer.from("1"));
      const closed = new Promise((resolve) => gate.close(resolve));
      sockets.forEach((socket) => socket.destroy());
      await closed;
      for (let call = 0; call < 6; call += 1) {
        await expect(store.get("gate", { timeoutMs: 2_000 })).rejects.toMatchObject({
          code: StatusCode.RPC_UNAVAILABLE,
          message: expect.stringContaining(`reading etcd at 127.0.0.1:${at} failed`),
        });
      }
      const again = await openGate(at);
      expect((await store.get("gate"))?.value).toEqual(new Uint8Array([0x31]));
      await store.close();
      sockets.forEach((socket) => socket.destroy());
      await new Promise((resolve) => again.close(resolve));
    });

    it("that is silent ends its watches with the calls that find it so: they are made anew with them", async () => {
      const silent = createServer((socket) => {
        const { host, port } = parseAddress(etcd?.endpoint ?? "", "etcd's endpoint");
        const behind = connect({ host, port });
        for (const [from, to] of [
          [socket, behind],
          [behind, socket],
        ] as const) {
          from.on("error", () => {});
          from.on("close", () => to.destroy());
          from.on("data", (bytes: Buffer) => isSilent || to.write(bytes));
        }
      });
      let isSilent = false;
      await new Promise<void>((resolve) => silent.listen(0, "127.0.0.1", resolve));
      const { port } = silent.address() as AddressInfo;
      const store = createEtcdStore([`127.0.0.1:${port}`], clock);
      const watch = store.watch("q", { signal: new AbortController().signal })[Symbol.asyncIterator]();
      await watch.next();
      await store.put("q/1", Buffer.from("1"));
      await watch.next();
      isSilent = true;
      const ended = expect(watch.next()).rejects.toThrow("the connections to etcd were made anew");
      for (let call = 0; call < 3; call++) {
        await expect(store.get("k", { timeoutMs: 200 })).rejects.toMatchObject({ code: StatusCode.RPC_UNAVAILABLE });
      }
      await ended;
      await store.close();
      silent.close();
    });
  });
}
