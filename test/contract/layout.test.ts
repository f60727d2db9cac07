/**
 * Goal: operations, flags, sizes and limits that TypeScript writes down are those of native/queue/layout.h.
 * Method: compare with what the addon exports; and, so that the comparison also runs without the addon, with the header's text.
 */
import { existsSync } from "node:fs";
import { describe, expect, it } from "vitest";
import * as constants from "../../src/control/layout-constants.js";
import * as decision from "../../src/decision/layout.js";
import { loadAddon, type NativeLayout } from "../../src/sidecar/addon.js";
import { read } from "./sources.js";

const header = read("native/queue/layout.h");

/** What TypeScript calls an operation, from the header's name. */
const camel = (name: string): string => name.replace(/^k/, "").replace(/^./, (first) => first.toLowerCase());

/** Records whose size TypeScript knows. */
const sizes: Record<string, number> = {
  ResultRecord: decision.RESULT_RECORD_BYTES,
  CommitRecord: decision.COMMIT_RECORD_BYTES,
  SliceRecord: decision.SLICE_RECORD_BYTES,
  HeldObject: decision.HELD_OBJECT_BYTES,
  KeyBatchHeader: decision.KEY_BATCH_HEADER_BYTES,
  LookupReply: constants.LOOKUP_REPLY_BYTES,
  FoundRecord: constants.FOUND_RECORD_BYTES,
  SidecarStats: constants.SIDECAR_STATS_BYTES,
};

function operationsOf(text: string): Record<string, number> {
  const body = /enum class Op : uint16_t \{([\s\S]*?)\n\};/.exec(text)?.[1] ?? "";
  return Object.fromEntries(
    [...body.matchAll(/^\s*(k\w+) = (\d+),/gm)].map(([, name = "", number]) => [name, Number(number)]),
  );
}

describe("layout.h", () => {
  it("has the operations that TypeScript names", () => {
    const operations = operationsOf(header);
    const native = new Map(Object.entries(operations).map(([name, number]) => [camel(name), number]));
    expect(native.size).toBeGreaterThan(15);
    for (const [name, number] of Object.entries(constants.Op)) {
      expect([name, native.get(name)]).toEqual([name, number]);
    }
  });

  it("has the sizes, flags and limits that TypeScript names", () => {
    for (const [name, bytes] of Object.entries(sizes)) {
      expect(header).toContain(`static_assert(sizeof(${name}) == ${bytes});`);
    }
    expect(header).toContain(`kFlagReply = ${constants.FLAG_REPLY},`);
    expect(header).toContain(`kFlagMore = ${constants.FLAG_MORE},`);
    expect(header).toContain(`kExisted = ${decision.FLAG_EXISTED},`);
    expect(header).toContain("kKeysPerCallMax = 10'000;");
    expect(header).toContain("kKeysPerQueryMax = 100'000;");
    expect([constants.KEYS_PER_CALL_MAX, constants.KEYS_PER_QUERY_MAX]).toEqual([10_000, 100_000]);
  });
});

const built = existsSync(new URL("../../build/Release/hbmesh.node", import.meta.url));

describe.skipIf(!built)("the addon's layout (skipped while build/Release/hbmesh.node is not built)", () => {
  const layoutOf = (): NativeLayout => loadAddon().layout;

  it("exports the operations, flags and limits that TypeScript names", () => {
    const { ops, flags, limits } = layoutOf();
    for (const [name, number] of Object.entries(constants.Op)) {
      const found = Object.entries(ops).find(([each]) => camel(each) === name);
      expect([name, found?.[1]]).toEqual([name, number]);
    }
    const flag = (name: string): number | undefined =>
      Object.entries(flags).find(([each]) => camel(each) === name)?.[1];
    expect([flag("reply"), flag("more")]).toEqual([constants.FLAG_REPLY, constants.FLAG_MORE]);
    const limit = (name: string): number | undefined =>
      Object.entries(limits).find(([each]) => camel(each) === name)?.[1];
    expect([limit("keysPerCallMax"), limit("keysPerQueryMax")]).toEqual([10_000, 100_000]);
  });

  it("exports the record sizes that TypeScript names", () => {
    const { structs } = layoutOf();
    for (const [name, bytes] of Object.entries(sizes)) {
      expect([name, structs[name]?.bytes]).toEqual([name, bytes]);
    }
  });
});
