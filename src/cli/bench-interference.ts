/** `hbmesh bench interference`: arguments and the table. The measuring is in src/bench/interference.ts. */
import { type Command, InvalidArgumentError, Option } from "commander";
import { type InterferenceRow, measureInterference } from "../bench/interference.js";
import { withBenchContext } from "./bench-context.js";
import { wholeNumber } from "./options.js";
import { formatTable, toJson } from "./table.js";

interface InterferenceFlags {
  rates: number[];
  seconds: number;
  repeats: number;
  loop_mb: number;
  layers: number;
  blobs: number;
  blob_kb: number;
  transport: "tcp" | "shm";
  json?: boolean;
}

const rateMax = 1_000;
const USUAL_RATES = "0,1,2,3";

const help = `
One process decodes at worker 2: each round of its loop reads --loop_mb of its device's memory. Meanwhile a prefill process at worker 1 pushes
requests (--layers of --blobs x --blob_kb) into memory of the same device, at each of the --rates. The change of min, avg and max of a
round against no requests is the interference; without other load it comes from the transfers.

Devices are simulated: their memory is the machine's, and its processors move the bytes that a NIC would write. What this shows is
the worst case, and a comparison between two versions of the transfer path.

Examples:
  $ hbmesh bench interference
  $ hbmesh bench interference --rates 0,5,20 --transport shm
  $ hbmesh bench interference --layers 28 --blobs 8 --blob_kb 1024 --json

Exit codes: 0 it measured, 1 it could not, 2 wrong arguments, 130 interrupted.`;

function rates(text: string): number[] {
  const values = text.split(",").map((item) => (/^\d+(\.\d+)?$/.test(item) ? Number(item) : Number.NaN));
  if (!values.every((value) => value <= rateMax)) {
    throw new InvalidArgumentError(`Give requests a second from 0 to ${rateMax} with commas, as in 0,1,2,3.`);
  }
  // What the others are compared with.
  return [...new Set([0, ...values])];
}

function describe(rows: readonly InterferenceRow[]): string {
  const change = (value: number): string => `${value >= 0 ? "+" : ""}${value.toFixed(2)}%`;
  const titles = ["requests/s", "requests", "GB/s", "rounds", "min ms", "avg ms", "max ms", "min", "avg", "max"];
  return formatTable(
    titles.map((title) => ({ title, right: true })),
    rows.map((row) => [
      String(row.requestsPerSecond),
      String(row.requests),
      row.requests === 0 ? "" : row.requestGbps.toFixed(2),
      String(row.rounds),
      ...[row.minMs, row.avgMs, row.maxMs].map((value) => value.toFixed(3)),
      ...[row.minChange, row.avgChange, row.maxChange].map((value) =>
        row.requestsPerSecond === 0 ? "" : change(value),
      ),
    ]),
  );
}

async function interference(flags: InterferenceFlags): Promise<void> {
  const { seconds, repeats, layers, blobs, transport } = flags;
  const bytes = { loopBytes: flags.loop_mb * 2 ** 20, blobBytes: flags.blob_kb * 1024 };
  const options = { rates: flags.rates, seconds, repeats, layers, blobs, transport, ...bytes };
  await withBenchContext(async (context) => {
    const rows = await measureInterference(options, context);
    process.stdout.write(
      flags.json === true ? `${toJson({ devices: "simulated", ...options, rows })}\n` : describe(rows),
    );
  });
}

export function addInterferenceCommand(bench: Command): void {
  bench
    .command("interference")
    .description("How much incoming layers slow a loop down that is bound by the memory of the device they come to.")
    .addOption(
      new Option("--rates <N,N>", "requests a second; 0 is always measured too")
        .argParser(rates)
        .default(rates(USUAL_RATES), USUAL_RATES),
    )
    .option("--seconds <N>", "of each rate in each repeat", wholeNumber(1, 3_600), 5)
    .option("--repeats <N>", "all rates in turns, so many times", wholeNumber(1, 1_000), 3)
    .option("--loop_mb <N>", "that a round of the loop reads", wholeNumber(1, 65_536), 128)
    .option("--layers <N>", "of a request", wholeNumber(1, 10_000), 61)
    .option("--blobs <N>", "of a layer", wholeNumber(1, 10_000), 8)
    .option("--blob_kb <N>", "size of a blob", wholeNumber(1, 1_048_576), 144)
    .addOption(new Option("--transport <NAME>", "between the workers").choices(["tcp", "shm"]).default("tcp"))
    .option("--json", "one JSON document instead of the table")
    .addHelpText("after", help)
    .action(interference);
}
