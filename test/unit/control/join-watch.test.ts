/**
 * Goal: a worker joins although its watch of the store breaks while it does: a record that was written meanwhile is
 * written again, since it never comes as a change. Method: a member in virtual time on a memory store whose first
 * watches end after their snapshot, as with an etcd of several of which one is away.
 */
import { describe, expect, it } from "vitest";
import { createVirtualClock } from "../../../src/base/clock.js";
import { HbmeshError, StatusCode } from "../../../src/base/errors.js";
import { createSilentLogger } from "../../../src/base/log.js";
import { createSeededRandom } from "../../../src/base/random.js";
import { Membership, type MembershipView } from "../../../src/control/membership.js";
import { createMemoryStore, type Store } from "../../../src/metadata/index.js";

/** The first `times` watches give what is there, and then break. */
function breakingWatches(store: Store, times: number): Store {
  let left = times;
  return new Proxy(store, {
    get: (target, name) => {
      if (name !== "watch") {
        const value: unknown = Reflect.get(target, name);
        return typeof value === "function" ? value.bind(target) : value;
      }
      return async function* (prefix: string, options: { signal: AbortSignal }) {
        for await (const batch of target.watch(prefix, options)) {
          yield batch;
          if (left > 0) {
            left -= 1;
            throw new HbmeshError(StatusCode.RPC_UNAVAILABLE, "no connection");
          }
        }
      };
    },
  });
}

describe("joining", () => {
  it.each([0, 1, 2, 5])("%i watches break after their snapshot: it joins, with one record", async (times) => {
    const clock = createVirtualClock();
    const store = createMemoryStore(clock);
    const views: MembershipView[] = [];
    const membership = new Membership({
      store: breakingWatches(store, times),
      clock,
      log: createSilentLogger(),
      random: createSeededRandom(1),
      clusterName: "default",
      keyRule: "strict",
      tokenMark: "none",
      leaseMs: 4_000,
      describeSelf: () => ({
        workerAddress: "127.0.0.1:31501",
        linkAddress: "127.0.0.1:1",
        transports: [],
        weight: 1,
        hostId: "host",
        deviceCount: 1,
        remoteH2dDeviceIds: [],
      }),
      onView: (view) => views.push(view),
      onRenewed: () => {},
      onEvicted: (reason) => {
        throw reason;
      },
    });
    const joined = membership.join();
    joined.catch(() => {});
    await clock.advance(5_000);
    await joined;
    expect(views.at(-1)?.selfId).toBe(1);
    expect([...(views.at(-1)?.members.keys() ?? [])]).toEqual([1]);
    const { entries } = await store.getPrefix("hbmesh/default/members/");
    expect(entries.map(({ key }) => key)).toEqual(["hbmesh/default/members/1"]);
    expect(views.at(-1)?.members.get(1)?.revision).toBe(entries[0]?.modifyRevision);
    await membership.leave();
  });
});
