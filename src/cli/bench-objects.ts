/** `hbmesh bench objects`: arguments and table. The measuring is in src/bench/objects.ts. */
import type { Command } from "commander";
import { measureObjects, type ObjectsResult, type WorkerProbe } from "../bench/objects.js";
import { askHealth } from "../client/health.js";
import { withBenchContext } from "./bench-context.js";
import { ExitError, wholeNumber } from "./options.js";
import { formatTable, grouped, toJson } from "./table.js";
import { findSidecars, findWorkers } from "./worker-processes.js";

interface ObjectsFlags {
  objects: number;
  bytes: number;
  batch: number;
  idle_ms: number;
  json?: boolean;
}

const help = `
One worker and one client process on the C API. Rates are those of the last calls before the row's number of objects, and of gets
spread over all of them. Memory is beside that of the objects themselves: the object table, and the sidecar's own index; private
is what the system counts for each process. idle is the part of one core that a process takes while nobody asks for anything. In the
end the sidecar is killed: adopted is the time until the worker is ready again with every object.

10 million objects of 1 KiB take 13 GB.

Examples:
  $ hbmesh bench objects --objects 1000000
  $ hbmesh bench objects --json

Exit codes: 0 it measured, 1 it could not, 2 wrong arguments, 130 interrupted.`;

function describe(result: ObjectsResult): string {
  const right = (...titles: string[]) => titles.map((title) => ({ title, right: true }));
  const mebibytes = (bytes: number): string => grouped(Math.round(bytes / 2 ** 20));
  const titles = ["objects", "set/s", "get/s", "table MiB", "index MiB", "B an object"];
  const more = ["private MiB", "control MiB", "idle %", "control idle %"];
  const rows = result.rows.map((row) => [
    grouped(row.objects),
    grouped(Math.round(row.setPerSecond)),
    grouped(Math.round(row.getPerSecond)),
    mebibytes(row.tableBytes),
    mebibytes(row.indexBytes),
    grouped(Math.round((row.tableBytes + row.indexBytes) / row.objects)),
    mebibytes(row.sidecarPrivateBytes),
    mebibytes(row.controlBytes),
    row.sidecarIdlePercent.toFixed(2),
    row.controlIdlePercent.toFixed(2),
  ]);
  const adopted = `${grouped(result.objectsAdopted)} objects adopted in ${(result.adoptionMs / 1000).toFixed(1)} s`;
  return `${formatTable(right(...titles, ...more), rows)}${adopted}\n`;
}

function processesOf(address: string): { control: number; sidecar: number } {
  const control = findWorkers([address])[0]?.pid;
  const sidecar = findSidecars([address])[0]?.pid;
  if (control === undefined || sidecar === undefined) {
    throw new ExitError(1, `the processes of the worker at ${address} are not to be found in /proc`);
  }
  return { control, sidecar };
}

/** A worker that lists millions of objects answers late. */
const healthTimeoutMs = 60_000;

const probe: WorkerProbe = { processesOf, health: (address) => askHealth(address, healthTimeoutMs) };

async function objects(flags: ObjectsFlags): Promise<void> {
  const { objects: count, bytes, batch, idle_ms: idleMs } = flags;
  await withBenchContext(async (context) => {
    const result = await measureObjects({ objects: count, bytes, batch, idleMs }, probe, context);
    process.stdout.write(flags.json === true ? `${toJson(result)}\n` : describe(result));
  });
}

export function addObjectsCommand(bench: Command): void {
  bench
    .command("objects")
    .description("Many small objects on one worker: memory, rates, idle cost, and the restart of its sidecar.")
    .option("--objects <N>", "how many in the end", wholeNumber(1, 500_000_000), 10_000_000)
    .option("--bytes <N>", "of each", wholeNumber(1, 1 << 20), 1_024)
    .option("--batch <N>", "keys of a call", wholeNumber(1, 10_000), 1_000)
    .option("--idle_ms <N>", "how long an idle worker is watched", wholeNumber(1, 600_000), 5_000)
    .option("--json", "one JSON document instead of the table")
    .addHelpText("after", help)
    .action(objects);
}
