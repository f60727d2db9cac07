/**
 * Goal: a worker's options are one list, which `worker`, `start` and `dev` take; limits and defaults are those of the
 * configuration; every default that --help shows is valid input; both names of a worker's address work everywhere.
 * Method: the real command tree. Its options are compared by name, and each default is parsed as if it were given.
 */
import type { Command, Option } from "commander";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { SETTING_DEFAULTS, SETTING_LIMITS } from "../../../src/base/config.js";
import { buildProgram, main } from "../../../src/cli/main.js";
import { commandsOf, unifySpelling } from "../../../src/cli/options.js";
import { givenArguments, type WorkerOptions, workerConfig } from "../../../src/cli/worker-options.js";

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

const program = buildProgram(() => {});
const commands = commandsOf(program).filter((command) => command.commands.length === 0);
const named = (name: string): Command => {
  const command = commands.find((each) => each.name() === name);
  if (command === undefined) {
    throw new Error(`no command ${name}`);
  }
  return command;
};
const optionOf = (command: Command, long: string): Option => {
  const option = command.options.find((each) => each.long === long);
  if (option === undefined) {
    throw new Error(`no option ${long}`);
  }
  return option;
};

describe("the options of a worker", () => {
  const all = named("worker").options;

  it.each(["start", "dev"])("hbmesh %s takes every one", (name) => {
    const names = named(name).options.map(({ long }) => long);
    expect(all.map(({ long }) => long).filter((long) => !names.includes(long))).toEqual([]);
  });

  it("stand in groups in --help", () => {
    const headings = ["Basics:", "Memory:", "Cluster:", "Security:", "Tuning:", "Options:"];
    const help = named("worker").helpInformation();
    expect(help.split("\n").filter((line) => /^[A-Z][a-z]+:$/.test(line))).toEqual(headings);
    const groupOf = (long: string): string | undefined => optionOf(named("worker"), long).helpGroupHeading;
    expect(groupOf("--worker_address")).toBe("Basics:");
    expect(groupOf("--spill_mb")).toBe("Memory:");
    expect(groupOf("--etcd_address")).toBe("Cluster:");
    expect(groupOf("--cluster_token_file")).toBe("Security:");
    expect(groupOf("--lanes")).toBe("Tuning:");
    // What start and dev add of their own is under none of them.
    expect(optionOf(named("start"), "--log_dir").helpGroupHeading).toBe("Options:");
  });

  it.each([
    ["--weight", "weight", 1],
    ["--devices", "devices", 1],
    ["--shared_memory_size_mb", "arenaBytes", 2 ** 20],
    ["--replica_percent", "replicaPercent", 1],
    ["--eviction_high", "evictionHighPercent", 1],
    ["--eviction_low", "evictionLowPercent", 1],
    ["--lease_ms", "leaseMs", 1],
    ["--dead_after_ms", "deadAfterMs", 1],
    ["--orphan_grace_ms", "orphanGraceMs", 1],
    ["--sidecar_hang_ms", "sidecarHangMs", 1],
    ["--slice_kb", "sliceBytesMax", 1024],
    ["--lanes", "lanes", 1],
    ["--spin_us", "spinMicros", 1],
  ] as const)("%s has the limits and the default of %s", (long, setting, unit) => {
    const option = optionOf(named("worker"), long);
    const parse = option.parseArg as (text: string, previous: unknown) => number;
    const [low, high] = SETTING_LIMITS[setting];
    expect(parse(String(low / unit), undefined)).toBe(low / unit);
    expect(parse(String(high / unit), undefined)).toBe(high / unit);
    expect(() => parse(String(high / unit + 1), undefined)).toThrow(
      `Give a whole number from ${low / unit} to ${high / unit}.`,
    );
    const settings = workerConfig({
      ...(named("worker").opts() as WorkerOptions),
      worker_address: "127.0.0.1:31501",
    });
    expect(settings[setting]).toBe(SETTING_DEFAULTS[setting]);
  });

  it("a worker of its own gets what the user wrote, with absolute paths and nothing that was left at its default", () => {
    const tree = buildProgram(() => {});
    const [worker, start] = ["worker", "start"].map((name) => tree.commands.find((each) => each.name() === name));
    start?.action(() => {});
    const flags = ["--spill_directory", "spill", "--spill_mb=5", "--no-sidecar", "--remote_h2d_device_ids", "0,1"];
    tree.parse(["start", "-w", "--worker_address", "127.0.0.1:1", ...flags, "--json"], { from: "user" });
    expect(givenArguments(start as Command, worker as Command, ["spill_mb"])).toEqual([
      "--worker_address=127.0.0.1:1",
      "--no-sidecar",
      `--spill_directory=${process.cwd()}/spill`,
      "--remote_h2d_device_ids=0,1",
    ]);
  });

  it.each([
    [["--worker_address", "127.0.0.1:1"], "The workers of hbmesh dev are at 127.0.0.1, from --port on"],
    [["--link_address=127.0.0.1:1"], "Each worker of hbmesh dev takes a free port for it"],
    [["--orphan-grace-ms", "5"], "A sidecar of hbmesh dev ends with its control process"],
    [["--metadata_address", "memory"], "--metadata_address memory is a cluster of one process: leave it out"],
    [["--eviction_low", "95"], "--eviction_low 95 is more than --eviction_high 90: give at most 90"],
    [["--spill_mb", "10"], "--spill_mb takes --spill_directory DIR"],
  ])("hbmesh dev %j: what makes no sense for its workers is refused, with a sentence", async (line, sentence) => {
    expect(await main(["dev", ...line])).toBe(2);
    expect(said).toContain(sentence);
  });

  it("more devices than connections to another worker: as many connections as there may be", () => {
    const ids = Array.from({ length: 32 }, (_, index) => index);
    const defaults = named("worker").opts() as WorkerOptions;
    const options = { ...defaults, worker_address: "127.0.0.1:1", devices: 32, remote_h2d_device_ids: ids };
    expect(workerConfig(options).lanes).toBe(16);
  });
});

