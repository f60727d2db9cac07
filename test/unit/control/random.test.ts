/**
 * Goal: over many random steps (sets of each kind, gets, deletes, sidecars that die, members that join and leave) the cluster answers as a plain map would.
 * Method: one operation at a time against a model; operations of one step touch disjoint keys, so that their order doesn't matter. The seed is
 * printed; HBMESH_SEED repeats a run.
 */
import { describe, expect, it } from "vitest";
import { StatusCode } from "../../../src/base/errors.js";
import { createSeededRandom, type RandomSource } from "../../../src/base/random.js";
import { FakeCluster, type FakeWorker } from "./fake-cluster.js";
import type { Existence, FakeSidecar } from "./fake-sidecar.js";

const STEPS = 150;
const KEYS = Array.from({ length: 60 }, (_, index) => `random-${index}`);

interface Held {
  content: string;
  holder: string;
}

/** What must be there: key to content and to the worker that has it. */
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
  content: string,
): Promise<void> {
  const answers = await cluster.drive(worker.sidecar.set(keys, content, existence));
  keys.forEach((key, index) => {
    const there = model.has(key);
    const refused = there && existence === 1;
    expect(answers[index], `set ${key}`).toMatchObject({
      code: refused ? StatusCode.KEY_ALREADY_EXISTS : StatusCode.OK,
      existed: there && existence === 0,
    });
    if (!there || existence === 2) {
      model.set(key, { content, holder: worker.address });
    }
  });
}

async function getAndCompare(cluster: FakeCluster, sidecar: FakeSidecar, model: Model, keys: string[]): Promise<void> {
  const answers = await cluster.drive(sidecar.get(keys));
  expect(answers.map(({ code, content }) => [code, content])).toEqual(
    keys.map((key) => (model.has(key) ? [StatusCode.OK, model.get(key)?.content] : [StatusCode.NOT_FOUND, undefined])),
  );
}

async function deleteAndCompare(
  cluster: FakeCluster,
  sidecar: FakeSidecar,
  model: Model,
  keys: string[],
): Promise<void> {
  const answers = await cluster.drive(sidecar.delete(keys));
  expect(answers.map(({ code, existed }) => [code, existed])).toEqual(
    keys.map((key) => [StatusCode.OK, model.has(key)]),
  );
  for (const key of keys) {
    model.delete(key);
  }
}

async function restartSidecar(cluster: FakeCluster, worker: FakeWorker): Promise<void> {
  worker.sidecar.die("killed by the test");
  await cluster.clock.advance(50);
  await cluster.ready();
}

async function leave(cluster: FakeCluster, worker: FakeWorker, model: Model): Promise<void> {
  cluster.workers.splice(cluster.workers.indexOf(worker), 1);
  await cluster.drive(worker.control.close());
  await cluster.ready();
  for (const [key, { holder }] of model) {
    if (holder === worker.address) {
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
    const settings = { sidecarRestartsMax: 1_000 };
    let started = 0;
    try {
      await cluster.start(++started, settings);
      await cluster.start(++started, settings);
      for (let step = 0; step < STEPS; step++) {
        const worker = pick(random, cluster.workers);
        const keys = pickKeys(random);
        const dice = random.nextBelow(100);
        if (dice < 40) {
          await setAndCompare(cluster, worker, model, keys, pick<Existence>(random, [0, 0, 1, 2]), `${seed}/${step}`);
        } else if (dice < 70) {
          await getAndCompare(cluster, worker.sidecar, model, keys);
        } else if (dice < 85) {
          await deleteAndCompare(cluster, worker.sidecar, model, keys);
        } else if (dice < 93) {
          await restartSidecar(cluster, worker);
        } else if (dice < 97 && cluster.workers.length < 5) {
          await cluster.start(++started, settings);
        } else if (cluster.workers.length > 2) {
          await leave(cluster, worker, model);
        }
      }
      await getAndCompare(cluster, pick(random, cluster.workers).sidecar, model, KEYS);
      const held = cluster.workers.flatMap(({ memory }) => [...memory.objects.values()].map(({ key }) => key));
      expect(held.sort()).toEqual([...model.keys()].sort());
    } finally {
      await cluster.close();
    }
  });
});
