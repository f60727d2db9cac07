/**
 * Changes and failures of a simulated cluster, one at a time: what each costs in messages, how long it takes until
 * every member gives sure answers again, and whether every key that still has bytes is found. Each leaves as many
 * workers as it found.
 */
import { encodeKeys } from "../decision/index.js";
import type { SimHost } from "./cluster.js";
import { OBJECT_BYTES } from "./memory.js";
import type { ModelCounts } from "./model.js";
import {
  type Change,
  type Context,
  controlOf,
  DRAIN_LOOK_MS,
  PAUSE_BEFORE_RESTART_MS,
  releaseCopies,
  type Scenario,
  type ScenarioResult,
  SETTLE_LOOK_MS,
  settleUnderTraffic,
  TRAFFIC_MS,
  type Waits,
} from "./scenario.js";
import { copiesAway, deletesAway, replacedAway } from "./scenarios-away.js";
import { countedSince } from "./trace.js";

/** In leases: 8 s and 60 s with the default of 4 s. */
const CUT_LEASES = 2;
const OUTAGE_LEASES = 15;
const FIRST_WAIT_MS = 1_000;
const OWED_MS = 3_000;

export const SCENARIOS: readonly Scenario[] = [
  { name: "join", what: "a worker joins", run: join },
  { name: "leave", what: "a worker that holds nothing leaves as planned", run: leave },
  {
    name: "drain",
    what: "a worker moves what it holds to others and leaves, while clients go on; a sidecar that takes over dies meanwhile",
    run: drain,
  },
  {
    name: "drain-killed",
    what: "kill -9 of a control process that moves what it holds to others, started again after 1 s",
    run: drainKilled,
  },
  {
    name: "deletes-owed",
    what: "an owner can't tell a holder of deletes, and leaves before it could: they hold when the holder is reached again",
    run: deletesOwed,
  },
  {
    name: "deletes-away",
    what: "kill -9 of a control process; keys that its host has copies of are deleted, and their owner is killed too; both come back",
    run: deletesAway,
  },
  {
    name: "replaced-away",
    what: "a host loses its lease; keys that it holds are set anew elsewhere and evicted there, and their owner is killed; it comes back",
    run: replacedAway,
  },
  {
    name: "copies-away",
    what: "a host loses its power for good; hosts that hold copies of what it had lose their leases together, and come back",
    run: copiesAway,
  },
  { name: "control-killed", what: "kill -9 of a control process, started again after 1 s", run: controlKilled },
  { name: "sidecar-killed", what: "kill -9 of a sidecar, which its control process starts again", run: sidecarKilled },
  { name: "host-lost", what: "a host loses its power for good; then an empty one takes its place", run: hostLost },
  {
    name: "link-cut",
    what: "the link between two hosts is cut for two leases, a worker joins meanwhile; healed",
    run: linkCut,
  },
  { name: "store-cut", what: "one host does not reach the store for longer than its lease", run: storeCut },
  { name: "store-down", what: "no host reaches the store for fifteen leases, and all of them end", run: storeDown },
  {
    name: "control-stopped",
    what: "a control process is stopped (SIGSTOP) for three times its lease, and goes on; its sidecar runs all the time",
    run: controlStopped,
  },
  { name: "paused", what: "a host is stopped (SIGSTOP) for three times its lease, and goes on", run: paused },
];

/** Runs a scenario and looks at what it did. */
export async function runScenario(scenario: Scenario, context: Context): Promise<ScenarioResult> {
  const { cluster, clients } = context;
  const { model } = clients;
  const before = cluster.trace.counts;
  const callsBefore = { ...model.counts };
  const violationsBefore = model.violations.length;
  cluster.trace.note(`scenario ${scenario.name}`);
  const change = await scenario.run(context);
  const after = cluster.trace.counts;
  const byName = countedSince(before.messages, after.messages);
  const messagesByName = Object.fromEntries(
    Object.entries(byName).filter(([name]) => /^(Announce|Conclude)/.test(name)),
  );
  const messages = Object.values(messagesByName).reduce((a, b) => a + b, 0);
  const check = await clients.check();
  const calls = Object.fromEntries(
    Object.entries(model.counts).map(([name, count]) => [name, count - callsBefore[name as keyof ModelCounts]]),
  ) as unknown as ModelCounts;
  return {
    name: scenario.name,
    what: scenario.what,
    ...change,
    messages,
    messagesPerMember: messages / change.members,
    bytes: after.bytes - before.bytes,
    messagesByName,
    check,
    calls,
    violations: model.violations.slice(violationsBefore),
  };
}

