/** `hbmesh bench meta`: arguments and tables. The measuring is in src/bench/meta.ts. */
import { type Command, InvalidArgumentError, Option } from "commander";
import { type MetaResult, measureMeta } from "../bench/meta.js";
import { withBenchContext } from "./bench-context.js";
import { wholeNumber } from "./options.js";
import { formatTable, grouped, toJson } from "./table.js";

interface MetaFlags {
  batch: number[];
  calls: number;
  threads: number;
  spin_us: number;
  wasm_ms: number;
  json?: boolean;
}

const batchMax = 10_000;
const USUAL_BATCHES = "1,32,256,1024";

const help = `
One client process on the C API, objects of 4 KB. local: one worker, which owns and holds every key. remote: a worker whose keys all belong
to another one, which also holds what is asked about; its own set keeps the bytes and asks the owner. p50 and p99 are those of
a call of one thread; x trip is p50 by a round trip of this machine without hbmesh: an eventfd's to the sidecar (local), a TCP
echo's between two workers (remote). The last table is the Wasm functions on their own, on one core.

Examples:
  $ hbmesh bench meta
  $ hbmesh bench meta --batch 1,32 --threads 4
  $ hbmesh bench meta --spin_us 100 --json

Exit codes: 0 it measured, 1 it could not, 2 wrong arguments, 130 interrupted.`;

function batches(text: string): number[] {
  const values = text.split(",").map((item) => (/^\d+$/.test(item) ? Number(item) : Number.NaN));
  if (!values.every((value) => value >= 1 && value <= batchMax)) {
    throw new InvalidArgumentError(`Give whole numbers from 1 to ${batchMax} with commas, as in 1,32,256.`);
  }
  return values;
}

function describe(result: MetaResult): string {
  const right = (...titles: string[]) => titles.map((title) => ({ title, right: true }));
  const rows = result.rows.map((row) => [
    row.op,
    row.place,
    String(row.batch),
    row.p50Us.toFixed(1),
    row.p99Us.toFixed(1),
    row.timesRoundTrip.toFixed(1),
    grouped(Math.round(row.keysPerSecond)),
    grouped(Math.round(row.threadsKeysPerSecond)),
  ]);
  const titles = right("batch", "p50 us", "p99 us", "x trip", "keys/s", `keys/s, ${result.threads} threads`);
  const trips = result.roundTrips.map((trip) => [trip.kind, trip.p50Us.toFixed(1), trip.p99Us.toFixed(1)]);
  const decisions = result.decisions.map((row) => [
    row.name,
    String(row.batch),
    grouped(Math.round(row.value)),
    row.unit,
  ]);
  return [
    formatTable([{ title: "call" }, { title: "place" }, ...titles], rows),
    formatTable([{ title: "round trip" }, ...right("p50 us", "p99 us")], trips),
    formatTable([{ title: "Wasm" }, ...right("batch", "rate"), { title: "" }], decisions),
  ].join("\n");
}

async function meta(flags: MetaFlags): Promise<void> {
  const { batch, calls, threads, spin_us: spinMicros, wasm_ms: wasmMs } = flags;
  const options = { batches: batch, calls, threads, spinMicros, wasmMs };
  await withBenchContext(async (context) => {
    const result = await measureMeta(options, context);
    process.stdout.write(flags.json === true ? `${toJson(result)}\n` : describe(result));
  });
}

export function addMetaCommand(bench: Command): void {
  bench
    .command("meta")
    .description(
      "Keys a second and latency of set, exist, getMetaInfo, get and delete, local and remote, and of the Wasm functions.",
    )
    .addOption(
      new Option("--batch <N,N>", "keys of a call").argParser(batches).default(batches(USUAL_BATCHES), USUAL_BATCHES),
    )
    .option("--calls <N>", "calls of each thread; fewer above 40,000 keys", wholeNumber(2, 100_000), 300)
    .option("--threads <N>", "that share one client, for the last rate", wholeNumber(1, 64), 8)
    .option("--spin_us <N>", "how long sidecars poll before they sleep", wholeNumber(0, 10_000), 0)
    .option("--wasm_ms <N>", "measuring time of each Wasm row", wholeNumber(1, 60_000), 200)
    .option("--json", "one JSON document instead of the tables")
    .addHelpText("after", help)
    .action(meta);
}
