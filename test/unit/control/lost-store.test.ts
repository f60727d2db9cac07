/**
 * Goal: after the store has lost its data, no two members have one id, the counter and the settings are there again,
 * and everything sealed is found; a worker whose id another one has meanwhile goes on under a new one. Method: a
 * cluster in virtual time; what the store had is deleted, or written as a worker does that joins an empty store.
 * test/network loses the data of a real etcd.
 */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type Member, MemberSchema } from "../../../src/gen/hbmesh/v1/cluster_pb.js";
import { FakeCluster, type FakeWorker } from "./fake-cluster.js";

const KEYS = Array.from({ length: 20 }, (_, index) => `key-${index}`);
const PREFIX = "hbmesh/default/";

let cluster: FakeCluster;
let workers: FakeWorker[];

beforeEach(async () => {
  cluster = new FakeCluster();
  workers = [await cluster.start(1), await cluster.start(2), await cluster.start(3)];
  for (const [index, { sidecar }] of workers.entries()) {
    await cluster.drive(sidecar.set([`${KEYS[index]}`], `from ${index + 1}`));
  }
});

afterEach(() => cluster.close());

const idsAt = ({ control }: FakeWorker): number[] => control.members.map(({ id }) => id);
const textOf = async (key: string): Promise<string | undefined> => {
  const entry = await cluster.store.get(`${PREFIX}${key}`);
  return entry === undefined ? undefined : Buffer.from(entry.value).toString();
};
const expectAllFound = async (all: readonly FakeWorker[]): Promise<void> => {
  for (const { sidecar } of all) {
    const found = await cluster.drive(sidecar.get(KEYS.slice(0, 3)));
    expect(found.map(({ content }) => content)).toEqual(["from 1", "from 2", "from 3"]);
  }
};

describe("a store that has lost its data", () => {
  it("gets it back from the members, and gives no id twice", async () => {
    const { entries } = await cluster.store.getPrefix(PREFIX);
    const shared = entries.filter(({ key }) => !key.includes("members/"));
    expect(shared.map(({ key }) => key.slice(PREFIX.length))).toEqual([
      "next_member_id",
      "settings/cluster_token",
      "settings/key_rule",
    ]);
    await Promise.all(entries.map(({ key }) => cluster.store.delete(key)));
    await cluster.clock.advance(5_000);
    await cluster.ready();
    expect(idsAt(workers[0] as FakeWorker)).toEqual([1, 2, 3]);
    const joined = await cluster.start(4);
    expect(idsAt(joined)).toEqual([1, 2, 3, 4]);
    expect(await textOf("next_member_id")).toBe("5");
    expect(await textOf("settings/key_rule")).toBe("strict");
    await expectAllFound([...workers, joined]);
  });

  it("an older state of the counter: who joins gets an id above those in use", async () => {
    await cluster.store.put(`${PREFIX}next_member_id`, Buffer.from("2"));
    const joined = await cluster.start(4);
    expect(idsAt(joined)).toEqual([1, 2, 3, 4]);
    expect(await textOf("next_member_id")).toBe("5");
  });

  it("another worker has one's id: it goes on under a new one, with all that it holds", async () => {
    const key = `${PREFIX}members/2`;
    const own = fromBinary(MemberSchema, (await cluster.store.get(key))?.value ?? new Uint8Array());
    const other: Member = create(MemberSchema, {
      ...own,
      workerAddress: "127.0.0.1:29999",
      linkAddress: "127.0.0.1:9",
    });
    await cluster.store.put(key, toBinary(MemberSchema, other));
    await cluster.clock.advance(1_000);
    expect(idsAt(workers[0] as FakeWorker)).toEqual([1, 2, 3, 4]);
    expect(workers[1]?.control.memberId).toBe(4);
    // That one is nobody here.
    await cluster.store.delete(key);
    await cluster.clock.advance(1_000);
    await cluster.ready();
    await cluster.clock.advance(60_000);
    expect(idsAt(workers[0] as FakeWorker)).toEqual([1, 3, 4]);
    await expectAllFound(workers);
  });
});
