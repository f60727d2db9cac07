/**
 * Goal: binding to NUMA nodes says what numactl is to be called with, and names what a host lacks before anything is
 * started. Method: folders as the kernel lays them out, with two nodes, one without CPUs, or none; a program that is
 * there or isn't.
 */
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { StatusCode } from "../../../src/base/errors.js";
import { numaPrefix } from "../../../src/cli/numa.js";

describe("numaPrefix", () => {
  let folder: string;
  let host: { nodesFolder: string; path: string };

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "hbmesh-numa-"));
    host = { nodesFolder: join(folder, "node"), path: join(folder, "bin") };
    for (const [node, cpus] of [
      ["node0", "0-3"],
      ["node1", "4-7"],
      ["node2", ""],
    ] as const) {
      mkdirSync(join(host.nodesFolder, node), { recursive: true });
      writeFileSync(join(host.nodesFolder, node, "cpulist"), `${cpus}\n`);
    }
    writeFileSync(join(host.nodesFolder, "online"), "0-2\n");
    mkdirSync(host.path);
    writeFileSync(join(host.path, "numactl"), "#!/bin/sh\n");
    chmodSync(join(host.path, "numactl"), 0o755);
  });

  afterEach(() => {
    rmSync(folder, { recursive: true });
  });

  it("nothing asked, nothing done, also where there is no numactl", () => {
    expect(numaPrefix({}, { nodesFolder: "/none", path: "/none" })).toEqual([]);
  });

  it("nodes and memory", () => {
    const numactl = join(host.path, "numactl");
    expect(numaPrefix({ cpunodebind: "1", localalloc: true }, host)).toEqual([
      numactl,
      "--cpunodebind=1",
      "--localalloc",
      "--",
    ]);
    expect(numaPrefix({ cpunodebind: "0-1" }, host)).toEqual([numactl, "--cpunodebind=0,1", "--"]);
    expect(numaPrefix({ localalloc: true }, host)).toEqual([numactl, "--localalloc", "--"]);
  });

  it.each([
    ["3", StatusCode.INVALID, "this host has no NUMA node 3; it has 0, 1, 2"],
    ["0,7", StatusCode.INVALID, "this host has no NUMA node 7"],
    ["2", StatusCode.INVALID, "NUMA node 2 has memory but no CPUs"],
    ["first", StatusCode.INVALID, 'takes NUMA nodes, as in 0, 0,1 or 0-3, and not "first"'],
    ["-1", StatusCode.INVALID, "takes NUMA nodes"],
    ["1-0", StatusCode.INVALID, "takes NUMA nodes"],
  ])("--cpunodebind %s is refused", (cpunodebind, code, text) => {
    expect(() => numaPrefix({ cpunodebind }, host)).toThrow(
      expect.objectContaining({ code, message: expect.stringContaining(text) }),
    );
  });

  it("a host without nodes, and one without numactl", () => {
    expect(() => numaPrefix({ localalloc: true }, { ...host, nodesFolder: "/none" })).toThrow(
      expect.objectContaining({
        code: StatusCode.NOT_SUPPORTED,
        message: expect.stringContaining("start without --cpunodebind and --localalloc"),
      }),
    );
    expect(() => numaPrefix({ localalloc: true }, { ...host, path: "/none" })).toThrow(
      expect.objectContaining({
        code: StatusCode.NOT_READY,
        message: expect.stringContaining("apt-get install numactl"),
      }),
    );
  });
});
