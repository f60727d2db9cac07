/**
 * Goal: dist/decisions.wasm can run anywhere: it imports nothing. And native/generated/key_rule.h, from which the
 * sidecar checks keys, says the same as the module.
 * Method: ask the compiled module for its imports; generate the header again and compare bytes.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { read, root } from "./sources.js";

describe("decisions.wasm", () => {
  it("has no imports", () => {
    const module = new WebAssembly.Module(readFileSync(join(root, "dist/decisions.wasm")));
    expect(WebAssembly.Module.imports(module)).toEqual([]);
  });

  it("gives the key rule that native code was built with", () => {
    const folder = mkdtempSync(join(tmpdir(), "hbmesh-key-rule-"));
    try {
      const header = join(folder, "key_rule.h");
      const wasm = join(root, "dist/decisions.wasm");
      execFileSync(process.execPath, ["scripts/generate-key-rule.mjs", wasm, header], { cwd: root });
      expect(readFileSync(header, "utf8")).toBe(read("native/generated/key_rule.h"));
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
