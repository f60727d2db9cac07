/**
 * Goal: --remote_h2d_device_ids says how objects of other workers reach a device: not given, straight over the usual
 * connections; some ids, straight over at least a connection for each, all of which carry bytes; empty, through host
 * memory, which the path says. The bytes are the same. Method: two workers over tcp for each value; a set at one, a get
 * at the other.
 */
import { afterEach, describe, expect, it } from "vitest";
import { codesOf, DeviceObject, type Fixture, startFixture } from "./fixture.js";

const SIZES = Array.from({ length: 12 }, () => 1 << 20);

describe("--remote_h2d_device_ids", () => {
  let fixture: Fixture | undefined;

  afterEach(async () => {
    await fixture?.close();
    fixture = undefined;
  });

  it.each([
    { ids: undefined, lanes: 4, staged: false },
    { ids: "0,2,3,4,5,6", lanes: 6, staged: false },
    { ids: "3", lanes: 4, staged: false },
    { ids: "", lanes: 4, staged: true },
  ])("$ids: $lanes connections, staged $staged", async ({ ids, lanes, staged }) => {
    const workerArgs = ids === undefined ? [] : ["--devices=8", `--remote_h2d_device_ids=${ids}`];
    fixture = await startFixture({ transport: "tcp", workers: 2, workerArgs });
    const [writer, reader] = [await fixture.client(0), await fixture.client(1)];
    const [source, target] = [new DeviceObject(0, SIZES, 1), new DeviceObject(2, SIZES)];
    try {
      expect(codesOf(await writer.mSetD2H(["k"], [source.list]))).toEqual(["OK"]);
      const result = await reader.mGetH2D(["k"], [target.list], { timeoutMs: 0 });
      expect(codesOf(result)).toEqual(["OK"]);
      expect(target.holds(1)).toBe(true);
      expect(result.paths).toHaveLength(1);
      expect(result.paths[0]).toMatchObject({ transport: "tcp", lanes, staged, fallback: false });
    } finally {
      source.free();
      target.free();
    }
  });
});
