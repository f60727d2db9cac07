/**
 * `hbmesh bench link`: arguments and output of perftest for a transport of hbmesh. The measuring is in
 * src/bench/link.ts.
 */
import { type Command, InvalidArgumentError, Option } from "commander";
import {
  type BandwidthRow,
  bandwidthHead,
  bandwidthLine,
  inUnit,
  type LatencyRow,
  type LinkLimit,
  type LinkOptions,
  latencyHead,
  latencyLine,
  measureBandwidth,
  measureLatency,
  serveLink,
} from "../bench/link.js";
import { withBenchContext } from "./bench-context.js";
import { host, parseSize, usageError, wholeNumber } from "./options.js";
import { toJson } from "./table.js";

interface LinkFlags {
  port: number;
  size?: number;
  all?: boolean;
  iters?: number;
  qp: number;
  run_infinitely?: boolean;
  duration: number;
  report_gbits?: boolean;
  latency?: boolean;
  read?: boolean;
  transport: "tcp" | "shm";
  txDepth: number;
  json?: boolean;
}

/** perftest's defaults: 64 KiB for bandwidth, 2 bytes for latency, 1,000 transfers; -a is from 2 bytes to 8 MiB. */
const usualBytes = { bandwidth: 65_536, latency: 2 };
const usualIterations = 1_000;
const allSizes = Array.from({ length: 23 }, (_, power) => 2 ** (power + 1));
const sizeBytesMax = 2 ** 30;
const rule = "-".repeat(111);

const help = `
As ib_write_bw, ib_read_bw and ib_write_lat do for verbs: one side waits, the other names it and measures, and prints their table.
Between hosts the transport is tcp; shm is for two processes of one host. No worker is needed.

  host1$ hbmesh bench link
  host2$ hbmesh bench link 192.168.0.1                      writes of 64 KiB
  host2$ hbmesh bench link 192.168.0.1 -a -q 4              every size from 2 bytes to 8 MiB, on 4 connections
  host2$ hbmesh bench link 192.168.0.1 --run_infinitely     until Ctrl-C, a row every -D seconds
  host2$ hbmesh bench link 192.168.0.1 --latency

The waiting side takes the same flags and ignores all but -p, so that both can be called alike; it ends with its client. Anyone who reaches
its port meanwhile may use the memory that it offers, which holds nothing. BW peak is that of the best tenth of the run. Latency
is half of the round trip for writes, all of it for reads. MB are 2^20 bytes. Below the table: raw sockets with as many connections
between the same hosts, or for shm one copy with as many threads.

Examples:
  $ hbmesh bench link & hbmesh bench link 127.0.0.1 -a
  $ hbmesh bench link --transport shm & hbmesh bench link 127.0.0.1 --transport shm -s 1M

Exit codes: 0 it measured, 1 it could not (the cause is on stderr), 2 wrong arguments, 130 interrupted (0 with --run_infinitely).`;

function transferBytes(text: string): number {
  const bytes = parseSize(text);
  if (bytes > sizeBytesMax) {
    throw new InvalidArgumentError("Give a size of at most 1G.");
  }
  return bytes;
}

