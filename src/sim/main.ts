/**
 * `npm run sim`: simulates a cluster from a seed, and prints what changes and failures cost and whether anything was
 * lost. Exits 1 when something was, with the command that replays it, and 2 for arguments that it does not know.
 */
import { parseArgs } from "node:util";
import { createLogger } from "../base/log.js";
import { createSystemRandom } from "../base/random.js";
import { affordableTokens, TOKENS_PER_WEIGHT } from "./decisions.js";
import { formatReport } from "./report.js";
import { SCENARIO_NAMES, type SimulationOptions, simulate } from "./simulation.js";

const HELP = `Simulates a cluster of control processes with the real Wasm, in virtual time, from a seed.

Usage: npm run sim -- [options]

  --workers N       workers of the cluster (default 1000)
  --keys N          keys that are placed on rings of N and N + 1 workers, to see how evenly (default 10000000)
  --full            as --keys 100000000
  --objects N       objects that are set, found and lost in the cluster (default 20 a worker)
  --tokens N        tokens of a member in the rings of the simulated control processes (default: all ${TOKENS_PER_WEIGHT} up to 102
                    workers, fewer for more, ${affordableTokens(1_000)} for 1000; placement has all of them)
  --calls N         clients' calls every 20 ms, while something fails (default 4)
  --lease MS        lease of the control processes, which failures are measured in (default 4000, as for workers)
  --copies          workers keep copies of what they read from others (--replica_percent)
  --scenario A,B    only these, of: ${SCENARIO_NAMES.join(", ")}
  --seed N          what everything follows from (default: another one each time)
  --json            one JSON document on standard output
  --verbose         the log of the control processes on standard error
  --help            this text
`;

const OPTIONS = {
  workers: { type: "string", default: "1000" },
  keys: { type: "string" },
  full: { type: "boolean", default: false },
  objects: { type: "string" },
  tokens: { type: "string" },
  calls: { type: "string", default: "4" },
  lease: { type: "string", default: "4000" },
  copies: { type: "boolean", default: false },
  scenario: { type: "string", default: "" },
  seed: { type: "string" },
  json: { type: "boolean", default: false },
  verbose: { type: "boolean", default: false },
  help: { type: "boolean", default: false },
} as const;

/** Arguments after the program's name. Resolves to the exit code. */
export async function main(args: readonly string[]): Promise<number> {
  let json = false;
  let options: SimulationOptions;
  try {
    const { values } = parseArgs({ args: [...args], options: OPTIONS });
    if (values.help) {
      process.stdout.write(HELP);
      return 0;
    }
    json = values.json;
    options = optionsOf(values);
  } catch (reason) {
    process.stderr.write(`${(reason as Error).message}\nSee npm run sim -- --help.\n`);
    return 2;
  }
  const result = await simulate(options);
  process.stdout.write(json ? `${JSON.stringify(result, undefined, 2)}\n` : formatReport(result));
  if (result.faults.length > 0) {
    process.stderr.write(`${result.faults.length} faults with seed ${options.seed}. To replay: ${replayOf(options)}\n`);
    return 1;
  }
  return 0;
}

type Values = ReturnType<typeof parseArgs<{ options: typeof OPTIONS }>>["values"];

function optionsOf(values: Values): SimulationOptions {
  const workers = numberOf("workers", values.workers, 3, 4_000);
  const scenarios = values.scenario === "" ? SCENARIO_NAMES : (values.scenario ?? "").split(",");
  const unknown = scenarios.find((name) => !SCENARIO_NAMES.includes(name));
  if (unknown !== undefined) {
    throw new Error(`there is no scenario ${JSON.stringify(unknown)}; there are ${SCENARIO_NAMES.join(", ")}`);
  }
  const keys = values.keys ?? (values.full ? "100000000" : "10000000");
  return {
    workers,
    keys: numberOf("keys", keys, 1, 1e12),
    objects: numberOf("objects", values.objects ?? String(20 * workers), 1, 1e8),
    tokens: numberOf("tokens", values.tokens ?? String(affordableTokens(workers)), 1, TOKENS_PER_WEIGHT),
    callsPerStep: numberOf("calls", values.calls, 0, 10_000),
    leaseMs: numberOf("lease", values.lease, 1_000, 600_000),
    copies: values.copies === true,
    seed: numberOf("seed", values.seed ?? String(createSystemRandom().nextBelow(1_000_000)), 0, 2 ** 32 - 1),
    scenarios,
    log: values.verbose ? createLogger("sim") : undefined,
    progress: (what) => void process.stderr.write(`sim: ${what}\n`),
    seconds: () => performance.now() / 1_000,
  };
}

function numberOf(name: string, text: string | undefined, low: number, high: number): number {
  const value = Number(text);
  if (text === undefined || text === "" || !Number.isInteger(value) || value < low || value > high) {
    throw new Error(`--${name} must be a whole number from ${low} to ${high}; it is ${JSON.stringify(text)}`);
  }
  return value;
}

function replayOf(options: SimulationOptions): string {
  const { workers, keys, objects, tokens, callsPerStep, leaseMs, copies, seed, scenarios } = options;
  const cluster = `--objects ${objects} --tokens ${tokens} --calls ${callsPerStep} --lease ${leaseMs}${copies === true ? " --copies" : ""}`;
  const numbers = `--workers ${workers} --keys ${keys} ${cluster}`;
  const only = scenarios.length === SCENARIO_NAMES.length ? "" : ` --scenario ${scenarios.join(",")}`;
  return `npm run sim -- --seed ${seed} ${numbers}${only}`;
}
