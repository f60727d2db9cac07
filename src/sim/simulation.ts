/**
 * A whole simulation: placement of very many keys, then a cluster that goes through the scenarios. Everything follows
 * from the seed; `digest` is a hash over all that happened, equal for equal seeds.
 */
import type { WorkerConfig } from "../base/config.js";
import type { Logger } from "../base/log.js";
import { createSeededRandom } from "../base/random.js";
import { Clients } from "./clients.js";
import { SimCluster, type SimHost, STORE_PUT } from "./cluster.js";
import { measurePlacement, type PlacementResult } from "./placement.js";
import type { ScenarioResult } from "./scenario.js";
import { runScenario, SCENARIOS } from "./scenarios.js";

export interface SimulationOptions {
  workers: number;
  /** Keys that are placed, and not stored. */
  keys: number;
  /** Objects that are set in the cluster before the first scenario. */
  objects: number;
  /** Tokens of a member in the rings of the control processes. */
  tokens: number;
  seed: number;
  /** Names of SCENARIOS, in the order in which they run; "placement" is one too. */
  scenarios: readonly string[];
  /** Client calls every 20 ms. */
  callsPerStep: number;
  /** What the control processes are configured with; a vanished one counts as dead after six leases. */
  leaseMs: number;
  /** Workers keep copies of what they read from others (--replica_percent). */
  copies?: boolean;
  log?: Logger | undefined;
  /** Told what is done now. */
  progress?: (what: string) => void;
  /** Real time, in seconds, from any start. */
  seconds: () => number;
}

export interface StartResult {
  /** Virtual time until all workers knew of all. */
  settledMs: number;
  messages: number;
  messagesPerMember: number;
  objects: number;
}

export interface SimulationResult {
  seed: number;
  workers: number;
  tokens: number;
  placement?: PlacementResult;
  start?: StartResult;
  scenarios: ScenarioResult[];
  /** What went wrong; empty: nothing. */
  faults: string[];
  digest: string;
  virtualSeconds: number;
  secondsReal: number;
}

/** The targets (docs/ARCHITECTURE.md). */
export const LARGEST_SHARE_MAX = 1.1;
export const MOVED_SHARE_MAX = 1.1;

export const SCENARIO_NAMES = ["placement", ...SCENARIOS.map(({ name }) => name)];

const DEAD_AFTER_LEASES = 6;
const TICK_MS = 10_000;

export async function simulate(options: SimulationOptions): Promise<SimulationResult> {
  const { workers, tokens, seed, seconds, progress = () => {} } = options;
  const started = seconds();
  const result: SimulationResult = {
    seed,
    workers,
    tokens,
    scenarios: [],
    faults: [],
    digest: "",
    virtualSeconds: 0,
    secondsReal: 0,
  };
  if (options.scenarios.includes("placement")) {
    progress(`placing ${options.keys} keys on ${workers} workers`);
    const placement = measurePlacement(options, seconds);
    result.placement = placement;
    result.faults.push(...judgePlacement(placement));
  }
  if (options.scenarios.some((name) => name !== "placement")) {
    await simulateCluster(options, result, progress);
  }
  result.secondsReal = seconds() - started;
  return result;
}

async function simulateCluster(
  options: SimulationOptions,
  result: SimulationResult,
  progress: (what: string) => void,
): Promise<void> {
  const { workers, tokens, seed, objects, callsPerStep, leaseMs, copies = false, log } = options;
  const deadAfterMs = DEAD_AFTER_LEASES * leaseMs;
  const settings: Partial<WorkerConfig> = { leaseMs, deadAfterMs };
  const cluster = new SimCluster({ seed, tokens, settings, copies, ...(log === undefined ? {} : { log }) });
  const random = createSeededRandom(seed ^ 0xc11e);
  const clients = new Clients(cluster, random);
  let last: SimHost | undefined;
  const pick = (): SimHost => {
    const hosts = cluster.hosts.filter((host) => host.running?.control !== undefined && host !== last);
    last = hosts[random.nextBelow(hosts.length)] as SimHost;
    return last;
  };
  const traffic = (durationMs: number): Promise<void> => clients.run(durationMs, callsPerStep);
  const context = { cluster, clients, pick, traffic, leaseMs, deadAfterMs };
  let doing = "";
  const begin = (what: string): void => {
    doing = what.split(":")[0] as string;
    progress(what);
  };
  // Of real time: who waits wants to see that it goes on. It has no effect on what is simulated.
  const ticker = setInterval(() => progress(`  ${doing}: ${describeProgress(cluster)}`), TICK_MS);
  try {
    begin(`starting ${workers} workers`);
    await cluster.grow(workers);
    const messages = messagesOf(cluster);
    const settledMs = cluster.clock.monotonicMs();
    result.start = { settledMs, messages, messagesPerMember: messages / workers, objects };
    begin(`setting ${objects} objects`);
    await clients.fill(objects);
    for (const scenario of SCENARIOS.filter(({ name }) => options.scenarios.includes(name))) {
      begin(`${scenario.name}: ${scenario.what}`);
      const outcome = await runScenario(scenario, context);
      result.scenarios.push(outcome);
      progress(`${scenario.name}: ${describeOutcome(outcome)}`);
      result.faults.push(...judgeScenario(outcome));
    }
  } catch (reason) {
    result.faults.push(String(reason instanceof Error ? (reason.stack ?? reason.message) : reason));
  } finally {
    clearInterval(ticker);
    result.faults.push(...cluster.failures);
    result.digest = cluster.trace.digest();
    result.virtualSeconds = cluster.clock.monotonicMs() / 1_000;
    await cluster.close();
  }
}

/** Between control processes, all since the start. */
function messagesOf({ trace }: Pick<SimCluster, "trace">): number {
  const counts = [...trace.counts.messages].filter(([name]) => name !== STORE_PUT);
  return counts.reduce((sum, [, count]) => sum + count, 0);
}

function describeProgress({ clock, trace, controls }: SimCluster): string {
  const messages = messagesOf({ trace });
  return `${(clock.monotonicMs() / 1_000).toFixed(2)} s of virtual time, ${controls.length} workers, ${messages} messages`;
}

function describeOutcome({ settledMs, messagesPerMember, check, violations }: ScenarioResult): string {
  const found = `${check.found} of ${check.checked} keys found, ${violations.length} wrong answers`;
  return `settled after ${(settledMs / 1_000).toFixed(2)} s with ${messagesPerMember.toFixed(1)} messages a member, ${found}`;
}

function judgePlacement({ largestShare, movedShare, movedElsewhere }: PlacementResult): string[] {
  const faults: string[] = [];
  if (largestShare > LARGEST_SHARE_MAX) {
    faults.push(`placement: an owner has ${largestShare.toFixed(4)} x the mean, above ${LARGEST_SHARE_MAX}`);
  }
  if (movedShare > MOVED_SHARE_MAX) {
    faults.push(`placement: a join moved ${movedShare.toFixed(4)} / N of the keys, above ${MOVED_SHARE_MAX}`);
  }
  if (movedElsewhere > 0) {
    faults.push(`placement: a join moved ${movedElsewhere} keys between others`);
  }
  return faults;
}

function judgeScenario({ name, check, violations }: ScenarioResult): string[] {
  const faults = violations.map((violation) => `${name}: ${violation}`);
  if (check.unknown > 0) {
    faults.push(`${name}: ${check.unknown} of ${check.checked} keys could not be told of at the end`);
  }
  return faults;
}
