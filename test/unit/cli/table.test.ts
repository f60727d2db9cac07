/**
 * Goal: what --json prints are the fields of an answer, exact, and nothing of the library that made it. Method:
 * messages as the API answers them, and nested ones.
 */
import { create } from "@bufbuild/protobuf";
import { describe, expect, it } from "vitest";
import { toJson } from "../../../src/cli/table.js";
import { DrainStateSchema } from "../../../src/gen/hbmesh/v1/cluster_pb.js";
import { KeyStatusSchema } from "../../../src/gen/hbmesh/v1/status_pb.js";

describe("toJson", () => {
  it("prints the fields of a message, also of one inside, and not its type", () => {
    const drain = create(DrainStateSchema, { state: "moved", objects: 3n, bytes: 2n ** 60n });
    const text = toJson({ drain, statuses: [create(KeyStatusSchema, { code: 3, message: "gone" })] });
    expect(text).not.toContain("$");
    expect(JSON.parse(text)).toEqual({
      drain: expect.objectContaining({ state: "moved", objects: 3, bytes: "1152921504606846976", reason: "" }),
      statuses: [{ code: 3, message: "gone" }],
    });
  });
});