async function join({ cluster }: Context): Promise<Change> {
  const members = cluster.controls.length + 1;
  const startMs = cluster.clock.monotonicMs();
  await cluster.grow(1);
  const settledMs = cluster.clock.monotonicMs() - startMs;
  const keys = cluster.directoryKeys();
  const all = keys.reduce((a, b) => a + b, 0);
  const movedKeys = keys.at(-1) ?? 0;
  return { members, settledMs, movedKeys, movedShare: (movedKeys * (members - 1)) / all };
}

/** The one that joined last. */
async function leave({ cluster }: Context): Promise<Change> {
  const members = cluster.controls.length - 1;
  const startMs = cluster.clock.monotonicMs();
  await cluster.stop(cluster.hosts.filter(({ running }) => running !== undefined).at(-1) as SimHost);
  await cluster.settle(members);
  return { members, settledMs: cluster.clock.monotonicMs() - startMs };
}

/** So that moving what a host holds takes a while: objects a second. */
const DRAIN_OBJECTS_PER_SECOND = 10;
const DRAIN_BYTES_PER_SECOND = DRAIN_OBJECTS_PER_SECOND * Number(OBJECT_BYTES);
const DRAIN_SETTINGS = { bytesPerSecond: DRAIN_BYTES_PER_SECOND, timeLimitMs: 0, leaveBehind: false };

async function drain(context: Context): Promise<Change> {
  const { cluster, traffic, pick } = context;
  const members = cluster.controls.length;
  const [host, other] = [pick(), pick()];
  const { drain: leaving } = controlOf(host);
  await traffic(TRAFFIC_MS);
  leaving.start(DRAIN_SETTINGS);
  await traffic(DRAIN_LOOK_MS * 5);
  cluster.killSidecar(other);
  while (leaving.status.state === "moving") {
    await traffic(DRAIN_LOOK_MS);
  }
  const { state, reason, objectsLeft } = leaving.status;
  if (state !== "moved" || objectsLeft > 0n) {
    throw new Error(`${host.address} could not move what it holds: ${state}, ${reason}, ${objectsLeft} are left`);
  }
  const startMs = cluster.clock.monotonicMs();
  await cluster.stop(host);
  await settleUnderTraffic(context, members - 1);
  const settledMs = cluster.clock.monotonicMs() - startMs;
  await context.clients.check();
  cluster.startControl(host);
  await settleUnderTraffic(context, members);
  return { members: members - 1, settledMs };
}

async function deletesOwed(context: Context): Promise<Change> {
  const { cluster, clients, traffic, pick } = context;
  const members = cluster.controls.length;
  const [holder, owner] = [pick(), pick()];
  await traffic(TRAFFIC_MS);
  const { drain: leaving, memberId } = controlOf(owner);
  leaving.start({ ...DRAIN_SETTINGS, bytesPerSecond: 0 });
  while (leaving.status.state === "moving") {
    await cluster.clock.advance(DRAIN_LOOK_MS);
  }
  cluster.cutLink(holder, owner);
  const held = holder.memory.allSealed().map(({ key }) => key);
  const owners = owner.running?.decisions.ownersOf(encodeKeys(held)) ?? [];
  const deleted = await clients.deleteAt(
    owner,
    held.filter((_, index) => owners[index] === memberId),
  );
  const startMs = cluster.clock.monotonicMs();
  await cluster.stop(owner);
  await cluster.settle(members - 1);
  const settledMs = cluster.clock.monotonicMs() - startMs;
  cluster.healLink(holder, owner);
  await cluster.clock.advance(OWED_MS);
  await clients.getEverywhere(deleted);
  cluster.startControl(owner);
  await settleUnderTraffic(context, members);
  return { members: members - 1, settledMs, deleted: deleted.length };
}

async function drainKilled(context: Context): Promise<Change> {
  const { traffic, pick } = context;
  const host = pick();
  await traffic(TRAFFIC_MS);
  controlOf(host).drain.start(DRAIN_SETTINGS);
  await traffic(DRAIN_LOOK_MS * 3);
  return restartControl(context, host);
}

async function controlKilled(context: Context): Promise<Change> {
  const { traffic, pick } = context;
  const host = pick();
  await traffic(TRAFFIC_MS);
  return restartControl(context, host);
}

/** Kills it, and starts it again after a while. */
async function restartControl(context: Context, host: SimHost): Promise<Change> {
  const { cluster, traffic } = context;
  const members = cluster.controls.length;
  const startMs = cluster.clock.monotonicMs();
  cluster.killControl(host);
  await traffic(PAUSE_BEFORE_RESTART_MS);
  cluster.startControl(host);
  await settleUnderTraffic(context, members);
  return { members, settledMs: cluster.clock.monotonicMs() - startMs };
}

