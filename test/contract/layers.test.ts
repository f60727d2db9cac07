/**
 * Goal: imports point down and siblings are strangers (docs/ARCHITECTURE.md).
 * Method: a table of what each folder may use; every import and include of every source is looked up in it.
 */
import { posix } from "node:path";
import { describe, expect, it } from "vitest";
import { filesWith, read } from "./sources.js";

/** Folder of src/ to the other folders that it may import. Anything that isn't here may not be. */
const typescriptLayers: Record<string, readonly string[]> = {
  gen: [],
  base: ["gen"],
  decision: ["base", "gen"],
  rpc: ["base", "gen"],
  metadata: ["rpc", "base", "gen"],
  sidecar: ["base", "gen"],
  control: ["decision", "metadata", "rpc", "sidecar", "base", "gen"],
  client: ["decision", "sidecar", "base", "gen"],
  server: ["control", "metadata", "rpc", "base", "gen"],
  bench: ["decision", "sidecar", "base", "gen"],
  sim: ["control", "decision", "metadata", "rpc", "sidecar", "base", "gen"],
  cli: ["bench", "server", "client", "control", "decision", "metadata", "rpc", "sidecar", "base", "gen"],
};

/** Folder of native/ to the other folders whose headers it may include. */
const nativeLayers: Record<string, readonly string[]> = {
  base: [],
  generated: [],
  queue: ["base"],
  device: ["base"],
  store: ["base"],
  transport: ["base"],
  sidecar: ["queue", "device", "store", "transport", "generated", "base"],
  client: ["queue", "device", "base"],
  capi: ["client", "queue", "device", "base"],
  addon: ["client", "queue", "device", "base"],
  probe: ["base"],
  bench: ["capi", "transport", "base"],
  fuzz: ["sidecar", "client", "queue", "device", "store", "transport", "base"],
};

/** Decided exceptions, each with its reason. */
const allowed: Record<string, string> = {
  "native/client/session_connect.h sidecar": "the session protocol is stated once, for both ends",
  "native/client/region_session.cc sidecar": "the session protocol is stated once, for both ends",
  "native/client/fake_sidecar.h sidecar": "the session protocol is stated once, for both ends",
  "native/transport/transport_bench.cc device": "a bench, which shows device copies and transfers side by side",
};

describe("layers", () => {
  it("imports of src/ point down", () => {
    const wrong: string[] = [];
    for (const name of filesWith("src", ".ts")) {
      const folder = name.split("/")[1] ?? "";
      for (const match of read(name).matchAll(/(?:from|import)\s*\(?\s*"(\.[^"]+)"/g)) {
        const target = posix.normalize(posix.join(posix.dirname(name), match[1] ?? ""));
        const targetFolder = target.split("/")[1] ?? "";
        const mayUse = typescriptLayers[folder] ?? [];
        if (target.startsWith("src/") && targetFolder !== folder && !mayUse.includes(targetFolder)) {
          wrong.push(`${name} imports ${target}`);
        }
      }
    }
    expect(wrong).toEqual([]);
  });

  it("every folder of src/ and native/ is in the tables above", () => {
    const folders = (top: string, ...endings: string[]): string[] => [
      ...new Set(filesWith(top, ...endings).map((name) => name.split("/")[1] ?? "")),
    ];
    expect(folders("src", ".ts").filter((folder) => typescriptLayers[folder] === undefined)).toEqual([]);
    expect(folders("native", ".h", ".cc").filter((folder) => nativeLayers[folder] === undefined)).toEqual([]);
  });

  it("includes of native/ point down", () => {
    const wrong: string[] = [];
    for (const name of filesWith("native", ".h", ".cc")) {
      const folder = name.split("/")[1] ?? "";
      for (const match of read(name).matchAll(/^#include "([^"]+)"/gm)) {
        const target = match[1] ?? "";
        const targetFolder = target.split("/")[0] ?? "";
        const mayUse = nativeLayers[folder] ?? [];
        const exception = allowed[`${name} ${targetFolder}`] !== undefined;
        if (targetFolder !== folder && !mayUse.includes(targetFolder) && !exception) {
          wrong.push(`${name} includes ${target}`);
        }
      }
    }
    expect(wrong).toEqual([]);
  });

  it("the Wasm sources import nothing but each other, and their module imports nothing", () => {
    const wrong = filesWith("asm", ".ts").flatMap((name) =>
      [...read(name).matchAll(/from\s+"([^"]+)"/g)]
        .filter((match) => !(match[1] ?? "").startsWith("./"))
        .map((match) => `${name} imports ${match[1]}`),
    );
    expect(wrong).toEqual([]);
  });
});
