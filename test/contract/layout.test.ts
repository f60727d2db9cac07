/**
 * Goal: operations, flags, sizes, limits and field offsets that TypeScript and AssemblyScript use are those of
 * native/queue/layout.h. Method: compare with what the addon exports; and, so that the comparison also runs without the
 * addon, with the header's text. Offsets are compared by round trips: records with a different value in each field, at
 * the header's places, go through the code that reads and writes them.
 */
import { existsSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { createSystemClock } from "../../src/base/clock.js";
import { StatusCode } from "../../src/base/errors.js";
import * as constants from "../../src/control/layout-constants.js";
import { type LookupOptions, startLookup } from "../../src/control/lookup.js";
import { Results, stampFirstLocation, stampMember } from "../../src/control/records.js";
import { SidecarLink } from "../../src/control/sidecar-link.js";
import * as decision from "../../src/decision/layout.js";
import { loadAddon, type NativeLayout } from "../../src/sidecar/addon.js";
import type { PortMessage, SidecarPort } from "../../src/sidecar/port.js";
import { read } from "./sources.js";
import { build, classesOfAssembly, fieldsOf, structsOfHeader } from "./structs.js";

const header = read("native/queue/layout.h");
const assembly = read("asm/layout.ts");
const structs = structsOfHeader(header);

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
    expect(header).toContain(`kOtherFamily = ${decision.FLAG_OTHER_FAMILY},`);
    expect(assembly).toContain(`FLAG_EXISTED: u32 = ${decision.FLAG_EXISTED};`);
    expect(assembly).toContain(`FLAG_OTHER_FAMILY: u32 = ${decision.FLAG_OTHER_FAMILY};`);
    expect(header).toContain("kKeysPerCallMax = 10'000;");
    expect(header).toContain("kKeysPerQueryMax = 100'000;");
    expect([constants.KEYS_PER_CALL_MAX, constants.KEYS_PER_QUERY_MAX]).toEqual([10_000, 100_000]);
  });
});

/** A ResultRecord with two locations. */
function resultRecord(flags: number): Uint8Array {
  const result = structs.ResultRecord;
  const location = structs.Location;
  const record = build(result, { code: 19, flags, generation: 101n, bytes: 102n, locationCount: 2, family: 1 });
  for (const n of [0, 1]) {
    const at = (result?.fields.locations?.offset ?? 0) + n * (location?.bytes ?? 0);
    record.set(build(location, { member: 11 + n, slot: 21 + n }), at);
  }
  return record;
}

const location = (n: number): decision.Location => ({ member: 11 + n, slot: 21 + n });

