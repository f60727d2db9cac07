/**
 * Goal: over many random steps (sets of each kind and family, gets, deletes, copies that are shared, objects that
 * expire, sidecars that die, members that join and leave) the cluster answers as a plain map would.
 * Method: one operation at a time against a model; operations of one step touch disjoint keys, so that their order
 * doesn't matter. The seed is printed; HBMESH_SEED repeats a run.
 */
import { describe, expect, it } from "vitest";
import { StatusCode } from "../../../src/base/errors.js";
import { createSeededRandom, type RandomSource } from "../../../src/base/random.js";
import type { ResultRecord } from "../../../src/decision/index.js";
import { FakeCluster, type FakeWorker } from "./fake-cluster.js";
import type { Family } from "./fake-memory.js";
import type { Existence, FakeSidecar } from "./fake-sidecar.js";

const STEPS = 200;
const SIZES = [10n, 20n];
const LOCATIONS_MAX = 4;
const KEYS = Array.from({ length: 60 }, (_, index) => `random-${index}`);

interface Held {
  content: string;
  family: Family;
  holders: Set<string>;
}

/** What must be there: key to content, family and the workers that have it. */
type Model = Map<string, Held>;

function pick<T>(random: RandomSource, from: readonly T[]): T {
  return from[random.nextBelow(from.length)] as T;
}

/** 1 to 20 different keys. */
function pickKeys(random: RandomSource): string[] {
  const start = random.nextBelow(KEYS.length);
  return Array.from({ length: 1 + random.nextBelow(20) }, (_, at) => KEYS[(start + at * 7) % KEYS.length] as string);
}

async function setAndCompare(
  cluster: FakeCluster,
  worker: FakeWorker,
  model: Model,
  keys: string[],
  existence: Existence,
  family: Family,
  content: string,
): Promise<void> {
  const answers = await cluster.drive(worker.sidecar.set(keys, content, existence, SIZES, family));
  keys.forEach((key, index) => {
    const there = model.get(key);
    const sealedHere = there?.holders.has(worker.address) === true && existence !== 2;
    // What a sidecar has itself it answers without asking; the real one looks at the family too.
    const mixes = there !== undefined && there.family !== family && !sealedHere;
    const refused = there !== undefined && existence === 1;
    expect(answers[index], `set ${key}`).toMatchObject({
      code: mixes ? StatusCode.INVALID : refused ? StatusCode.KEY_ALREADY_EXISTS : StatusCode.OK,
      existed: there !== undefined && !mixes && existence === 0,
    });
    if (!mixes && (there === undefined || existence === 2)) {
      model.set(key, { content, family, holders: new Set([worker.address]) });
    }
  });
}

async function getAndCompare(
  cluster: FakeCluster,
  sidecar: FakeSidecar,
  model: Model,
  keys: string[],
  family: Family,
): Promise<void> {
  const answers = await cluster.drive(sidecar.get(keys, 0, SIZES, family));
  expect(answers.map(({ code, content }) => [code, content])).toEqual(
    keys.map((key) => {
      const there = model.get(key);
      if (there === undefined) {
        return [StatusCode.NOT_FOUND, undefined];
      }
      return there.family === family ? [StatusCode.OK, there.content] : [StatusCode.INVALID, undefined];
    }),
  );
}

async function deleteAndCompare(
  cluster: FakeCluster,
  sidecar: FakeSidecar,
  model: Model,
  keys: string[],
  family: Family,
): Promise<void> {
  const answers = await cluster.drive(sidecar.delete(keys, family));
  const mixes = (key: string): boolean => (model.get(key)?.family ?? family) !== family;
  expect(answers.map(({ code, existed }) => [code, existed])).toEqual(
    keys.map((key) => [mixes(key) ? StatusCode.INVALID : StatusCode.OK, model.has(key) && !mixes(key)]),
  );
  for (const key of keys.filter((each) => !mixes(each))) {
    model.delete(key);
  }
}

