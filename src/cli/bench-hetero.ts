/**
 * `hbmesh bench hetero`: arguments, rows as its users know them, and the page. The benchmark itself is in src/bench.
 */
import { writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { type Command, Option } from "commander";
import { HbmeshError } from "../base/errors.js";
import { caseOfName, type HeteroOptions, type HeteroResult, runHetero } from "../bench/hetero.js";
import { heteroCases } from "../bench/hetero-cases.js";
import { heteroHtml } from "../bench/hetero-html.js";
import { csvHead, csvLine, type HeteroRow } from "../bench/hetero-rows.js";
import { withBenchContext } from "./bench-context.js";
import { usageError, wholeNumber } from "./options.js";
import { toJson } from "./table.js";

interface HeteroFlags {
  ip?: string;
  port?: number;
  setOnly?: boolean;
  getOnly?: boolean;
  keys: string;
  warmup: boolean;
  name?: string;
  deviceid: number;
  getMultiplier: number;
  showAllRequestTimes?: boolean;
  iterations?: number;
  transport: "tcp" | "shm";
  memory_mb: number;
  json?: boolean;
  html?: string;
}

const usualPort = 31_501;

const help = `
Client processes and threads on the C API set keys from HBM and get them into HBM again, as serving engines do. Without -i it
starts two workers for each case: sets at worker 1, gets at worker 1 (mget_h2d_local) and at worker 2 (mget_h2d), compares all bytes,
and deletes. With -i it uses that worker. A row a step on stdout:

  operate,ops,total_MB,...,tps   as other benchmarks of this kind print them; throughput_MB/s is the size of a request by its
                                 mean latency (first request left out) times the processes; latencies are ms, MB are 2^20 bytes
  wall_MB/s                      all bytes by the time from the first start to the last end
  limit_MB/s, ratio, against     what this machine can do, measured right after: one copy with as many threads, or raw sockets with as
                                 many connections (lanes); ratio is wall clock by limit
Devices are simulated unless the worker has others. HBMESH_TOKEN is the token of a worker that wants one.

Two nodes, with workers running:
  node1$ hbmesh bench hetero -i 192.168.0.1 -p 31501 --set-only --no-warmup -n 1process_1thread_32key_1024KB
  node2$ hbmesh bench hetero -i 192.168.0.2 -p 31501 --get-only --no-warmup -n 1process_1thread_32key_1024KB     (with its keys.json)
After a get run the data is removed.

Examples:
  $ hbmesh bench hetero -n 1process_1thread_32key_72KB
  $ hbmesh bench hetero --html hetero.html                   every case; some minutes
  $ hbmesh bench hetero --transport shm --json > shm.json

Cases (-n), processes, threads, keys, blobs x size:
${heteroCases.map((each) => `  ${each.name.padEnd(32)} ${each.processes}, ${each.threads}, ${each.keys}, ${each.blobs} x ${each.blobBytes / 1024} KB, ${each.iterations} iterations`).join("\n")}

Exit codes: 0 all bytes arrived, 1 anything else, 2 wrong arguments, 130 interrupted.`;

function optionsOf(flags: HeteroFlags): HeteroOptions {
  if (flags.setOnly === true && flags.getOnly === true) {
    throw usageError("give --set-only or --get-only, not both; without either it sets and gets");
  }
  const mode = flags.setOnly === true ? "set" : flags.getOnly === true ? "get" : "all";
  if (mode !== "all" && flags.ip === undefined) {
    throw usageError(`--${mode}-only needs -i IP: its own workers end with it, and the data with them`);
  }
  if (mode !== "all" && flags.name === undefined) {
    throw usageError(`--${mode}-only needs -n NAME: the data of all cases together is too much for most workers`);
  }
  if (flags.port !== undefined && flags.ip === undefined) {
    throw usageError("-p needs -i IP: without it workers are started on free ports");
  }
  return {
    cases: flags.name === undefined ? heteroCases : [caseNamed(flags.name)],
    ...(flags.ip === undefined ? {} : { workerAddress: `${flags.ip}:${flags.port ?? usualPort}` }),
    mode,
    keysFile: flags.keys,
    warmup: flags.warmup,
    firstDevice: flags.deviceid,
    getMultiplier: flags.getMultiplier,
    ...(flags.iterations === undefined ? {} : { iterationsMax: flags.iterations }),
    withAllLatencies: flags.showAllRequestTimes === true,
    transport: flags.transport,
    objectBytesMax: flags.memory_mb * 2 ** 20,
  };
}

function caseNamed(name: string): HeteroOptions["cases"][number] {
  try {
    return caseOfName(name, heteroCases);
  } catch (error) {
    throw usageError(HbmeshError.from(error).message);
  }
}

function printRow(row: HeteroRow): void {
  process.stdout.write(`${csvLine(row)}\n`);
  if (row.allLatenciesMs !== undefined) {
    const name = row.operate === "mset_d2h" ? "Set" : "Get";
    process.stdout.write(`${name} Request Latencies: [${row.allLatenciesMs.join(", ")}]\n`);
  }
}

function machineFacts(): { cores: number; model: string } {
  const all = cpus();
  return { cores: all.length, model: all[0]?.model.trim() ?? "unknown" };
}

function writePage(file: string, result: HeteroResult, options: HeteroOptions): void {
  const { cores, model } = machineFacts();
  const workers =
    options.workerAddress === undefined
      ? `two workers on this machine, ${options.transport} between them`
      : `worker ${options.workerAddress}`;
  const facts = [`${new Date().toISOString().slice(0, 16).replace("T", " ")} UTC`, `${cores} cores, ${model}`, workers];
  try {
    writeFileSync(file, heteroHtml(result, [facts.join("; ")]));
  } catch (error) {
    throw usageError(`--html ${file} can't be written: ${(error as Error).message}`);
  }
}

async function hetero(flags: HeteroFlags): Promise<void> {
  const options = optionsOf(flags);
  const asText = flags.json !== true;
  await withBenchContext(async (context) => {
    if (asText) {
      process.stdout.write(`${csvHead}\n`);
    }
    const result = await runHetero(options, context, asText ? printRow : () => undefined);
    if (flags.html !== undefined) {
      writePage(flags.html, result, options);
      context.progress(`${flags.html} has the plots`);
    }
    if (!asText) {
      process.stdout.write(`${toJson({ machine: machineFacts(), ...result })}\n`);
    }
  });
}

export function addHeteroCommand(bench: Command): void {
  bench
    .command("hetero")
    .description("Set and get between HBM and host objects, in the named cases that users of such caches know.")
    .option("-i, --ip <IP>", "the worker to use; without it two are started for each case")
    .option("-p, --port <PORT>", `its port (default: ${usualPort})`, wholeNumber(1, 65_535))
    .option("--set-only", "only set, and write the keys to -k")
    .option("--get-only", "only get the keys of -k, then delete them")
    .option("-k, --keys <FILE>", "where a set run leaves the keys for a get run", "./keys.json")
    .option("--no-warmup", "don't set and get once before the clock starts")
    .option("-n, --name <NAME>", "only this case; see below")
    .option("-d, --deviceid <N>", "first device; further processes take the next ones", wholeNumber(0, 63), 3)
    .option("--get-multiplier <N>", "get everything so many times", wholeNumber(1, 10_000), 1)
    .option("--show-all-request-times", "also print the latency of each call, in ms")
    .option("--iterations <N>", "fewer calls of each thread than the case has", wholeNumber(1, 1_000_000))
    .addOption(
      new Option("--transport <NAME>", "between its own two workers; tcp makes them behave as two hosts")
        .choices(["tcp", "shm"])
        .default("tcp"),
    )
    .option(
      "--memory_mb <N>",
      "objects of a case at its own workers; fewer iterations where it would be more, at least one",
      wholeNumber(1, 16_777_216),
      2_048,
    )
    .option("--json", "one JSON document instead of rows; progress stays on stderr")
    .option("--html <FILE>", "also write one page with plots of throughput and latency beside the limit")
    .addHelpText("after", help)
    .action(hetero);
}
