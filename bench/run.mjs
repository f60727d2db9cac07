/**
 * `npm run bench`: what hbmesh does on this machine, case by case, beside what the machine can do in the same rounds.
 * Devices are simulated. --compare reads what an earlier --json printed and shows the change of each ratio. Ratios
 * compare over runs and machines; GB/s do not.
 */
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { measureDeviceCases, measureFanOut } from "../dist/bench/device-cases.js";
import { measureObjectCases } from "../dist/bench/object-cases.js";
import { withBenchContext } from "../dist/cli/bench-context.js";
import { ExitError } from "../dist/cli/options.js";
import { formatTable } from "../dist/cli/table.js";
import { measureMainJob } from "./main-job.mjs";

/** Objects of a call so that about 100 MB move; of each of eight processes, a quarter of that. */
const shapes = [
  { name: "28x1024KB", blobs: 28, blobBytes: 1024 * 1024, objects: 4, objectsEach: 1 },
  { name: "61x72KB", blobs: 61, blobBytes: 72 * 1024, objects: 22, objectsEach: 6 },
];
const readers = [1, 3, 7, 15];
/** Slow enough that the machine's processors serve all devices at once. */
const deviceMbPerSecond = 200;

const help = `Usage: npm run bench -- [options]

Measures this machine, at blobs of 1 MiB and of 72 KB, over tcp and over shm, with two workers and simulated devices:
  main job      local set and get, remote get: one call at a time
  processes     the same by eight client processes at once, as a host with eight cards has them
  device cases  publish and subscribe, devMSet and devMGet, layers pushed by ticket, from worker to worker
  fan-out       one source of the device cache to 1, 3, 7 and 15 readers, each a further source; at last on devices of
                200 MB/s each, which shows how readers share without that they share this machine's processors
each beside its limit, measured in the same rounds: one copy with as many threads, or raw sockets with as many connections.

  --rounds N      rounds that count, after a warm-up; the table has medians (default 9)
  --warm-up N     calls of small objects, in each direction, before workers count as warm (default 3000)
  --only TEXT     only parts whose name has this text: "main tcp 28x1024KB", "device shm 61x72KB", "fan-out tcp 61x72KB", ...
  --json          one JSON document instead of the table, also to keep for --compare
  --compare FILE  the change of each ratio against an earlier run's JSON
  -h, --help      this

hbmesh bench --help lists benchmarks with other questions. Ratios compare over runs and machines; GB/s do not.
`;

/** Says what is wrong in a sentence, and how to go on. */
function usage(message) {
  return new ExitError(2, `${message}\nnpm run bench -- --help lists the options.`);
}

function readOptions() {
  try {
    const { values } = parseArgs({
      options: {
        rounds: { type: "string", default: "9" },
        "warm-up": { type: "string", default: "3000" },
        json: { type: "boolean", default: false },
        compare: { type: "string" },
        only: { type: "string", default: "" },
        help: { type: "boolean", short: "h", default: false },
      },
    });
    return values;
  } catch (error) {
    throw usage(error.message);
  }
}

function wholeNumber(option, text, least) {
  const value = Number(text);
  if (!Number.isInteger(value) || value < least) {
    throw usage(`${option} ${text} must be a whole number from ${least} on`);
  }
  return value;
}

function readEarlier(file) {
  if (file === undefined) {
    return undefined;
  }
  try {
    const { rows } = JSON.parse(readFileSync(file, "utf8"));
    if (Array.isArray(rows)) {
      return rows;
    }
  } catch (error) {
    throw usage(`--compare ${file} can't be read: ${error.message}`);
  }
  throw usage(`--compare ${file} is not what npm run bench -- --json prints`);
}

/** The parts in their order: a name for --only, and how to measure it. */
function partsOf(rounds) {
  const parts = [];
  for (const transport of ["tcp", "shm"]) {
    for (const { name, ...shape } of shapes) {
      const options = { transport, rounds, ...shape };
      parts.push(
        {
          name: `main ${transport} ${name}`,
          measure: (context) => measureMainJob(transport, name, rounds, context),
        },
        {
          name: `processes ${transport} ${name}`,
          measure: (context) => measureObjectCases({ ...options, objects: shape.objectsEach }, context),
        },
        { name: `device ${transport} ${name}`, measure: (context) => measureDeviceCases(options, context) },
      );
    }
    const { name, ...shape } = shapes[1];
    const options = { transport, rounds, ...shape, readers };
    parts.push({ name: `fan-out ${transport} ${name}`, measure: (context) => measureFanOut(options, context) });
  }
  const { name, ...shape } = shapes[1];
  const options = { transport: "shm", rounds, ...shape, objects: 4, readers, deviceMbPerSecond };
  parts.push({ name: `fan-out devices ${name}`, measure: (context) => measureFanOut(options, context) });
  return parts;
}

/** What a case is to reach, as shares of its limit. */
function goalOf(name) {
  if (name.startsWith("local") && name.includes("1024KB")) {
    return "90%";
  }
  if (name.startsWith("1 source")) {
    return "";
  }
  return name.startsWith("local") ? "85%" : name.includes("tcp") ? "90%" : "85%";
}

function print(rows, earlier) {
  const percent = (value) => `${(value * 100).toFixed(0)}%`;
  const columns = [
    { title: "case" },
    { title: "GB/s", right: true },
    { title: "limit GB/s", right: true },
    { title: "against" },
    { title: "lanes", right: true },
    { title: "ratio", right: true },
    { title: "goal" },
    { title: "x one", right: true },
    ...(earlier === undefined
      ? []
      : [
          { title: "before", right: true },
          { title: "change", right: true },
        ]),
  ];
  const cells = rows.map((row) => {
    const before = earlier?.find((each) => each.name === row.name)?.ratio;
    return [
      row.name,
      row.gbps.toFixed(2),
      row.limitGbps.toFixed(2),
      row.against,
      String(row.lanes),
      percent(row.ratio),
      goalOf(row.name),
      row.timesOne?.toFixed(1) ?? "",
      ...(before === undefined ? [] : [percent(before), `x ${(row.ratio / before).toFixed(2)}`]),
    ];
  });
  process.stdout.write(formatTable(columns, cells));
}

async function bench() {
  const options = readOptions();
  if (options.help) {
    process.stdout.write(help);
    return;
  }
  const rounds = wholeNumber("--rounds", options.rounds, 1);
  const warmUpCalls = wholeNumber("--warm-up", options["warm-up"], 0);
  const earlier = readEarlier(options.compare);
  const parts = partsOf(rounds).filter((part) => part.name.includes(options.only));
  if (parts.length === 0) {
    throw usage(
      `--only ${options.only} matches none of: ${partsOf(rounds)
        .map((part) => part.name)
        .join(", ")}`,
    );
  }
  const rows = await withBenchContext(async (context) => {
    const measured = [];
    for (const part of parts) {
      context.progress(`${part.name}, ${rounds} rounds`);
      measured.push(...(await part.measure({ ...context, warmUpCalls })));
    }
    return measured;
  });
  if (options.json) {
    process.stdout.write(`${JSON.stringify({ devices: "simulated", rounds, rows }, null, 2)}\n`);
  } else {
    print(rows, earlier);
  }
}

try {
  await bench();
} catch (error) {
  process.stderr.write(`${error instanceof ExitError ? error.message : error.stack}\n`);
  process.exitCode = error instanceof ExitError ? error.exitCode : 1;
}
