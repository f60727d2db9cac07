/** What a scenario of the simulation is: what it is given, what it tells, and the steps that several of them take. */
import type { ControlProcess } from "../control/contract.js";
import type { CheckResult, Clients } from "./clients.js";
import type { SimCluster, SimHost } from "./cluster.js";
import type { ModelCounts } from "./model.js";

export interface ScenarioResult {
  name: string;
  what: string;
  /** Members that the change concerns. */
  members: number;
  /** Virtual time from the change until every member gave sure answers. */
  settledMs: number;
  /** Between control processes, from the change until then; those of clients' calls apart. */
  messages: number;
  messagesPerMember: number;
  bytes: number;
  messagesByName: Record<string, number>;
  /** Keys in the directory of a member that joined. */
  movedKeys?: number;
  movedShare?: number;
  /** Keys that were deleted, or replaced, while their holder was out of reach. */
  deleted?: number;
  /** Keys of which copies were all that was left. */
  orphans?: number;
  waits?: Waits;
  check: CheckResult;
  calls: ModelCounts;
  violations: string[];
}

export interface Context {
  cluster: SimCluster;
  clients: Clients;
  /** A host that runs, chosen from the seed; never the same one twice in a row. */
  pick: () => SimHost;
  /** Clients' calls for so long. */
  traffic: (durationMs: number) => Promise<void>;
  leaseMs: number;
  deadAfterMs: number;
}

/** The longest waits of calls at hosts that run. */
export interface Waits {
  /** Of those that begin as it happens. */
  firstMs: number;
  /** Of those that begin FIRST_WAIT_MS later, while it lasts. */
  laterMs: number;
}

export interface Change {
  waits?: Waits;
  /** Keys that were deleted, or replaced, while their holder was out of reach. */
  deleted?: number;
  /** Keys of which copies were all that was left. */
  orphans?: number;
  members: number;
  settledMs: number;
  movedKeys?: number;
  movedShare?: number;
}

export interface Scenario {
  name: string;
  what: string;
  run: (context: Context) => Promise<Change>;
}

export const PAUSE_BEFORE_RESTART_MS = 1_000;
export const TRAFFIC_MS = 1_000;
/** How often a drain is looked at, and how long what follows an answer may take. */
export const DRAIN_LOOK_MS = 100;

export function controlOf({ address, running }: SimHost): ControlProcess {
  if (running?.control === undefined) {
    throw new Error(`no control process runs at ${address}`);
  }
  return running.control;
}

/** A host took objects with it: what is left of some are copies. */
export function releaseCopies({ cluster, clients }: Context): void {
  clients.model.releaseCopies((key, contents) => cluster.hasBytes(key, contents, false));
}

export const SETTLE_LOOK_MS = 100;

/** As SimCluster.settle, while clients go on. */
export async function settleUnderTraffic({ cluster, traffic }: Context, members: number): Promise<void> {
  const limitMs = cluster.clock.monotonicMs() + 120_000;
  while (!cluster.isSettled(members) && cluster.clock.monotonicMs() < limitMs) {
    await traffic(SETTLE_LOOK_MS);
  }
  await cluster.settle(members, 0);
}
