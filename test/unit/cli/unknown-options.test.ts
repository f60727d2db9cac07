/**
 * Goal: an option that a command doesn't have is refused by its name, with the nearest one; those that it has pass in
 * both spellings, and values are never taken for options. Method: the real command tree, through main(), with standard
 * error caught; commands of their own for the values.
 */
import { Command } from "commander";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { main } from "../../../src/cli/main.js";
import { unifySpelling } from "../../../src/cli/options.js";
import { refuseUnknownOptions } from "../../../src/cli/unknown-options.js";

let said = "";

beforeEach(() => {
  said = "";
  vi.spyOn(process.stderr, "write").mockImplementation((text) => {
    said += String(text);
    return true;
  });
});

afterEach(() => {
  vi.restoreAllMocks();
});

describe("unknown options", () => {
  it.each([
    [["start", "-w", "--worker_adress", "127.0.0.1:1"], "--worker_adress", "--worker_address"],
    [["start", "-w", "--worker-adress=127.0.0.1:1"], "--worker-adress", "--worker_address"],
    [["start", "-w", "--enable_batch_get", "true"], "--enable_batch_get", "--enable_worker_worker_batch_get"],
    [["start", "--huge_tlb", "true", "-w"], "--huge_tlb", "--enable_huge_tlb"],
    [["stop", "--address", "127.0.0.1:1"], "--address", "--worker_address"],
    [["status", "--workr", "127.0.0.1:1"], "--workr", "--worker_address"],
    [["worker", "--etcd_adress", "x"], "--etcd_adress", "--etcd_address"],
    [["members", "--jason"], "--jason", "--json"],
    [["dev", "--spill-directry", "x"], "--spill-directry", "--spill_directory"],
    [["bench", "hetero", "--get-multiplyer", "2"], "--get-multiplyer", "--get-multiplier"],
    [["exist", "-x", "key"], "-x", "--"],
  ])("%j", async (line, name, nearest) => {
    expect(await main(line)).toBe(2);
    expect(said).toContain(`unknown option '${name}'\n(Did you mean ${nearest}`);
  });

  it("a value is never repeated", async () => {
    expect(await main(["members", "--tokn=secret"])).toBe(2);
    expect(said).toContain("unknown option '--tokn'");
    expect(said).not.toContain("secret");
  });

  it("values that look like options, operands behind -- and short options with their value pass", () => {
    const program = new Command("x");
    const sub = program.command("sub").option("-n, --name <N>", "").option("--flag", "").argument("[rest...]");
    sub.option("--with_value <V>", "");
    const pass = (...line: string[]): void => refuseUnknownOptions(program, unifySpelling(program, line));
    expect(() => pass("sub", "--name", "--other", "--flag")).not.toThrow();
    expect(() => pass("sub", "-n5", "-n", "-5", "--with-value=--x")).not.toThrow();
    expect(() => pass("sub", "--with-value", "-x", "operand", "-")).not.toThrow();
    expect(() => pass("sub", "--", "--other")).not.toThrow();
    expect(() => pass("sub", "--help")).not.toThrow();
    expect(() => pass("sub", "--flag", "--other")).toThrow("unknown option '--other'");
    expect(() => pass("--name", "5")).toThrow("unknown option '--name'");
  });

  it("start without -w, and what hbmesh can't do, is said", async () => {
    expect(await main(["start", "--worker_address", "127.0.0.1:31501"])).toBe(2);
    expect(said).toContain("give -w");
    expect(await main(["start", "-w", "--worker_address", "127.0.0.1:31501", "--arena_per_tenant", "16"])).toBe(2);
    expect(said).toContain("keeps all objects of a worker in one arena: give 1");
    const ids = ["start", "-w", "--worker_address", "127.0.0.1:31501", "--remote_h2d_device_ids"];
    expect(await main([...ids, "0,0"])).toBe(2);
    expect(said).toContain("device ids that differ from each other");
    expect(await main([...ids, "0,8"])).toBe(1);
    expect(said).toContain('remoteH2dDeviceIds must name devices of this worker, 0 to 7; 8 is none; it is "0,8"');
  });
});