describe("fields of the header's records", () => {
  it("are found, and fill the sizes that it asserts", () => {
    const asserted = [...header.matchAll(/static_assert\(sizeof\((\w+)\) == (\d+)\);/g)];
    const found = asserted.filter(([, name = ""]) => name in structs);
    expect(found.length).toBeGreaterThan(12);
    for (const [, name = "", bytes] of found) {
      expect([name, structs[name]?.bytes]).toEqual([name, Number(bytes)]);
    }
    for (const name of Object.keys(sizes)) {
      expect(Object.keys(structs)).toContain(name);
    }
  });

  it("are those of asm/layout.ts", () => {
    const classes = classesOfAssembly(assembly);
    for (const name of ["KeyBatchHeader", "ResultRecord", "CommitRecord", "SliceRecord"]) {
      const { locations, ...fields } = structs[name]?.fields ?? {};
      expect([name, classes[name]?.fields]).toEqual([name, fields]);
      expect(assembly).toContain(`_BYTES: usize = ${structs[name]?.bytes};`);
      if (locations !== undefined) {
        expect(assembly).toContain(`RESULT_LOCATIONS_OFFSET: usize = ${locations.offset};`);
        expect(assembly).toContain(`LOCATION_BYTES: usize = ${structs.Location?.bytes};`);
        expect(assembly).toContain(`LOCATIONS_MAX: u32 = ${locations.bytes / (structs.Location?.bytes ?? 0)};`);
      }
    }
  });

  it("are where src/decision reads and writes them", () => {
    for (const flags of [0, decision.FLAG_EXISTED, decision.FLAG_OTHER_FAMILY]) {
      const record = resultRecord(flags);
      const result = decision.readResult(record, 0);
      expect(result).toEqual({
        code: 19,
        existed: flags === decision.FLAG_EXISTED,
        otherFamily: flags === decision.FLAG_OTHER_FAMILY,
        generation: 101n,
        bytes: 102n,
        family: 1,
        locations: [location(0), location(1)],
      });
      expect(decision.encodeResults([result])).toEqual(record);
    }
    const commit = { generation: 1n, bytes: 2n, slot: 3, member: 4 };
    expect(decision.encodeCommits([commit])).toEqual(build(structs.CommitRecord, commit));
    expect(decision.decodeCommits(build(structs.CommitRecord, commit))).toEqual([commit]);
    const slice = { keyIndex: 1, member: 2, lane: 3, firstBlob: 4, offset: 5n, bytes: 6n };
    const written = new Uint8Array(structs.SliceRecord?.bytes ?? 0);
    decision.writeSlice(written, 0, slice);
    expect(written).toEqual(build(structs.SliceRecord, slice));
    expect(decision.decodeSlices(build(structs.SliceRecord, slice))).toEqual([slice]);
    const held = { generation: 1n, slot: 2 };
    expect(decision.encodeHeld([held])).toEqual(build(structs.HeldObject, held));
    expect(decision.decodeHeld(build(structs.HeldObject, held))).toEqual([held]);
    const keys = build(structs.KeyBatchHeader, { count: 2, keyBytes: 3 });
    expect(decision.encodeKeys(["a", "bc"]).subarray(0, keys.length)).toEqual(keys);
    expect(decision.encodeKeys(["ä", "b"]).subarray(0, keys.length)).toEqual(keys);
  });

  it("are where src/control reads and changes them", () => {
    const results = new Results(resultRecord(decision.FLAG_OTHER_FAMILY), 1);
    expect([results.code(0), results.existed(0), results.otherFamily(0), results.family(0)]).toEqual([
      19,
      false,
      true,
      1,
    ]);
    expect([results.generation(0), results.sizeBytes(0)]).toEqual([101n, 102n]);
    expect(results.locations(0)).toEqual([location(0), location(1)]);
    const changed = Results.empty(1);
    changed.setCode(0, StatusCode.OUT_OF_MEMORY);
    changed.setExisted(0);
    expect(changed.bytes).toEqual(
      build(structs.ResultRecord, { code: StatusCode.OUT_OF_MEMORY, flags: decision.FLAG_EXISTED }),
    );
    const stamped = stampFirstLocation(build(structs.ResultRecord, { generation: 1n }), 9);
    expect(decision.readResult(stamped, 0)).toMatchObject({ generation: 1n, locations: [{ member: 9, slot: 0 }] });
    const commit = { generation: 1n, bytes: 2n, slot: 3 };
    expect(stampMember(build(structs.CommitRecord, commit), 9)).toEqual(
      build(structs.CommitRecord, { ...commit, member: 9 }),
    );
  });

  it("are where an answered lookup has them", async () => {
    const parts: Uint8Array[] = [];
    const found = resultRecord(0);
    found.set(build(structs.ResultRecord, { code: 0 }).subarray(0, 4));
    const slice = build(structs.SliceRecord, { member: 11, bytes: 102n });
    const keys = decision.encodeKeys(["gone", "found"]);
    const answer = Results.empty(2);
    answer.setCode(0, 3);
    answer.setRecord(1, found);
    const options = {
      clock: createSystemClock(),
      sliceBytesMax: 1024,
      lanes: 1,
      patienceMs: 0,
      decisions: {
        groupByOwner: () => [{ member: 1, indexes: Uint32Array.of(0, 1), keys }],
        plan: () => new Uint8Array(slice),
      },
      calls: {
        view: { epoch: 1n, selfId: 1 },
        askOwner: async () => ({ t: "results", results: answer }),
      },
      reply: (payload: Uint8Array) => parts.push(payload),
    };
    const blobs = new Uint8Array(8 + 16);
    new DataView(blobs.buffer).setUint32(0, 1, true);
    new DataView(blobs.buffer).setUint32(4, 2, true);
    const question: PortMessage = {
      id: 1n,
      op: constants.Op.lookup,
      flags: 0,
      code: 0,
      count: 2,
      args: [0n, 0n, 0n, 0n],
      payload: Buffer.concat([keys, blobs]),
    };
    // Only what a lookup of one owner calls.
    const given = options as unknown as LookupOptions;
    await startLookup(question, given, () => {}, new AbortController().signal);
    const records = [];
    for (const part of parts) {
      const head = fieldsOf(structs.LookupReply, part);
      const each = structs.FoundRecord?.bytes ?? 0;
      let at = structs.LookupReply?.bytes ?? 0;
      const messagesAt = at + Number(head.foundCount) * each + Number(head.sliceCount) * slice.length;
      expect(part.length).toBe(messagesAt + Number(head.messageBytes));
      for (let n = 0; n < Number(head.foundCount); n++, at += each) {
        const record = part.subarray(at, at + each);
        const fields = fieldsOf(structs.FoundRecord, record);
        const start = messagesAt + Number(fields.messageOffset);
        const message = Buffer.from(part.subarray(start, start + Number(fields.messageBytes))).toString();
        const result = record.subarray(structs.FoundRecord?.fields.result?.offset);
        records.push({ keyIndex: fields.keyIndex, code: fields.code, message, result });
      }
      if (Number(head.sliceCount) > 0) {
        expect(fieldsOf(structs.SliceRecord, part.subarray(at))).toMatchObject({
          keyIndex: 1n,
          member: 11n,
          bytes: 102n,
        });
      }
    }
    records.sort((a, b) => Number(a.keyIndex) - Number(b.keyIndex));
    expect(records[0]).toMatchObject({ keyIndex: 0n, code: 3n, message: expect.stringContaining("no object is set") });
    expect(records[1]).toMatchObject({ keyIndex: 1n, code: 0n, message: "", result: found });
  });

  it("are where the sidecar's figures are read", async () => {
    const figures = {
      arenaBytes: 1n,
      arenaUsedBytes: 2n,
      objects: 3n,
      sessions: 4n,
      spillBytes: 8n,
      spilledBytes: 9n,
      spilledObjects: 10n,
      slots: 12n,
      usedSlots: 13n,
      tableBytes: 14n,
      indexBytes: 15n,
      spilledIndexBytes: 16n,
      evictedMemoryFull: 17n,
      evictedTableFull: 18n,
      evictedTierFull: 19n,
    };
    let deliver: (message: PortMessage) => void = () => {};
    const port = {
      onMessage: (handler: typeof deliver) => {
        deliver = handler;
      },
      onClose: () => {},
      send: (message: PortMessage) => {
        const payload = build(structs.SidecarStats, { ...figures, holds: 5n, transfers: 6n, transferredBytes: 7n });
        queueMicrotask(() => deliver({ ...message, flags: constants.FLAG_REPLY, payload }));
      },
    };
    // Only what one question calls.
    const link = new SidecarLink(port as unknown as SidecarPort, { clock: createSystemClock(), workerAddress: "w" });
    link.attach(
      () => {},
      () => {},
    );
    expect(await link.stats(1_000)).toMatchObject(figures);
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
    expect([flag("existed"), flag("otherFamily")]).toEqual([decision.FLAG_EXISTED, decision.FLAG_OTHER_FAMILY]);
    const limit = (name: string): number | undefined =>
      Object.entries(limits).find(([each]) => camel(each) === name)?.[1];
    expect([limit("keysPerCallMax"), limit("keysPerQueryMax")]).toEqual([10_000, 100_000]);
  });

  it("exports the record sizes that TypeScript names", () => {
    const exported = layoutOf().structs;
    for (const [name, bytes] of Object.entries(sizes)) {
      expect([name, exported[name]?.bytes]).toEqual([name, bytes]);
    }
  });

  it("exports every field at the header's place", () => {
    const exported = layoutOf().structs;
    expect(Object.keys(exported).length).toBeGreaterThan(12);
    for (const [name, { bytes, fields }] of Object.entries(exported)) {
      const { reserved, ...named } = structs[name]?.fields ?? {};
      expect([name, bytes, fields]).toEqual([name, structs[name]?.bytes, named]);
    }
  });
});