async function sidecarKilled(context: Context): Promise<Change> {
  const { cluster, traffic, pick } = context;
  const members = cluster.controls.length;
  const host = pick();
  await traffic(TRAFFIC_MS);
  const startMs = cluster.clock.monotonicMs();
  cluster.killSidecar(host);
  await traffic(TRAFFIC_MS);
  await settleUnderTraffic(context, members);
  return { members, settledMs: cluster.clock.monotonicMs() - startMs };
}

async function hostLost(context: Context): Promise<Change> {
  const { cluster, clients, traffic, pick, deadAfterMs } = context;
  const members = cluster.controls.length;
  const host = pick();
  await traffic(TRAFFIC_MS);
  const startMs = cluster.clock.monotonicMs();
  cluster.loseHost(host);
  await settleUnderTraffic(context, members - 1);
  const settledMs = cluster.clock.monotonicMs() - startMs;
  // Until the host counts as dead, what is not found may come back with it.
  await traffic(deadAfterMs + TRAFFIC_MS);
  await clients.check();
  releaseCopies(context);
  cluster.replaceHost(host);
  await settleUnderTraffic(context, members);
  return { members: members - 1, settledMs };
}

async function linkCut(context: Context): Promise<Change> {
  const { cluster, traffic, pick, leaseMs } = context;
  const cutMs = CUT_LEASES * leaseMs;
  const members = cluster.controls.length;
  const [one, other] = [pick(), pick()];
  await traffic(TRAFFIC_MS);
  cluster.cutLink(one, other);
  const waits = await watchWaits(context);
  await traffic(cutMs / 2);
  const joining = cluster.addHost();
  await traffic(cutMs / 2);
  const startMs = cluster.clock.monotonicMs();
  cluster.healLink(one, other);
  await settleUnderTraffic(context, members + 1);
  const settledMs = cluster.clock.monotonicMs() - startMs;
  one.isCutOff = true;
  other.isCutOff = true;
  // What one could not tell the other to drop is told within this time.
  await traffic(OWED_MS);
  await cluster.stop(joining);
  await cluster.settle(members);
  releaseCopies(context);
  return { members: members + 1, settledMs, waits };
}

/** Something has just happened: of the calls that begin then, and of those that begin when it is known. */
async function watchWaits({ clients, traffic }: Context): Promise<Waits> {
  clients.takeLongestWaitMs();
  await traffic(FIRST_WAIT_MS);
  const firstMs = clients.takeLongestWaitMs();
  await traffic(TRAFFIC_MS);
  return { firstMs, laterMs: clients.takeLongestWaitMs() };
}

async function storeCut(context: Context): Promise<Change> {
  const { cluster, traffic, pick, leaseMs } = context;
  const members = cluster.controls.length;
  const host = pick();
  await traffic(TRAFFIC_MS);
  cluster.cutStore(host);
  await traffic(3 * leaseMs);
  const startMs = cluster.clock.monotonicMs();
  cluster.healStore(host);
  await settleUnderTraffic(context, members);
  return { members, settledMs: cluster.clock.monotonicMs() - startMs };
}

async function storeDown(context: Context): Promise<Change> {
  const { cluster, traffic, leaseMs } = context;
  const members = cluster.controls.length;
  await traffic(TRAFFIC_MS);
  cluster.cutStore();
  await traffic(OUTAGE_LEASES * leaseMs);
  const startMs = cluster.clock.monotonicMs();
  cluster.healStore();
  // Each finds out on its own that its lease had ended; until then all go on as they did.
  const epoch = cluster.controls[0]?.epoch;
  while (cluster.controls.some((control) => control.epoch === epoch)) {
    await traffic(SETTLE_LOOK_MS);
  }
  await settleUnderTraffic(context, members);
  return { members, settledMs: cluster.clock.monotonicMs() - startMs };
}

async function controlStopped(context: Context): Promise<Change> {
  const { cluster, traffic, pick, leaseMs } = context;
  const members = cluster.controls.length;
  const host = pick();
  await traffic(TRAFFIC_MS);
  cluster.pauseControl(host);
  const waits = await watchWaits(context);
  await traffic(3 * leaseMs);
  const startMs = cluster.clock.monotonicMs();
  cluster.resume(host);
  await settleUnderTraffic(context, members);
  return { members, settledMs: cluster.clock.monotonicMs() - startMs, waits };
}

async function paused(context: Context): Promise<Change> {
  const { cluster, traffic, pick, leaseMs } = context;
  const members = cluster.controls.length;
  const host = pick();
  await traffic(TRAFFIC_MS);
  cluster.pause(host);
  await traffic(3 * leaseMs);
  const startMs = cluster.clock.monotonicMs();
  cluster.resume(host);
  await settleUnderTraffic(context, members);
  return { members, settledMs: cluster.clock.monotonicMs() - startMs };
}
