/**
 * Goal: what a worker keeps for its own user can be read by that user while it runs, is another one each time, and has
 * no name in any folder. Method: made and read in this process, which is a worker and its user at once.
 */
import { closeSync, mkdtempSync, openSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { createOperatorProof, readOperatorProof } from "../../../src/base/operator-proof.js";

describe("the proof of a worker's own user", () => {
  it("is read from the process, and is gone when it is closed", () => {
    expect(readOperatorProof(process.pid)).toBeUndefined();
    const proof = createOperatorProof();
    const shown = readOperatorProof(process.pid) ?? "";
    expect(shown).toMatch(/^[0-9a-f]{64}$/);
    expect(proof?.token.matches(shown)).toBe(true);
    expect(proof?.token.matches(`${shown}0`)).toBe(false);
    proof?.close();
    expect(readOperatorProof(process.pid)).toBeUndefined();
    const next = createOperatorProof();
    expect(next?.token.matches(shown)).toBe(false);
    next?.close();
  });

  it("leaves no file, takes the next folder where it may make none, and goes without where there is none", () => {
    const folder = mkdtempSync(join(tmpdir(), "hbmesh-proof-"));
    const proof = createOperatorProof([join(folder, "missing"), folder]);
    expect(readdirSync(folder)).toEqual([]);
    expect(proof?.token.matches(readOperatorProof(process.pid) ?? "")).toBe(true);
    proof?.close();
    expect(createOperatorProof([join(folder, "missing")])).toBeUndefined();
    rmSync(folder, { recursive: true });
  });

  it("is no file that has a name", () => {
    const folder = mkdtempSync(join(tmpdir(), "hbmesh-operator-"));
    const fd = openSync(join(folder, "token"), "wx+");
    expect(readOperatorProof(process.pid)).toBeUndefined();
    rmSync(folder, { recursive: true });
    closeSync(fd);
  });

  it("of a process that isn't there is undefined", () => {
    expect(readOperatorProof(2 ** 22 + 1)).toBeUndefined();
  });
});
