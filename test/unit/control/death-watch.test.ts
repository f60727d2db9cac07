/**
 * Goal: a member is taken out of the store exactly when its host says that nobody listens at its link address, by the
 * few whose task that is, and never twice. Method: DeathWatch with a view, refusals and a removal that the test gives;
 * time is virtual. That real links and sockets tell of a death is shown in test/network/processes.test.ts.
 */
import { createServer } from "node:net";
import { create } from "@bufbuild/protobuf";
import { describe, expect, it } from "vitest";
import { createSystemClock, createVirtualClock } from "../../../src/base/clock.js";
import { createSilentLogger } from "../../../src/base/log.js";
import { DeathWatch } from "../../../src/control/death-watch.js";
import type { MembershipView } from "../../../src/control/membership.js";
import { MemberSchema } from "../../../src/gen/hbmesh/v1/cluster_pb.js";
import { isRefused } from "../../../src/rpc/link-socket.js";
import { freePort } from "../../cluster/etcd.js";

const linkOf = (id: number): string => `10.0.0.${id}:4000`;

function viewOf(selfId: number, ids: readonly number[]): MembershipView {
  const entries = ids.map((id) => {
    const member = create(MemberSchema, { id, workerAddress: `10.0.0.${id}:31501`, linkAddress: linkOf(id) });
    return [id, { member, revision: BigInt(id) }] as const;
  });
  return { epoch: 1n, selfId, members: new Map(entries), left: new Set(), passed: false };
}

/** A watch of member `selfId` among these; `refused` may be changed while it looks. */
function watchOf(selfId: number, ids: readonly number[]) {
  const clock = createVirtualClock();
  const state = {
    view: viewOf(selfId, ids) as MembershipView | undefined,
    refused: new Set<string>(),
    removed: [] as number[],
  };
  const watch = new DeathWatch({
    clock,
    log: createSilentLogger(),
    view: () => state.view,
    isRefused: async (address) => state.refused.has(address),
    remove: async (id) => void state.removed.push(id),
  });
  return { clock, state, watch };
}

describe("DeathWatch", () => {
  it("removes a member whose host refuses, also when it begins to refuse a moment after the link ended", async () => {
    const { clock, state, watch } = watchOf(1, [1, 2, 3]);
    watch.suspect(2);
    await clock.advance(60);
    expect(state.removed).toEqual([]);
    state.refused.add(linkOf(2));
    await clock.advance(1_000);
    expect(state.removed).toEqual([2]);
  });

  it("leaves a member alone whose host takes connections, or says nothing, and stops looking", async () => {
    const { clock, state, watch } = watchOf(1, [1, 2, 3]);
    watch.suspect(2);
    await clock.advance(1_000);
    state.refused.add(linkOf(2));
    await clock.advance(10_000);
    expect(state.removed).toEqual([]);
    expect(clock.pendingTimers).toBe(0);
  });

  it("is the task of the first three, the suspect apart", async () => {
    const ids = [4, 7, 9, 12, 15];
    for (const [selfId, suspect, expected] of [
      [4, 15, [15]],
      [9, 15, [15]],
      [12, 15, []],
      [12, 7, [7]],
      [15, 7, []],
    ] as const) {
      const { clock, state, watch } = watchOf(selfId, ids);
      state.refused.add(linkOf(suspect));
      watch.suspect(suspect);
      await clock.advance(1_000);
      expect(state.removed, `member ${selfId} about ${suspect}`).toEqual(expected);
    }
  });

  it("looks at who is at an address of which a link ended; at itself, strangers and those who left never", async () => {
    const { clock, state, watch } = watchOf(1, [1, 2, 3]);
    state.refused = new Set([linkOf(1), linkOf(2), linkOf(3)]);
    watch.suspectHost("10.0.0.2");
    watch.suspectHost("10.0.0.1");
    watch.suspectHost("10.0.0.77");
    watch.suspect(5);
    await clock.advance(1_000);
    expect(state.removed).toEqual([2]);
    state.view = undefined;
    watch.suspect(3);
    await clock.advance(1_000);
    expect(state.removed).toEqual([2]);
  });

  it("removes an id once: one that comes back was alive, behind something that refuses", async () => {
    const { clock, state, watch } = watchOf(1, [1, 2, 3]);
    state.refused.add(linkOf(2));
    for (let time = 1; time <= 3; time += 1) {
      watch.suspect(2);
      await clock.advance(1_000);
    }
    expect(state.removed).toEqual([2]);
  });
});

describe("isRefused", () => {
  it("is true where nobody listens, and false where somebody does", async () => {
    const clock = createSystemClock();
    const port = await freePort();
    expect(await isRefused(`127.0.0.1:${port}`, clock)).toBe(true);
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
    expect(await isRefused(`127.0.0.1:${port}`, clock)).toBe(false);
    await new Promise<void>((resolve) => server.close(() => resolve()));
  });
});
