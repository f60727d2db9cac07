/**
 * Goal: a control process takes the list of what its sidecar holds in parts, and asks for the next only when these have
 * been dealt with, so that millions of objects don't wait in memory. Method: a port whose other end answers by hand.
 */
import { describe, expect, it } from "vitest";
import { createSystemClock } from "../../../src/base/clock.js";
import { FLAG_MORE, FLAG_REPLY, Op } from "../../../src/control/layout-constants.js";
import { SidecarLink } from "../../../src/control/sidecar-link.js";
import { decodeKeys, encodeCommits, encodeKeys } from "../../../src/decision/index.js";
import type { PortMessage, SidecarPort } from "../../../src/sidecar/index.js";

const part = (key: string): Uint8Array =>
  Buffer.concat([encodeKeys([key]), encodeCommits([{ generation: 1n, bytes: 8n, slot: 0, member: 0 }])]);

describe("the list of what a sidecar holds", () => {
  it("is asked for from where the answer before ended, when that has been dealt with", async () => {
    const asked: bigint[] = [];
    const steps: string[] = [];
    let deliver: (message: PortMessage) => void = () => {};
    const port = {
      onMessage: (handler: typeof deliver) => {
        deliver = handler;
      },
      onClose: () => {},
      close: () => {},
      send: (message: PortMessage) => {
        expect(message.op).toBe(Op.listHeld);
        const from = message.args[0] ?? 0n;
        asked.push(from);
        steps.push(`asked ${from}`);
        const reply = { ...message, flags: FLAG_REPLY | FLAG_MORE, code: 0 };
        const next = from === 0n ? 16_384n : 0n;
        queueMicrotask(() => {
          deliver({ ...reply, args: [0n, 0n, 0n, 0n], payload: part(`first-${from}`) });
          deliver({ ...reply, flags: FLAG_REPLY, args: [next, 0n, 0n, 0n], payload: part(`last-${from}`) });
        });
      },
    };
    const link = new SidecarLink(port as unknown as SidecarPort, { clock: createSystemClock(), workerAddress: "w" });
    link.attach(
      () => {},
      () => {},
    );
    await link.listHeld(async ({ keys }) => {
      const [key = ""] = decodeKeys(keys);
      steps.push(`took ${key}`);
      await new Promise((resolve) => setImmediate(resolve));
      steps.push(`done ${key}`);
    }, 1_000);
    expect(asked).toEqual([0n, 16_384n]);
    expect(steps).toEqual([
      "asked 0",
      ...["first-0", "last-0"].flatMap((key) => [`took ${key}`, `done ${key}`]),
      "asked 16384",
      ...["first-16384", "last-16384"].flatMap((key) => [`took ${key}`, `done ${key}`]),
    ]);
    link.close();
  });

  it("fails with what dealing with a part failed with, and asks for no more", async () => {
    let asked = 0;
    let deliver: (message: PortMessage) => void = () => {};
    const port = {
      onMessage: (handler: typeof deliver) => {
        deliver = handler;
      },
      onClose: () => {},
      close: () => {},
      send: (message: PortMessage) => {
        asked++;
        queueMicrotask(() =>
          deliver({ ...message, flags: FLAG_REPLY, code: 0, args: [16_384n, 0n, 0n, 0n], payload: part("k") }),
        );
      },
    };
    const link = new SidecarLink(port as unknown as SidecarPort, { clock: createSystemClock(), workerAddress: "w" });
    link.attach(
      () => {},
      () => {},
    );
    await expect(link.listHeld(() => Promise.reject(new Error("enough")), 1_000)).rejects.toThrow("enough");
    expect(asked).toBe(1);
    link.close();
  });
});
