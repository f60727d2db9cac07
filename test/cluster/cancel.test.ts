/**
 * Goal: whatever call its caller cancels ends with RPC_CANCELLED, or as it would have if that came first; never with
 * another code. What it leaves behind is whole or nothing.
 * Method: a table of all calls that may wait, each aborted while it does, at two workers; large transfers between them
 * are aborted at several moments.
 */
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { StatusCode } from "../../src/base/errors.js";
import type { HeteroClient } from "../../src/client/index.js";
import { until } from "./commands.js";
import { DeviceObject, type Fixture, failureOf, startFixture } from "./fixture.js";

const LARGE = 64 << 20;

let fixture: Fixture;
let near: HeteroClient;
let far: HeteroClient;
let piece: DeviceObject;
let source: DeviceObject;
let target: DeviceObject;

beforeAll(async () => {
  fixture = await startFixture({ sharedMemorySizeMb: 256, transport: "tcp" });
  [near, far] = [await fixture.client(0), await fixture.client(1)];
  piece = new DeviceObject(0, [4096]);
  source = new DeviceObject(0, [LARGE]);
  target = new DeviceObject(1, [LARGE]);
  // Registered ahead: an abort then meets the call itself.
  for (const [client, object] of [
    [near, piece],
    [near, source],
    [far, target],
  ] as const) {
    const [blob] = object.list.blobs;
    await client.preRegisterDeviceMemory([blob?.pointer ?? 0n], [blob?.size ?? 0n]);
  }
}, 60_000);

afterAll(async () => {
  await fixture.close();
  for (const object of [piece, source, target]) {
    object.free();
  }
});

/** "OK", or the code's name. */
async function endOf(call: Promise<unknown>): Promise<string> {
  try {
    await call;
    return "OK";
  } catch (error) {
    return StatusCode[(error as { code: StatusCode }).code] ?? "?";
  }
}

interface Waiting {
  name: string;
  /** Starts the call; resolves, with the promise of its end, once it waits. */
  start(key: string, signal: AbortSignal): Promise<{ end: Promise<unknown> }>;
}

const FOREVER = 1_800_000;

const waiting: Waiting[] = [
  {
    name: "mGetH2D",
    start: async (key, signal) => ({ end: near.mGetH2D([key], [piece.list], { timeoutMs: FOREVER, signal }) }),
  },
  {
    name: "devMGet",
    start: async (key, signal) => ({ end: near.devMGet([key], [piece.list], { timeoutMs: FOREVER, signal }) }),
  },
  {
    name: "devPublish",
    start: async (key, signal) => {
      const [future] = await near.devPublish([key], [piece.list], { signal });
      return { end: future?.get(FOREVER) ?? Promise.resolve() };
    },
  },
  {
    name: "devSubscribe",
    start: async (key, signal) => {
      const [future] = await near.devSubscribe([key], [piece.list], { timeoutMs: FOREVER, signal });
      return { end: future?.get(FOREVER) ?? Promise.resolve() };
    },
  },
  {
    name: "a future of devPublish",
    start: async (key, signal) => {
      const [future] = await near.devPublish([key], [piece.list]);
      signal.addEventListener("abort", () => future?.cancel());
      return { end: future?.get(FOREVER) ?? Promise.resolve() };
    },
  },
  {
    name: "a future of devSubscribe",
    start: async (key, signal) => {
      const [future] = await near.devSubscribe([key], [piece.list], { timeoutMs: FOREVER });
      signal.addEventListener("abort", () => future?.cancel());
      return { end: future?.get(FOREVER) ?? Promise.resolve() };
    },
  },
  {
    name: "a ticket of reserveLayers",
    start: async (_, signal) => {
      const ticket = await near.reserveLayers([piece.list]);
      signal.addEventListener("abort", () => ticket.cancel());
      return { end: ticket.layer(0, FOREVER) };
    },
  },
];

