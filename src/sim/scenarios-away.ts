/** Scenarios in which a holder is away: what was deleted or replaced meanwhile stays so, and copies are not lost. */
import { encodeKeys } from "../decision/index.js";
import type { SimHost } from "./cluster.js";
import {
  type Change,
  type Context,
  controlOf,
  DRAIN_LOOK_MS,
  PAUSE_BEFORE_RESTART_MS,
  releaseCopies,
  settleUnderTraffic,
  TRAFFIC_MS,
} from "./scenario.js";

/** The owner of the time at which they were deleted is not there any more when a holder of their copies is. */
export async function deletesAway(context: Context): Promise<Change> {
  const { cluster, clients, traffic, pick } = context;
  const members = cluster.controls.length;
  const [holder, owner] = [pick(), pick()];
  await traffic(TRAFFIC_MS);
  await clients.getAt(holder, clients.model.certain);
  await cluster.clock.advance(DRAIN_LOOK_MS);
  const copied = holder.memory.allSealed().filter(({ isCopy }) => isCopy);
  const { memberId } = controlOf(owner);
  const startMs = cluster.clock.monotonicMs();
  cluster.killControl(holder);
  await cluster.settle(members - 1);
  const keys = copied.map(({ key }) => key);
  const owners = owner.running?.decisions.ownersOf(encodeKeys(keys)) ?? [];
  const mine = keys.filter((_, index) => owners[index] === memberId);
  const deleted = await clients.deleteAt(owner, mine);
  cluster.killControl(owner);
  await traffic(PAUSE_BEFORE_RESTART_MS);
  cluster.startControl(holder);
  await traffic(PAUSE_BEFORE_RESTART_MS);
  cluster.startControl(owner);
  await settleUnderTraffic(context, members);
  const settledMs = cluster.clock.monotonicMs() - startMs;
  await clients.getEverywhere(deleted);
  return { members, settledMs, deleted: deleted.length };
}

/** What took the place of an old version is gone when its holder is back, and so is the owner that knew of it. */
export async function replacedAway(context: Context): Promise<Change> {
  const { cluster, clients, traffic, leaseMs } = context;
  const members = cluster.controls.length;
  const [holder, setter] = pickApart(context, 2) as [SimHost, SimHost];
  await traffic(TRAFFIC_MS);
  const held = holder.memory.allSealed().map(({ key }) => key);
  const startMs = cluster.clock.monotonicMs();
  cluster.cutStore(holder);
  cluster.isolate(holder);
  await cluster.clock.advance(LEASES_UNTIL_AWAY * leaseMs);
  // Where others have copies it is there already.
  const replaced = await clients.setAt(setter, held, 0);
  clients.evictAt(setter, replaced);
  await cluster.clock.advance(DRAIN_LOOK_MS);
  const [owner] = pickApart(context, 1, [holder, setter]) as [SimHost];
  cluster.killControl(owner);
  await cluster.clock.advance(PAUSE_BEFORE_RESTART_MS);
  cluster.healStore(holder);
  cluster.rejoin(holder);
  await cluster.clock.advance(PAUSE_BEFORE_RESTART_MS);
  cluster.startControl(owner);
  await settleUnderTraffic(context, members);
  const settledMs = cluster.clock.monotonicMs() - startMs;
  await clients.getEverywhere(replaced);
  return { members, settledMs, deleted: replaced.length };
}

const LEASES_UNTIL_AWAY = 2;

/** Different hosts that run, and none of `others`. */
function pickApart({ pick }: Context, count: number, others: readonly SimHost[] = []): SimHost[] {
  const picked = new Set<SimHost>();
  while (picked.size < count) {
    const host = pick();
    if (!others.includes(host)) {
      picked.add(host);
    }
  }
  return [...picked];
}

/** Nobody but they has those bytes, and their owners forget where they were when both are gone. */
export async function copiesAway(context: Context): Promise<Change> {
  const { cluster, clients, traffic, leaseMs, deadAfterMs } = context;
  const members = cluster.controls.length;
  const [lost, one, other] = pickApart(context, 3) as [SimHost, SimHost, SimHost];
  await traffic(TRAFFIC_MS);
  await clients.getAt(one, clients.model.certain);
  await clients.getAt(other, clients.model.certain);
  cluster.loseHost(lost);
  await settleUnderTraffic(context, members - 1);
  await cluster.clock.advance(deadAfterMs + TRAFFIC_MS);
  await clients.check();
  // Copies of what was looked at are kept after the answer.
  await cluster.clock.advance(DRAIN_LOOK_MS);
  const orphans = clients.model.certain.filter((key) => cluster.isOnlyAt(key, [one, other]));
  const startMs = cluster.clock.monotonicMs();
  for (const host of [one, other]) {
    cluster.cutStore(host);
  }
  await cluster.clock.advance(LEASES_UNTIL_AWAY * leaseMs);
  for (const host of [one, other]) {
    cluster.healStore(host);
  }
  await cluster.settle(members - 1);
  const settledMs = cluster.clock.monotonicMs() - startMs;
  const gone = orphans.filter((key) => !cluster.isOnlyAt(key, [one, other]));
  if (gone.length > 0) {
    clients.model.violations.push(`${gone.length} of ${orphans.length} keys of which only copies were left are lost`);
  }
  await clients.check();
  releaseCopies(context);
  cluster.replaceHost(lost);
  await settleUnderTraffic(context, members);
  return { members, settledMs, orphans: orphans.length };
}
