/**
 * Goal: an arena that this host has no memory for is refused by a sentence, not by the kernel, which would kill some
 * process. Method: sizes below, at and above what the host has.
 */
import { describe, expect, it } from "vitest";
import { StatusCode } from "../../../src/base/errors.js";
import { checkMemory } from "../../../src/sidecar/sidecar-process.js";

const MIB = 2 ** 20;

describe("memory of a sidecar", () => {
  const check = (arenaBytes: number, host: number | undefined): void =>
    checkMemory({ workerAddress: "127.0.0.1:31501", arenaBytes }, host);

  it("takes what the host has, and no more; where that is not known it tries", () => {
    check(64 * MIB, 65 * MIB);
    check(64 * MIB, 64 * MIB);
    check(64 * MIB, undefined);
    expect(() => check(64 * MIB, 64 * MIB - 1)).toThrow(
      expect.objectContaining({
        code: StatusCode.OUT_OF_MEMORY,
        node: "127.0.0.1:31501",
        message:
          "the sidecar of 127.0.0.1:31501 would take 64 MiB for objects, and this host has 63 MiB of memory: give a smaller --shared_memory_size_mb",
      }),
    );
  });
});
