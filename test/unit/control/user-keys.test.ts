/**
 * Goal: through the API nobody names another tenant's keys, and nobody can know how keys are hashed here.
 * Method: one control process without a sidecar; keys that begin with a tenant's prefix; a source of randomness that
 * counts what is drawn.
 */
import { afterEach, describe, expect, it } from "vitest";
import { resolveWorkerConfig } from "../../../src/base/config.js";
import { StatusCode } from "../../../src/base/errors.js";
import { createSilentLogger } from "../../../src/base/log.js";
import { scopeKeys } from "../../../src/base/tenants.js";
import type { ControlProcess } from "../../../src/control/contract.js";
import { startControlProcess } from "../../../src/control/control-process.js";

describe("keys of users", () => {
  let control: ControlProcess | undefined;

  afterEach(() => control?.close());

  it.each(["strict", "extended"] as const)(
    "with a tenant's prefix are INVALID in every call (rule %s)",
    async (keyRule) => {
      const config = resolveWorkerConfig({ workerAddress: "127.0.0.1:29001", keyRule });
      control = await startControlProcess(config, { log: createSilentLogger() });
      const [key = ""] = scopeKeys("somebody-else", ["key"]);
      const refused = { code: StatusCode.INVALID, message: expect.stringContaining("number 1 of the call") };
      const { objects } = control;
      await expect(objects.exist([key])).rejects.toMatchObject(refused);
      await expect(objects.getMetaInfo([key])).rejects.toMatchObject(refused);
      await expect(objects.delete([key], { tenant: "mine" })).rejects.toMatchObject(refused);
      await expect(objects.explain(key)).rejects.toMatchObject(refused);
    },
  );

  it("are hashed with 64 random bits", async () => {
    const drawn: number[] = [];
    const random = {
      nextFraction: () => 0,
      nextBelow: (limit: number) => {
        drawn.push(limit);
        return 7;
      },
    };
    const config = resolveWorkerConfig({ workerAddress: "127.0.0.1:29001" });
    control = await startControlProcess(config, { log: createSilentLogger(), random });
    expect(drawn.slice(0, 2)).toEqual([2 ** 32, 2 ** 32]);
  });
});
