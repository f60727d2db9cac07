/**
 * Goal: answers that are too much for one message are cut into parts, or refused with what would fit; nothing that was
 * asked stays without an answer. Method: a sidecar link over a port that refuses large messages; Holders over a sidecar
 * that does; a cluster with objects of very many blobs.
 */
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createVirtualClock } from "../../../src/base/clock.js";
import { HbmeshError, StatusCode } from "../../../src/base/errors.js";
import { createSilentLogger } from "../../../src/base/log.js";
import { Holders } from "../../../src/control/holders.js";
import { FLAG_REPLY, MESSAGE_PAYLOAD_BYTES_MAX, Op } from "../../../src/control/layout-constants.js";
import type { MembershipView } from "../../../src/control/membership.js";
import { SidecarLink } from "../../../src/control/sidecar-link.js";
import { encodeKeys } from "../../../src/decision/index.js";
import type { PortMessage, SidecarPort } from "../../../src/sidecar/port.js";
import { FakeCluster } from "./fake-cluster.js";

const WORKER = "127.0.0.1:31501";

/** A port that keeps what was sent, and refuses payloads above `bytesMax` as the addon does. */
function createPort(bytesMax: number): { port: SidecarPort; sent: PortMessage[] } {
  const sent: PortMessage[] = [];
  const port: SidecarPort = {
    info: { deviceCount: 1, backend: "sim", transports: [] },
    send: (message) => {
      if (message.payload.byteLength > bytesMax) {
        throw new HbmeshError(StatusCode.OUT_OF_RANGE, `at most ${bytesMax} payload bytes`);
      }
      sent.push(message);
    },
    onMessage: () => {},
    onClose: () => {},
    close: () => {},
  };
  return { port, sent };
}

function requestOf(op: number): PortMessage {
  return { id: 9n, op, flags: 0, code: 0, count: 0, args: [0n, 0n, 0n, 0n], payload: new Uint8Array(0) };
}

describe("a link to the sidecar", () => {
  it.each([
    ["by the port", 1_000, 1_001],
    ["by its size", 2 ** 30, MESSAGE_PAYLOAD_BYTES_MAX + 1],
  ])("answers OUT_OF_RANGE in the place of a reply that is refused %s", (_, bytesMax, bytes) => {
    const { port, sent } = createPort(bytesMax);
    const link = new SidecarLink(port, { clock: createVirtualClock(), workerAddress: WORKER });
    link.reply(requestOf(Op.meta), { payload: new Uint8Array(bytes), count: 3, more: true });
    expect(sent).toMatchObject([{ id: 9n, op: Op.meta, flags: FLAG_REPLY, code: StatusCode.OUT_OF_RANGE, count: 0 }]);
    expect(Buffer.from(sent[0]?.payload ?? []).toString()).toContain(`${bytes} bytes are too many for one message`);
  });

  it("fails a question that is too large at once", async () => {
    const { port, sent } = createPort(100);
    const link = new SidecarLink(port, { clock: createVirtualClock(), workerAddress: WORKER });
    const held = Array.from({ length: 10 }, (_, slot) => ({ slot, generation: 1n }));
    await expect(link.drop(held, 1_000)).rejects.toMatchObject({
      code: StatusCode.OUT_OF_RANGE,
      node: WORKER,
      message: expect.stringContaining("use fewer keys a call"),
    });
    expect(sent).toEqual([]);
  });
});

describe("descriptions of many objects", () => {
  it("are asked for in parts, in smaller ones when an answer is too much", async () => {
    const asked: number[] = [];
    const holders = new Holders({
      clock: createVirtualClock(),
      log: createSilentLogger(),
      peers: {} as never,
      sidecar: () =>
        ({
          describe: async (objects: readonly { slot: number }[]) => {
            asked.push(objects.length);
            if (objects.length > 600) {
              throw new HbmeshError(StatusCode.OUT_OF_RANGE, "too much");
            }
            return objects.map(({ slot }) => ({ code: StatusCode.OK, blobSizes: [BigInt(slot)] }));
          },
        }) as never,
      requestTimeoutMs: 5_000,
      onDrop: () => {},
      onOwed: async () => {},
      inDoubt: () => false,
    });
    holders.setView({ epoch: 1n, selfId: 1, members: new Map() } as unknown as MembershipView);
    const objects = Array.from({ length: 2_200 }, (_, slot) => ({ slot, generation: 1n }));
    const described = await holders.describe(1, objects);
    expect(described.map(({ blobSizes }) => blobSizes[0])).toEqual(objects.map(({ slot }) => BigInt(slot)));
    expect(asked).toEqual([1_000, 500, 500, 500, 500, 200]);
  });
});

describe("objects of very many blobs", () => {
  let cluster: FakeCluster;

  beforeEach(() => {
    cluster = new FakeCluster();
  });

  afterEach(() => cluster.close());

  it("metadata that does not fit into one message: OUT_OF_RANGE with how many keys would; the API has no such limit", async () => {
    const a = await cluster.start(1);
    const keys = ["one", "two", "three"];
    const blobSizes = new Array<bigint>(1_500_000).fill(8n);
    await cluster.drive(a.sidecar.set(keys, "many", 0, blobSizes));
    const refused = await cluster.drive(a.sidecar.request(Op.meta, encodeKeys(keys)));
    expect(refused.code).toBe(StatusCode.OUT_OF_RANGE);
    expect(Buffer.from(refused.payload).toString()).toContain("the first 2 fit; ask for at most 2 keys a call");
    const answered = await cluster.drive(a.sidecar.request(Op.meta, encodeKeys(keys.slice(0, 2))));
    expect(answered.code).toBe(StatusCode.OK);
    const metas = await cluster.drive(a.control.objects.getMetaInfo(keys));
    expect(metas.map((meta) => [meta.code, meta.blobSizes.length])).toEqual(
      keys.map(() => [StatusCode.OK, blobSizes.length]),
    );
  });

  it("a lookup's answer is cut by bytes", async () => {
    const a = await cluster.start(1);
    const b = await cluster.start(2);
    const keys = ["one", "two", "three"];
    const blobSizes = new Array<bigint>(100_000).fill(8n);
    await cluster.drive(a.sidecar.set(keys, "many", 0, blobSizes));
    const got = await cluster.drive(b.sidecar.get(keys, 0, blobSizes));
    expect(got.map(({ code, content }) => [code, content])).toEqual(keys.map(() => [StatusCode.OK, "many"]));
    expect(new Set(got.map(({ part }) => part)).size).toBe(3);
  });
});
