/**
 * Binding a worker to NUMA nodes: both of its processes run under numactl(8), whose binding a child inherits. What
 * numactl would refuse with a warning only, or after the worker has begun to start, is refused here by a sentence.
 */
import { accessSync, constants, existsSync, readFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { HbmeshError, StatusCode } from "../base/errors.js";

export interface NumaOptions {
  /** Nodes as in "0", "0,1" or "0-3". */
  cpunodebind?: string;
  /** Memory from the node on which the process runs. */
  localalloc?: boolean;
}

/** What there is to look at; tests pass their own. */
export interface NumaHost {
  /** Where the kernel tells of its nodes. */
  nodesFolder: string;
  /** Folders with programs, as in $PATH. */
  path: string;
}

const thisHost = (): NumaHost => ({ nodesFolder: "/sys/devices/system/node", path: process.env.PATH ?? "" });

/**
 * The words before the program that is to be bound: none, or numactl and its options. Throws INVALID or NOT_READY,
 * naming what the host has or lacks.
 */
export function numaPrefix(options: NumaOptions, host: NumaHost = thisHost()): string[] {
  const { cpunodebind, localalloc = false } = options;
  if (cpunodebind === undefined && !localalloc) {
    return [];
  }
  if (!existsSync(join(host.nodesFolder, "online"))) {
    throw new HbmeshError(
      StatusCode.NOT_SUPPORTED,
      "the kernel of this host has no NUMA nodes to bind to; start without --cpunodebind and --localalloc",
    );
  }
  const nodes = cpunodebind === undefined ? [] : parseList(cpunodebind);
  const online = parseList(readFileSync(join(host.nodesFolder, "online"), "utf8").trim()) ?? [];
  if (nodes === undefined) {
    throw new HbmeshError(
      StatusCode.INVALID,
      `--cpunodebind takes NUMA nodes, as in 0, 0,1 or 0-3, and not "${cpunodebind}"`,
    );
  }
  for (const node of nodes) {
    if (!online.includes(node)) {
      throw new HbmeshError(
        StatusCode.INVALID,
        `--cpunodebind ${cpunodebind}: this host has no NUMA node ${node}; it has ${online.join(", ")}`,
      );
    }
    if (readFileSync(join(host.nodesFolder, `node${node}`, "cpulist"), "utf8").trim() === "") {
      throw new HbmeshError(
        StatusCode.INVALID,
        `--cpunodebind ${cpunodebind}: NUMA node ${node} has memory but no CPUs`,
      );
    }
  }
  return [
    findProgram(host.path),
    ...(nodes.length === 0 ? [] : [`--cpunodebind=${nodes.join(",")}`]),
    ...(localalloc ? ["--localalloc"] : []),
    "--",
  ];
}

function findProgram(path: string): string {
  for (const folder of path.split(delimiter)) {
    const program = join(folder, "numactl");
    try {
      accessSync(program, constants.X_OK);
      return program;
    } catch {
      // Not in this folder.
    }
  }
  throw new HbmeshError(
    StatusCode.NOT_READY,
    "binding to NUMA nodes takes the program numactl, which is not installed: apt-get install numactl",
  );
}

/** "0,2-4": 0, 2, 3, 4. Undefined for something else. */
function parseList(text: string): number[] | undefined {
  const nodes: number[] = [];
  for (const part of text.split(",")) {
    const match = /^(\d{1,4})(?:-(\d{1,4}))?$/.exec(part.trim());
    if (match === null) {
      return undefined;
    }
    const first = Number(match[1]);
    const last = match[2] === undefined ? first : Number(match[2]);
    for (let node = first; node <= last; node += 1) {
      nodes.push(node);
    }
  }
  return nodes.length === 0 ? undefined : nodes;
}