function optionsOf(host: string, flags: LinkFlags): LinkOptions {
  if (flags.all === true && flags.size !== undefined) {
    throw usageError("give -s SIZE or -a, not both");
  }
  if (flags.run_infinitely === true && (flags.all === true || flags.latency === true || flags.json === true)) {
    throw usageError("--run_infinitely takes one size and bandwidth only: leave out -a, --latency and --json");
  }
  if (flags.run_infinitely === true && flags.iters !== undefined) {
    throw usageError("give -n or --run_infinitely, not both");
  }
  const usual = flags.latency === true ? usualBytes.latency : usualBytes.bandwidth;
  return {
    host,
    port: flags.port,
    transport: flags.transport,
    op: flags.read === true ? "read" : "write",
    sizes: flags.all === true ? allSizes : [flags.size ?? usual],
    iterations: flags.iters ?? usualIterations,
    lanes: flags.qp,
    depth: flags.txDepth,
    intervalMs: flags.run_infinitely === true ? flags.duration * 1000 : 0,
  };
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

async function serve(flags: LinkFlags): Promise<void> {
  const told = {
    listening: (port: number) => print(`* Waiting for client to connect on port ${port} ... *`),
    client: () => print("a client came"),
  };
  await withBenchContext(async ({ signal }) => {
    await serveLink(flags.port, told, signal);
    signal.throwIfAborted();
  });
}

function describe(options: LinkOptions, what: string): string {
  const lanes = options.transport === "shm" ? "copy threads" : "connections";
  return `${rule}\n   ${what}: ${options.op}, transport ${options.transport}, ${options.lanes} ${lanes}, to ${options.host}\n${rule}`;
}

function limitLines(limit: LinkLimit, rows: readonly BandwidthRow[], gbits: boolean): string {
  const best = rows.reduce((one, other) => (other.average > one.average ? other : one));
  const unit = gbits ? "Gb/sec" : "MB/sec";
  const percent = ((best.average / limit.average) * 100).toFixed(0);
  return (
    `${rule}\n limit: ${limit.against}, ${limit.lanes}: ${inUnit(limit.average, gbits).toFixed(2)} ${unit}; ` +
    `${best.bytes} bytes reach ${percent}%`
  );
}

async function runLatency(options: LinkOptions, asText: boolean, stop: AbortSignal): Promise<void> {
  const rows: LatencyRow[] = [];
  if (asText) {
    print(`${describe(options, "Latency")}\n${latencyHead}`);
  }
  const onRow = (row: LatencyRow): void => {
    rows.push(row);
    if (asText) {
      print(latencyLine(row));
    }
  };
  await measureLatency(options, onRow, stop);
  print(asText ? rule : toJson({ ...options, test: "latency", rows }));
}

async function runBandwidth(options: LinkOptions, flags: LinkFlags, stop: AbortSignal): Promise<void> {
  const gbits = flags.report_gbits === true;
  const asText = flags.json !== true;
  const rows: BandwidthRow[] = [];
  if (asText) {
    print(`${describe(options, "Bandwidth")}\n${bandwidthHead(gbits)}`);
  }
  const onRow = (row: BandwidthRow): void => {
    if (options.intervalMs === 0) {
      rows.push(row);
    }
    if (asText) {
      print(bandwidthLine(row, gbits));
    }
  };
  const limit = await measureBandwidth(options, onRow, stop);
  if (!asText) {
    print(toJson({ ...options, test: "bandwidth", rows, limit }));
  } else if (limit !== undefined) {
    print(`${limitLines(limit, rows, gbits)}\n${rule}`);
  }
}

async function link(host: string | undefined, flags: LinkFlags): Promise<void> {
  if (host === undefined) {
    await serve(flags);
    return;
  }
  const options = optionsOf(host, flags);
  await withBenchContext(async ({ signal }) => {
    if (flags.latency === true) {
      await runLatency(options, flags.json !== true, signal);
    } else {
      await runBandwidth(options, flags, signal);
    }
    if (options.intervalMs === 0) {
      signal.throwIfAborted();
    }
  });
}

export function addLinkCommand(bench: Command): void {
  bench
    .command("link")
    .description(
      "Measure a transport between two hosts, with the output of perftest; without HOST: wait for the other side.",
    )
    .argument("[HOST]", "IP address or name of the other side", host)
    .option("-p, --port <PORT>", "where the two meet", wholeNumber(1, 65_535), 18_515)
    .option(
      "-s, --size <SIZE>",
      "bytes of a transfer, as in 65536 or 64K (default: 65536, --latency: 2)",
      transferBytes,
    )
    .option("-a, --all", "every power of two from 2 bytes to 8 MiB")
    .option("-n, --iters <N>", "transfers of each size (default: 1000)", wholeNumber(5, 100_000_000))
    .option("-q, --qp <N>", "connections, or copy threads of shm", wholeNumber(1, 16), 1)
    .option("--run_infinitely", "until Ctrl-C, a row every -D seconds")
    .option("-D, --duration <SECONDS>", "between the rows of --run_infinitely", wholeNumber(1, 86_400), 5)
    .option("--report_gbits", "Gb/sec instead of MB/sec")
    .option("--latency", "latency instead of bandwidth, one transfer after the other")
    .option("--read", "read from the other side instead of writing to it")
    .addOption(new Option("--transport <NAME>", "which one").choices(["tcp", "shm"]).default("tcp"))
    .option("-t, --tx-depth <N>", "transfers under way on each connection", wholeNumber(1, 256), 16)
    .option("--json", "one JSON document with rates in bytes a second")
    .addHelpText("after", help)
    .action(link);
}
