/**
 * Goal: layers pushed by ticket keep the promises of docs/API.md over the whole path, in any order, and with wrong
 * input. Method: the group's cases at each place of cases.ts; device memory is filled with patterns of known seeds.
 */
import { expect } from "vitest";
import { StatusCode } from "../../src/base/errors.js";
import { until } from "../cluster/commands.js";
import { codesOf, failureOf } from "../cluster/fixture.js";
import { apiSuite, totalBytes, waitMs } from "./suite.js";

apiSuite("layers", (at, it) => {
  const pushedIn = async (order: readonly number[]): Promise<void> => {
    const targets = order.map(() => at.memory(1));
    const ticket = await at.second.reserveLayers(targets.map((target) => target.list));
    const source = at.memory(0);
    for (const layer of order) {
      source.fill(60 + layer);
      const result = await at.first.push(ticket.text, layer, source.list);
      expect(codesOf(result)).toEqual(["OK"]);
      expect(await ticket.layer(layer, waitMs)).toMatchObject({ bytes: totalBytes });
      expect(targets[layer]?.holds(60 + layer)).toBe(true);
    }
    expect(await ticket.all(waitMs)).toHaveLength(order.length);
    expect(targets.map((target, layer) => target.holds(60 + layer))).toEqual(order.map(() => true));
  };

  it("in order: each layer's bytes are there when it resolves", () => pushedIn([0, 1, 2, 3]));
  it("out of order: each layer's bytes are there when it resolves", () => pushedIn([2, 0, 3, 1]));

  it("pushes while a layer is awaited, all at once", async () => {
    const targets = [at.memory(1), at.memory(1), at.memory(1), at.memory(1)];
    const ticket = await at.second.reserveLayers(targets.map((target) => target.list));
    const awaited = targets.map(async (target, layer) => {
      await ticket.layer(layer, waitMs);
      return target.holds(70 + layer);
    });
    await expect(ticket.layer(0, 0)).rejects.toMatchObject({ code: StatusCode.FUTURE_TIMEOUT });
    await Promise.all(targets.map((_, layer) => at.first.push(ticket.text, layer, at.memory(0, 70 + layer).list)));
    expect(await Promise.all(awaited)).toEqual([true, true, true, true]);
  });

  it("twice: KEY_ALREADY_EXISTS; out of range: OUT_OF_RANGE; other blobs: INVALID naming both", async () => {
    const targets = [at.memory(1), at.memory(1)];
    const ticket = await at.second.reserveLayers(targets.map((target) => target.list));
    await at.first.push(ticket.text, 0, at.memory(0, 80).list);
    const twice = await failureOf(at.first.push(ticket.text, 0, at.memory(0, 81).list));
    expect(twice.code).toBe(StatusCode.KEY_ALREADY_EXISTS);
    const beyond = await failureOf(at.first.push(ticket.text, 2, at.memory(0, 82).list));
    expect(beyond.code).toBe(StatusCode.OUT_OF_RANGE);
    const shape = await failureOf(at.first.push(ticket.text, 1, at.memory(0, 83, [10, 20]).list));
    expect(shape.code).toBe(StatusCode.INVALID);
    await expect(ticket.layer(2, 0)).rejects.toMatchObject({ code: StatusCode.OUT_OF_RANGE });
    await at.first.push(ticket.text, 1, at.memory(0, 84).list);
    await ticket.all(waitMs);
    // The ticket has ended: what it was is still known.
    const late = await failureOf(at.first.push(ticket.text, 1, at.memory(0, 87).list));
    expect(late.code).toBe(StatusCode.KEY_ALREADY_EXISTS);
    expect(targets.map((target, layer) => target.holds(layer === 0 ? 80 : 84))).toEqual([true, true]);
  });

  it("no ticket: INVALID; wrong secret: NOT_AUTHORIZED; unknown or ended: NOT_FOUND", async () => {
    const ticket = await at.second.reserveLayers([at.memory(1).list]);
    const source = at.memory(0, 85).list;
    expect((await failureOf(at.first.push("no ticket", 0, source))).code).toBe(StatusCode.INVALID);
    const last = ticket.text.endsWith("0") ? "1" : "0";
    const wrong = await failureOf(at.first.push(ticket.text.slice(0, -1) + last, 0, source));
    expect(wrong.code).toBe(StatusCode.NOT_AUTHORIZED);
    expect(wrong.message).not.toContain(ticket.text.slice(-8));
    const [member, number, secret] = ticket.text.split("-");
    const unknown = await failureOf(at.first.push(`${member}-${Number(number) + 1_000}-${secret}`, 0, source));
    expect(unknown.code).toBe(StatusCode.NOT_FOUND);
    ticket.cancel();
    await expect(ticket.layer(0, waitMs)).rejects.toMatchObject({ code: StatusCode.RPC_CANCELLED });
    await until("the worker has ended it", async () => {
      const { code } = await failureOf(at.first.push(ticket.text, 0, at.memory(0, 1, [3]).list));
      return code === StatusCode.NOT_FOUND;
    });
  });

  it("expired: the layers end with FUTURE_TIMEOUT, and pushes get NOT_FOUND", async () => {
    const ticket = await at.second.reserveLayers([at.memory(1).list, at.memory(1).list], { ttlSeconds: 0.02 });
    await expect(ticket.layer(1, waitMs)).rejects.toMatchObject({ code: StatusCode.FUTURE_TIMEOUT });
    await expect(ticket.all(waitMs)).rejects.toMatchObject({ code: StatusCode.FUTURE_TIMEOUT });
    const late = await failureOf(at.first.push(ticket.text, 0, at.memory(0, 86).list));
    expect(late.code).toBe(StatusCode.NOT_FOUND);
  });

  it("a ticket's life is at most 1,800 s: INVALID above", async () => {
    const failure = await failureOf(at.second.reserveLayers([at.memory(1).list], { ttlSeconds: 1_801 }));
    expect(failure.code).toBe(StatusCode.INVALID);
    expect(failure.message).toMatch(/1801.*1,800/);
  });
});
