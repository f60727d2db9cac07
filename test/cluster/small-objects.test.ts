/**
 * Goal: bytes are the limit of a worker, not how many objects there are: small ones fill memory and the SSD tier before
 * any is dropped, `health` and `status` say what the object table takes, and `explain` of an evicted key says what
 * there was too little of. Method: the inputs of issue 11 against a real worker with 16 or 64 MiB.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Blob, DeviceBlobList, type HeteroClient, SimDevice } from "../../src/client/index.js";
import { hbmesh } from "./commands.js";
import { type Fixture, startFixture } from "./fixture.js";

let directory: string;
let fixture: Fixture | undefined;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "hbmesh-small-test-"));
});

afterEach(async () => {
  try {
    await fixture?.close();
  } finally {
    fixture = undefined;
    rmSync(directory, { recursive: true });
  }
});

async function start(sharedMemorySizeMb: number, spillMb: number): Promise<{ client: HeteroClient; address: string }> {
  const tier = spillMb === 0 ? [] : ["--spill_directory", directory, "--spill_mb", String(spillMb)];
  fixture = await startFixture({ workers: 1, devices: 4, sharedMemorySizeMb, workerArgs: () => tier });
  return { client: await fixture.client(0), address: fixture.addresses[0] ?? "" };
}

const keysOf = (first: number, count: number): string[] =>
  Array.from({ length: count }, (_, index) => `small-${first + index}`);

/** All from one piece of memory; every set must be OK. */
async function setAll(client: HeteroClient, count: number, bytes: number, batch: number): Promise<void> {
  const device = new SimDevice(0);
  const pointer = device.allocate(bytes);
  for (let first = 0; first < count; first += batch) {
    const keys = keysOf(first, Math.min(batch, count - first));
    const blobs = keys.map(() => new DeviceBlobList(0, [new Blob(pointer, BigInt(bytes))]));
    (await client.mSetD2H(keys, blobs)).throwIfFailed();
  }
  device.free(pointer);
}

async function hits(client: HeteroClient, count: number): Promise<number> {
  const { presences } = await client.exist(keysOf(0, count));
  return presences.filter((presence) => presence === "HIT").length;
}

async function health(address: string): Promise<Record<string, number>> {
  const { stdout } = await hbmesh("health", "--json", "--worker", address);
  const facts = JSON.parse(stdout) as Record<string, unknown>;
  return Object.fromEntries(Object.entries(facts).map(([name, value]) => [name, Number(value)]));
}

describe("many small objects", () => {
  it.each([
    { count: 18_000, bytes: 4_096 },
    { count: 8_000, bytes: 8_192 },
  ])("$count of $bytes bytes fill memory and the SSD tier, and none is dropped before", async ({ count, bytes }) => {
    const { client, address } = await start(16, 64);
    await setAll(client, count, bytes, 100);
    expect(await hits(client, count)).toBe(count);
    const facts = await health(address);
    expect(facts).toMatchObject({ objects: count, usedSlots: count, evictedMemoryFull: 0, evictedTierFull: 0 });
    expect(facts.spilledBytes).toBeGreaterThan(50e6);
    expect(facts.slots).toBe(2 ** 24 / 64);
    expect(facts.tableBytes).toBeGreaterThanOrEqual(count * 64);
  });

  it("10,000 of 64 bytes fit into one call and 64 MiB", async () => {
    const { client, address } = await start(64, 0);
    await setAll(client, 10_000, 64, 10_000);
    expect(await hits(client, 10_000)).toBe(10_000);
    const status = await hbmesh("status", "--worker_address", address);
    expect(status.stdout).toMatch(/10,000 of 1,048,576/);
    const { stdout } = await hbmesh("status", "--worker_address", address, "--json");
    expect(JSON.parse(stdout)).toMatchObject({ workers: [{ usedSlots: 10_000, slots: 1_048_576 }] });
  });

  it("an evicted key says what there was too little of: memory, or the SSD tier", async () => {
    const { client, address } = await start(16, 0);
    await setAll(client, 20_000, 1_024, 1_000);
    expect(await hits(client, 20_000)).toBeGreaterThan(10_000);
    const memory = await hbmesh("explain", "small-0", "--worker", address);
    expect(memory.stdout).toMatch(/evicted \d+ ms ago to make room for others: memory was full/);
    expect((await health(address)).evictedMemoryFull).toBeGreaterThan(1_000);
    await fixture?.close();
    const withTier = await start(16, 16);
    await setAll(withTier.client, 40_000, 1_024, 1_000);
    const tier = await hbmesh("explain", "small-0", "--worker", withTier.address);
    expect(tier.stdout).toMatch(/evicted \d+ ms ago: memory and SSD tier were full; start the worker with a larger/);
    const facts = await health(withTier.address);
    expect(facts.evictedTierFull).toBeGreaterThan(1_000);
    expect(facts.spilledBytes, "the bytes of objects, not of blocks").toBeGreaterThan(0.9 * 15 * 2 ** 20);
  });
});
