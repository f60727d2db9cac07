/**
 * Goal: dist/decisions.wasm can run anywhere: it imports nothing. And native/generated/key_rule.h, from which the sidecar
 * checks keys, says the same as the module.
 * Method: ask the compiled module for its imports; generate the header again and compare bytes.
 */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { read, root } from "./sources.js";

describe("decisions.wasm", () => {
  it("has no imports", async () => {
    const module = await WebAssembly.compile(readFileSync(join(root, "dist/decisions.wasm")));
    expect(WebAssembly.Module.imports(module)).toEqual([]);
  });

  it("gives the key rule that native code was built with", () => {
    const before = read("native/generated/key_rule.h");
    execFileSync(process.execPath, ["scripts/generate-key-rule.mjs"], { cwd: root });
    expect(read("native/generated/key_rule.h")).toBe(before);
  });
});
