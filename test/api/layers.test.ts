/**
 * Goal: layers pushed by ticket keep the promises of docs/API.md over the whole path, in any order, and with wrong input.
 * Method: the same cases for two workers over tcp, two over shm, and one worker; device memory is filled with patterns of known seeds.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { StatusCode } from "../../src/base/errors.js";
import type { HeteroClient } from "../../src/client/index.js";
import { until } from "../cluster/commands.js";
import { codesOf, DeviceObject, type Fixture, failureOf, startFixture } from "../cluster/fixture.js";

const sizes = [72 * 1024, 1, 4096, 100_000];
const totalBytes = BigInt(sizes.reduce((sum, size) => sum + size, 0));
const waitMs = 30_000;

const places = [
  { place: "two workers over tcp", transport: "tcp", workers: 2 },
  { place: "two workers over shm", transport: "shm", workers: 2 },
  { place: "one worker", transport: "tcp", workers: 1 },
] as const;

describe.each(places)("layers: $place", ({ transport, workers }) => {
  let fixture: Fixture;
  let sender: HeteroClient;
  let receiver: HeteroClient;
  let made: DeviceObject[] = [];

  const memory = (device: number, seed?: number, of: readonly number[] = sizes): DeviceObject => {
    const object = new DeviceObject(device, of, seed);
    made.push(object);
    return object;
  };

  beforeAll(async () => {
    fixture = await startFixture({ transport, workers, devices: 8 });
    sender = await fixture.client(0);
    receiver = await fixture.client(workers - 1);
  });

  afterEach(() => {
    for (const object of made) {
      object.free();
    }
    made = [];
  });

  afterAll(async () => {
    await fixture.close();
  });

  it.each([
    ["in order", [0, 1, 2, 3]],
    ["out of order", [2, 0, 3, 1]],
  ])("%s: each layer's bytes are there when it resolves", async (_order, order) => {
    const targets = order.map(() => memory(1));
    const ticket = await receiver.reserveLayers(targets.map((target) => target.list));
    const source = memory(0);
    for (const layer of order) {
      source.fill(60 + layer);
      const result = await sender.push(ticket.text, layer, source.list);
      expect(codesOf(result)).toEqual(["OK"]);
      expect(await ticket.layer(layer, waitMs)).toMatchObject({ bytes: totalBytes });
      expect(targets[layer]?.holds(60 + layer)).toBe(true);
    }
    expect(await ticket.all(waitMs)).toHaveLength(order.length);
    expect(targets.map((target, layer) => target.holds(60 + layer))).toEqual(order.map(() => true));
  });

  it("pushes while layer(i) is awaited, all at once", async () => {
    const targets = [memory(1), memory(1), memory(1), memory(1)];
    const ticket = await receiver.reserveLayers(targets.map((target) => target.list));
    const awaited = targets.map(async (target, layer) => {
      await ticket.layer(layer, waitMs);
      return target.holds(70 + layer);
    });
    await expect(ticket.layer(0, 0)).rejects.toMatchObject({ code: StatusCode.FUTURE_TIMEOUT });
    await Promise.all(targets.map((_, layer) => sender.push(ticket.text, layer, memory(0, 70 + layer).list)));
    expect(await Promise.all(awaited)).toEqual([true, true, true, true]);
  });

  it("twice: KEY_ALREADY_EXISTS; out of range: OUT_OF_RANGE; other blobs: INVALID naming both", async () => {
    const targets = [memory(1), memory(1)];
    const ticket = await receiver.reserveLayers(targets.map((target) => target.list));
    await sender.push(ticket.text, 0, memory(0, 80).list);
    const twice = await failureOf(sender.push(ticket.text, 0, memory(0, 81).list));
    expect(twice.code).toBe(StatusCode.KEY_ALREADY_EXISTS);
    const beyond = await failureOf(sender.push(ticket.text, 2, memory(0, 82).list));
    expect(beyond.code).toBe(StatusCode.OUT_OF_RANGE);
    const shape = await failureOf(sender.push(ticket.text, 1, memory(0, 83, [10, 20]).list));
    expect(shape.code).toBe(StatusCode.INVALID);
    await expect(ticket.layer(2, 0)).rejects.toMatchObject({ code: StatusCode.OUT_OF_RANGE });
    await sender.push(ticket.text, 1, memory(0, 84).list);
    await ticket.all(waitMs);
    // The ticket has ended: what it was is still known.
    const late = await failureOf(sender.push(ticket.text, 1, memory(0, 87).list));
    expect(late.code).toBe(StatusCode.KEY_ALREADY_EXISTS);
    expect(targets.map((target, layer) => target.holds(layer === 0 ? 80 : 84))).toEqual([true, true]);
  });

  it("no ticket: INVALID; wrong secret: NOT_AUTHORIZED; unknown or ended: NOT_FOUND", async () => {
    const ticket = await receiver.reserveLayers([memory(1).list]);
    const source = memory(0, 85).list;
    expect((await failureOf(sender.push("no ticket", 0, source))).code).toBe(StatusCode.INVALID);
    const last = ticket.text.endsWith("0") ? "1" : "0";
    const wrong = await failureOf(sender.push(ticket.text.slice(0, -1) + last, 0, source));
    expect(wrong.code).toBe(StatusCode.NOT_AUTHORIZED);
    expect(wrong.message).not.toContain(ticket.text.slice(-8));
    const [member, number, secret] = ticket.text.split("-");
    const unknown = await failureOf(sender.push(`${member}-${Number(number) + 1_000}-${secret}`, 0, source));
    expect(unknown.code).toBe(StatusCode.NOT_FOUND);
    ticket.cancel();
    await expect(ticket.layer(0, waitMs)).rejects.toMatchObject({ code: StatusCode.RPC_CANCELLED });
    await until("the worker has ended it", async () => {
      const { code } = await failureOf(sender.push(ticket.text, 0, memory(0, 1, [3]).list));
      return code === StatusCode.NOT_FOUND;
    });
  });

  it("expired: the layers end with FUTURE_TIMEOUT, and pushes get NOT_FOUND", async () => {
    const ticket = await receiver.reserveLayers([memory(1).list, memory(1).list], { ttlSeconds: 0.02 });
    await expect(ticket.layer(1, waitMs)).rejects.toMatchObject({ code: StatusCode.FUTURE_TIMEOUT });
    await expect(ticket.all(waitMs)).rejects.toMatchObject({ code: StatusCode.FUTURE_TIMEOUT });
    const late = await failureOf(sender.push(ticket.text, 0, memory(0, 86).list));
    expect(late.code).toBe(StatusCode.NOT_FOUND);
  });
});
