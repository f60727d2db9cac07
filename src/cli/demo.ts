/** `hbmesh demo`: the main job of main-job.ts, for people as a table and for programs as one JSON document. */
import { type Command, Option } from "commander";
import { HbmeshError } from "../base/errors.js";
import type { TransportChoice } from "./local-cluster.js";
import { type MainJobResult, type Measured, runMainJob } from "./main-job.js";
import { ExitError, parseShape, type Shape, wholeNumber } from "./options.js";
import { onEndingSignal } from "./signals.js";
import { formatTable, grouped, toJson } from "./table.js";

interface DemoOptions {
  file: string;
  shape: Shape;
  transport: TransportChoice;
  devices: number;
  rounds: number;
  set_device: number;
  get_device: number;
  json?: boolean;
}

const USUAL_SHAPE = "61x72KB";

const help = `
The bytes are those of a file, put into HBM of one device by one process and read into HBM of another device by another
process, through two workers. Both sides compare SHA-256. Rounds after the warm-up are timed, the median is shown.

  limit   of the set: one copy of the same bytes with the same number of threads, in blobs of the same size
          of the get: raw TCP sockets with as many connections, or one copy when shared memory carried it

Examples:
  $ hbmesh demo
  $ hbmesh demo --file model.safetensors --shape 61x72KB
  $ hbmesh demo --transport shm --shape 28x1024KB
  $ hbmesh demo --json | jq .get.ratio
The same through npm, which sets up first: npm start -- --transport shm, and npm start --silent -- --json

Exit codes: 0 the bytes arrived and are equal, 1 anything else (with --json: "ok": false and the cause).`;

function row(name: string, measured: Measured): string[] {
  return [
    name,
    grouped(measured.objects),
    grouped(measured.blobs),
    grouped(measured.bytes),
    measured.seconds.toFixed(4),
    measured.gbps.toFixed(2),
    `${measured.limitGbps.toFixed(2)} (${measured.limit}, ${measured.lanes})`,
    `${(measured.ratio * 100).toFixed(0)}%`,
  ];
}

function describe(result: MainJobResult): string {
  const columns = [
    { title: "" },
    { title: "objects", right: true },
    { title: "blobs", right: true },
    { title: "bytes", right: true },
    { title: "seconds", right: true },
    { title: "GB/s", right: true },
    { title: "limit GB/s", right: true },
    { title: "ratio", right: true },
  ];
  const carried = result.paths
    .map((each) => `${each.transport} from ${each.source}, ${each.lanes} lanes, ${grouped(each.bytes)} bytes`)
    .join("; ");
  const table = formatTable(columns, [row("set", result.set), row("get", result.get)]);
  return `[OK] Set value\n[OK] Get value\n     SHA-256 ${result.sha256}\npath: ${carried}\n\n${table}`;
}

async function demo(options: DemoOptions): Promise<void> {
  const started = performance.now();
  const interrupted = new AbortController();
  let signalled = false;
  const interrupt = (): void => {
    signalled = true;
    interrupted.abort(new ExitError(130, "interrupted"));
  };
  const stopListening = onEndingSignal(interrupt);
  const progress = (text: string): void => {
    const seconds = ((performance.now() - started) / 1000).toFixed(1).padStart(5);
    process.stderr.write(`${seconds} s  ${text}\n`);
  };
  try {
    const result = await runMainJob({
      file: options.file,
      shape: options.shape,
      transport: options.transport,
      devices: options.devices,
      rounds: options.rounds,
      setDevice: options.set_device,
      getDevice: options.get_device,
      progress,
      signal: interrupted.signal,
    });
    process.stdout.write(options.json === true ? `${toJson(result)}\n` : describe(result));
  } catch (error) {
    if (signalled) {
      throw new ExitError(130, "interrupted");
    }
    if (options.json === true) {
      const { codeName, message, key } = HbmeshError.from(error);
      process.stdout.write(`${toJson({ ok: false, error: { code: codeName, message, key: key ?? null } })}\n`);
    }
    throw error;
  } finally {
    stopListening();
  }
}

export function addDemoCommand(program: Command, _setExitCode: (code: number) => void): void {
  program
    .command("demo")
    .description("Run the main job once: set at one worker, get at another, compare, and measure against the limits.")
    .option("--file <PATH>", "whose bytes", process.execPath)
    .addOption(
      new Option("--shape <BLOBSxSIZE>", "blobs of an object")
        .argParser(parseShape)
        .default(parseShape(USUAL_SHAPE), USUAL_SHAPE),
    )
    .addOption(new Option("--transport <NAME>", "between the workers").choices(["auto", "tcp", "shm"]).default("tcp"))
    .option("--devices <N>", "simulated devices of each worker", wholeNumber(1, 64), 8)
    .option("--set_device <N>", "device at worker 1 that the bytes come from", wholeNumber(0, 63), 0)
    .option("--get_device <N>", "device at worker 2 that the bytes go to", wholeNumber(0, 63), 2)
    .option("--rounds <N>", "timed rounds after the warm-up", wholeNumber(1, 1000), 5)
    .option("--json", "print one JSON document; progress stays on stderr")
    .addHelpText("after", help)
    .action(demo);
}