/** A reader offers what it read; it knows the version from a lookup. */
async function shareAndCompare(cluster: FakeCluster, worker: FakeWorker, model: Model, keys: string[]): Promise<void> {
  for (const key of keys) {
    const there = model.get(key);
    if (there === undefined || there.holders.has(worker.address)) {
      continue;
    }
    const [record] = await cluster.drive(worker.sidecar.presence([key]));
    const shared = await cluster.drive(worker.sidecar.share(key, record as ResultRecord, there.content, there.family));
    // Of host objects the last place is kept for the object itself.
    const isFull = there.holders.size >= (there.family === 2 ? LOCATIONS_MAX : LOCATIONS_MAX - 1);
    expect(shared.code, `share ${key}`).toBe(isFull ? StatusCode.NO_SPACE : StatusCode.OK);
    if (!isFull) {
      there.holders.add(worker.address);
    }
  }
}

async function loseAndCompare(cluster: FakeCluster, worker: FakeWorker, model: Model, keys: string[]): Promise<void> {
  const lost = keys.filter((key) => model.get(key)?.holders.has(worker.address));
  worker.sidecar.lose(lost);
  for (const key of lost) {
    const there = model.get(key) as Held;
    there.holders.delete(worker.address);
    if (there.holders.size === 0) {
      model.delete(key);
    }
  }
  await cluster.clock.advance(20);
}

/** It adopts what it had, copies that are all that is left of a version too. */
async function restartSidecar(cluster: FakeCluster, worker: FakeWorker): Promise<void> {
  worker.sidecar.die("killed by the test");
  await cluster.clock.advance(50);
  await cluster.ready();
}

async function leave(cluster: FakeCluster, worker: FakeWorker, model: Model): Promise<void> {
  cluster.workers.splice(cluster.workers.indexOf(worker), 1);
  await cluster.drive(worker.control.close());
  await cluster.ready();
  for (const [key, { holders }] of model) {
    holders.delete(worker.address);
    if (holders.size === 0) {
      model.delete(key);
    }
  }
}

describe("a cluster under random operations", () => {
  const seed = Number(process.env["HBMESH_SEED"] ?? Date.now() % 1_000_000);

  it(`answers as a map would (HBMESH_SEED=${seed})`, async () => {
    process.stdout.write(`HBMESH_SEED=${seed}\n`);
    const random = createSeededRandom(seed);
    const cluster = new FakeCluster();
    const model: Model = new Map();
    // Members know each other for longer than that before anything happens (src/control/absences.ts).
    const settings = { sidecarRestartsMax: 1_000, deadAfterMs: 10 };
    let started = 0;
    try {
      await cluster.start(++started, settings);
      await cluster.start(++started, settings);
      for (let step = 0; step < STEPS; step++) {
        const worker = pick(random, cluster.workers);
        const keys = pickKeys(random);
        const dice = random.nextBelow(100);
        const family = pick<Family>(random, [0, 0, 1, 2]);
        if (dice < 35) {
          const existence = pick<Existence>(random, [0, 0, 1, 2]);
          await setAndCompare(cluster, worker, model, keys, existence, family, `${seed}/${step}`);
        } else if (dice < 55) {
          await getAndCompare(cluster, worker.sidecar, model, keys, family);
        } else if (dice < 68) {
          await deleteAndCompare(cluster, worker.sidecar, model, keys, family);
        } else if (dice < 78) {
          await shareAndCompare(cluster, worker, model, keys);
        } else if (dice < 85) {
          await loseAndCompare(cluster, worker, model, keys);
        } else if (dice < 93) {
          await restartSidecar(cluster, worker);
        } else if (dice < 97 && cluster.workers.length < 5) {
          await cluster.start(++started, settings);
        } else if (cluster.workers.length > 2) {
          await leave(cluster, worker, model);
        }
      }
      for (const family of [0, 1, 2] as const) {
        await getAndCompare(cluster, pick(random, cluster.workers).sidecar, model, KEYS, family);
      }
      const held = cluster.workers.flatMap(({ address, memory }) =>
        [...memory.objects.values()].map(({ key }) => `${key} ${address}`),
      );
      const expected = [...model].flatMap(([key, { holders }]) => [...holders].map((address) => `${key} ${address}`));
      expect(held.sort()).toEqual(expected.sort());
    } finally {
      await cluster.close();
    }
  });
});
