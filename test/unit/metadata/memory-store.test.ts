/**
 * Goal: the embedded store keeps the Store's contract, in this process and over StoreService. Method: the conformance
 * suite; time is virtual, HTTP is real.
 */
import { describe, expect, it } from "vitest";
import { createVirtualClock } from "../../../src/base/clock.js";
import { StatusCode } from "../../../src/base/errors.js";
import { createSilentLogger } from "../../../src/base/log.js";
import { createMemoryStore, createRemoteStore } from "../../../src/metadata/index.js";
import { startApiServer } from "../../../src/server/index.js";
import { describeStore } from "./store-conformance.js";

describeStore("memory", async () => {
  const clock = createVirtualClock();
  const store = createMemoryStore(clock);
  return { store, close: () => store.close(), pass: (durationMs) => clock.advance(durationMs) };
});

describeStore("memory of another process", async () => {
  const clock = createVirtualClock();
  const hosted = createMemoryStore(clock);
  const server = await startApiServer({ address: "127.0.0.1:0", log: createSilentLogger(), store: hosted });
  const store = createRemoteStore(server.address);
  return {
    store,
    pass: (durationMs) => clock.advance(durationMs),
    async close() {
      await store.close();
      await server.close();
      await hosted.close();
    },
  };
});

describe("a store that can't be reached", () => {
  it("rejects with RPC_UNAVAILABLE, the address and what to check", async () => {
    const server = await startApiServer({
      address: "127.0.0.1:0",
      log: createSilentLogger(),
      store: createMemoryStore(createVirtualClock()),
    });
    const store = createRemoteStore(server.address);
    const watch = store.watch("p", { signal: new AbortController().signal })[Symbol.asyncIterator]();
    await watch.next();
    const rest = watch.next();
    const lost = expect(rest).rejects.toMatchObject({ code: StatusCode.RPC_UNAVAILABLE, node: server.address });
    await server.close();
    await lost;
    await expect(store.get("k")).rejects.toMatchObject({
      code: StatusCode.RPC_UNAVAILABLE,
      node: server.address,
      message: expect.stringMatching(/the store at .* can't be reached .*; check that the process that hosts it runs/),
    });
    await store.close();
  });

  it("a store that is started anew has higher revisions", async () => {
    const clock = createVirtualClock();
    const first = await createMemoryStore(clock).put("k", Buffer.from("1"));
    await clock.advance(5_000);
    const second = await createMemoryStore(clock).put("k", Buffer.from("1"));
    expect(second.revision).toBeGreaterThan(first.revision);
  });
});
