/**
 * Goal: the closed table of status codes is the same in proto/, in native code and in what the addon tells TypeScript.
 * Method: parse proto/hbmesh/v1/status.proto and native/base/status.h, load the addon, and compare names and numbers.
 */
import { describe, expect, it } from "vitest";
import { StatusCode } from "../../src/base/errors.js";
import { loadAddon } from "../../src/sidecar/addon.js";
import { read } from "./sources.js";

/** "TRY_AGAIN" for kTryAgain. */
function protoName(cppName: string): string {
  return cppName
    .slice(1)
    .replace(/(?<=[a-z0-9])(?=[A-Z])/g, "_")
    .toUpperCase();
}

function protoTable(): Map<string, number> {
  const body = /enum StatusCode \{([^}]*)\}/.exec(read("proto/hbmesh/v1/status.proto"))?.[1] ?? "";
  return new Map([...body.matchAll(/^\s*([A-Z_]+) = (\d+);/gm)].map((match) => [match[1] ?? "", Number(match[2])]));
}

function nativeTable(): Map<string, number> {
  const body = /enum class StatusCode : uint32_t \{([^}]*)\}/.exec(read("native/base/status.h"))?.[1] ?? "";
  return new Map(
    [...body.matchAll(/^\s*(k[A-Za-z]+) = (\d+),/gm)].map((match) => [protoName(match[1] ?? ""), Number(match[2])]),
  );
}

describe("status codes", () => {
  it("has every code of the semantics with the numbers that users know", () => {
    const table = protoTable();
    expect(table.size).toBe(27);
    expect(table.get("OK")).toBe(0);
    expect(table.get("NOT_FOUND")).toBe(3);
    expect(table.get("TRY_AGAIN")).toBe(19);
    expect(table.get("RPC_PEER_DEAD")).toBe(1011);
    expect(table.get("KEY_ALREADY_EXISTS")).toBe(2004);
    expect(table.get("FUTURE_TIMEOUT")).toBe(5002);
  });

  it("is the same in native code", () => {
    expect(Object.fromEntries(nativeTable())).toEqual(Object.fromEntries(protoTable()));
  });

  it("is the same in the generated TypeScript", () => {
    const generated = Object.entries(StatusCode).filter(([name]) => Number.isNaN(Number(name)));
    expect(Object.fromEntries(generated)).toEqual(Object.fromEntries(protoTable()));
  });

  it("is the same in the addon that is built", () => {
    const exported = Object.entries(loadAddon().layout.statusCodes).map(([name, code]) => [
      name.startsWith("k") ? protoName(name) : name,
      code,
    ]);
    expect(Object.fromEntries(exported)).toEqual(Object.fromEntries(protoTable()));
  });
});