describe("a call that waits and is aborted", () => {
  it.each(waiting)("$name: RPC_CANCELLED, and nothing is left", async ({ start }) => {
    const controller = new AbortController();
    const key = near.generateKey("cancel");
    const { end } = await start(key, controller.signal);
    const failure = failureOf(end);
    controller.abort();
    expect(await failure).toMatchObject({
      code: StatusCode.RPC_CANCELLED,
      message: expect.stringMatching(/cancelled by (its|the) caller/),
    });
    await until("its owner has heard of it", async () => (await far.exist([key])).presences[0] === "MISS");
  });
});

const quick: Waiting[] = [
  { name: "exist", start: async (key, signal) => ({ end: far.exist([key], { signal }) }) },
  { name: "getMetaInfo", start: async (key, signal) => ({ end: far.getMetaInfo([key], { signal }) }) },
  { name: "delete", start: async (key, signal) => ({ end: far.delete([key], { signal }) }) },
  { name: "explain", start: async (key, signal) => ({ end: far.explain(key, { signal }) }) },
  { name: "devMSet", start: async (key, signal) => ({ end: near.devMSet([key], [piece.list], { signal }) }) },
  { name: "devDelete", start: async (key, signal) => ({ end: far.devDelete([key], { signal }) }) },
  { name: "devLocalDelete", start: async (key, signal) => ({ end: near.devLocalDelete([key], { signal }) }) },
  { name: "reserveLayers", start: async (_, signal) => ({ end: near.reserveLayers([piece.list], { signal }) }) },
];

describe("a call that is answered soon", () => {
  it.each(quick)("$name: OK or RPC_CANCELLED", async ({ start }) => {
    const controller = new AbortController();
    const { end } = await start(near.generateKey("cancel"), controller.signal);
    controller.abort();
    expect(["OK", "RPC_CANCELLED"]).toContain(await endOf(end));
  });
});

describe("a transfer that is aborted in its middle", () => {
  const moments = [0, 1, 2, 4, 8, 16, 32];
  const abortedAt = async (ms: number, start: (signal: AbortSignal) => Promise<unknown>): Promise<string> => {
    const controller = new AbortController();
    const end = endOf(start(controller.signal));
    await delay(ms);
    controller.abort();
    return await end;
  };

  it("push and publish", async () => {
    const ends: string[] = [];
    for (const ms of moments) {
      const ticket = await far.reserveLayers([target.list]);
      ends.push(await abortedAt(ms, (signal) => near.push(ticket.text, 0, source.list, { signal })));
      ticket.cancel();
      await ticket.layer(0, FOREVER).catch(() => {});
      const key = near.generateKey("cancel");
      const [sent] = await near.devPublish([key], [source.list]);
      const subscribe = async (signal: AbortSignal): Promise<unknown> =>
        (await far.devSubscribe([key], [target.list], { signal }))[0]?.get(FOREVER);
      const received = await abortedAt(ms, subscribe);
      ends.push(received);
      sent?.cancel(); // while the receiver still reads, or as it gives up
      ends.push(await endOf(sent?.get(FOREVER) ?? Promise.reject()));
    }
    expect(ends.filter((end) => end !== "OK" && end !== "RPC_CANCELLED")).toEqual([]);
    expect(ends).toContain("RPC_CANCELLED");
  });

  it("sets and gets, of which nothing half is left", async () => {
    source.fill(1);
    const ends: string[] = [];
    for (const ms of moments) {
      const key = near.generateKey("cancel");
      const set = await abortedAt(ms, (signal) =>
        near.mSetD2H([key], [source.list], { existence: ms % 2 === 0 ? "replace" : "skip", signal }),
      );
      const got = await abortedAt(ms, (signal) => far.mGetH2D([key], [target.list], { signal }));
      const whole = await far.mGetH2D([key], [target.list]);
      expect(whole.failedKeys.length === 0 ? target.holds(1) : "nothing").toBeTruthy();
      ends.push(set, got);
      await near.delete([key]);
    }
    expect(ends.filter((end) => end !== "OK" && end !== "RPC_CANCELLED")).toEqual([]);
    expect(ends).toContain("RPC_CANCELLED");
  }, 60_000);
});