describe("defaults that --help shows", () => {
  const withDefault = commands.flatMap((command) =>
    command.options
      .filter((option) => option.required && !option.hidden && option.defaultValue !== undefined)
      .map((option): [string, string, Option] => [command.name(), option.long ?? "", option]),
  );

  it("are there", () => {
    expect(withDefault.length).toBeGreaterThan(40);
  });

  it.each(withDefault)("%s %s: can be given as they are shown", (_command, _long, option) => {
    const shown = option.defaultValueDescription ?? JSON.stringify(option.defaultValue);
    const text = shown.replace(/^"(.*)"$/, "$1");
    const parse = option.parseArg ?? ((given: string): unknown => given);
    expect(parse(text, undefined as never)).toEqual(option.defaultValue);
  });
});

describe("a worker's address", () => {
  const taking = commands.filter((command) =>
    command.options.some(({ long, required }) => required && (long === "--worker" || long === "--worker_address")),
  );

  it("is an option of these", () => {
    expect(taking.map((command) => command.name()).sort()).toEqual(
      ["delete", "dev", "exist", "explain", "health", "members", "meta", "start", "status", "stop", "worker"].sort(),
    );
  });

  it.each(taking.map((command) => command.name()))("hbmesh %s takes it by both names", (name) => {
    const isShort = named(name).options.every(({ long }) => long !== "--worker_address");
    const own = isShort ? "--worker" : "--worker_address";
    for (const given of ["--worker", "--worker_address", "--worker-address"]) {
      expect(unifySpelling(program, [name, given, "127.0.0.1:1"])).toEqual([name, own, "127.0.0.1:1"]);
      expect(unifySpelling(program, [name, `${given}=127.0.0.1:1`])).toEqual([name, `${own}=127.0.0.1:1`]);
    }
  });

  it("what start starts is no address", () => {
    const line = ["start", "--worker", "--worker_address", "127.0.0.1:1"];
    expect(unifySpelling(program, line)).toEqual(line);
  });

  it("from $DS_WORKER_ADDR is checked like one that was given", async () => {
    vi.stubEnv("DS_WORKER_ADDR", "nowhere");
    expect(await main(["members"])).toBe(2);
    expect(said).toContain("DS_WORKER_ADDR");
    expect(said).toContain("give HOST:PORT, as in 10.0.0.1:31501 or [::1]:31501.");
    vi.unstubAllEnvs();
  });
});
