/**
 * Goal: whatever races (commit with remove, announce with replace, an offered copy with a delete, each of them with a
 * change of the ring), when everything has come to rest the directory knows exactly the objects that are there, each
 * key has one version, and every call has ended. Method: rounds of calls at once on few keys, from all workers, with a
 * change of the ring, a dead sidecar or a cut link in their midst; after each round the memories of the sidecars are
 * compared with what the owners answer. The seed is printed; HBMESH_SEED repeats a run.
 */
import { describe, expect, it } from "vitest";
import { StatusCode } from "../../../src/base/errors.js";
import { createSeededRandom, type RandomSource } from "../../../src/base/random.js";
import { FakeCluster, type FakeWorker } from "./fake-cluster.js";
import type { Family } from "./fake-memory.js";
import type { Existence } from "./fake-sidecar.js";

const ROUNDS = 60;
const CALLS_PER_ROUND = 10;
const KEYS = Array.from({ length: 12 }, (_, index) => `race-${index}`);
const SIZES = [10n, 20n];

function pick<T>(random: RandomSource, from: readonly T[]): T {
  return from[random.nextBelow(from.length)] as T;
}

class Race {
  readonly cluster = new FakeCluster();
  readonly #random: RandomSource;
  #started = 0;
  #content = 0;

  constructor(random: RandomSource) {
    this.#random = random;
  }

  async start(settle: boolean): Promise<void> {
    await this.cluster.start(++this.#started, { sidecarRestartsMax: 1_000 }, { settle });
  }

  async round(): Promise<void> {
    const { cluster } = this;
    const random = this.#random;
    const calls: Promise<unknown>[] = [];
    const disturbAt = random.nextBelow(CALLS_PER_ROUND);
    let disturbed: Promise<unknown> = Promise.resolve();
    for (let call = 0; call < CALLS_PER_ROUND; call++) {
      // Calls on a sidecar that dies reject; that they end at all is what counts.
      calls.push(this.#call(pick(random, cluster.workers)).catch(() => undefined));
      if (call === disturbAt) {
        disturbed = this.#disturb();
      }
      await this.#turns(random.nextBelow(12));
      if (random.nextBelow(4) === 0) {
        await cluster.clock.advance(random.nextBelow(30));
      }
    }
    await cluster.drive(Promise.all([...calls, disturbed]));
    for (const worker of cluster.workers) {
      cluster.heal(worker);
    }
    await cluster.clock.advance(3_000);
    await cluster.ready();
    await cluster.clock.advance(1_000);
  }

  /** The directory is what is there. */
  async compare(what: string): Promise<void> {
    const { cluster } = this;
    const there = new Map<string, string[]>();
    for (const { control, memory } of cluster.workers) {
      for (const { key, slot, generation, state } of memory.objects.values()) {
        expect(state, `${what}: ${key} at member ${control.memberId}`).toBe("sealed");
        const places = there.get(key) ?? [];
        there.set(key, places);
        places.push(`${generation} at ${control.memberId}/${slot}`);
      }
    }
    for (const { sidecar } of cluster.workers) {
      const known = await cluster.drive(sidecar.presence(KEYS));
      const places = KEYS.map((key, index) => {
        const { generation, locations } = known[index] ?? { generation: 0n, locations: [] };
        return [key, locations.map(({ member, slot }) => `${generation} at ${member}/${slot}`).sort()];
      });
      expect(places, what).toEqual(KEYS.map((key) => [key, (there.get(key) ?? []).sort()]));
      expect(known.map(({ code }) => code)).toEqual(
        KEYS.map((key) => (there.has(key) ? StatusCode.OK : StatusCode.NOT_FOUND)),
      );
    }
  }

  async #turns(count: number): Promise<void> {
    for (let left = count; left > 0; left--) {
      await Promise.resolve();
    }
  }

  #keys(): string[] {
    const start = this.#random.nextBelow(KEYS.length);
    const count = 1 + this.#random.nextBelow(4);
    return Array.from({ length: count }, (_, at) => KEYS[(start + at) % KEYS.length] as string);
  }

  async #call({ sidecar, memory }: FakeWorker): Promise<unknown> {
    const random = this.#random;
    const keys = this.#keys();
    const family = pick<Family>(random, [0, 0, 0, 2]);
    const dice = random.nextBelow(100);
    if (dice < 45) {
      const existence = pick<Existence>(random, [0, 0, 1, 2, 2]);
      sidecar.atOnce = random.nextBelow(4) === 0 ? undefined : () => this.#turns(random.nextBelow(40));
      return sidecar.set(keys, `content ${++this.#content}`, existence, SIZES, family);
    }
    if (dice < 70) {
      return sidecar.delete(keys, family);
    }
    if (dice < 80) {
      return sidecar.get(keys, random.nextBelow(3) * 100, SIZES, family);
    }
    if (dice < 90) {
      const sealed = keys.filter((key) => memory.sealedByKey(key) !== undefined);
      return sidecar.lose(sealed);
    }
    const [key = ""] = keys;
    const [record] = await sidecar.presence([key]);
    if (record?.code !== StatusCode.OK || memory.sealedByKey(key) !== undefined) {
      return undefined;
    }
    return sidecar.share(key, record, "a copy", record.family as Family);
  }

  async #disturb(): Promise<unknown> {
    const { cluster } = this;
    const random = this.#random;
    const dice = random.nextBelow(100);
    const victim = pick(random, cluster.workers);
    if (dice < 35 && cluster.workers.length < 5) {
      return this.start(false);
    }
    if (dice < 60 && cluster.workers.length > 2) {
      cluster.workers.splice(cluster.workers.indexOf(victim), 1);
      return victim.control.close();
    }
    if (dice < 75) {
      return victim.sidecar.die("killed by the test");
    }
    if (dice < 85) {
      cluster.isolate(victim);
    }
    return undefined;
  }
}

/** Lets other work go on for so many turns of the microtask queue. */
async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) {
    await Promise.resolve();
  }
}

/** Enough to go past the end of a set over the links in memory. */
const TURNS_MAX = 150;

describe("one event at every moment of a set", () => {
  const sweep = async (event: (race: Race) => Promise<unknown>): Promise<void> => {
    const race = new Race(createSeededRandom(1));
    const [key = ""] = KEYS;
    try {
      await race.start(true);
      await race.start(true);
      const [a] = race.cluster.workers as [FakeWorker];
      for (let moment = 0; moment < TURNS_MAX; moment += 3) {
        await race.cluster.drive(a.sidecar.set([key], "old", 2));
        const setting = a.sidecar.set([key], "new", 2).catch(() => undefined);
        await turns(moment);
        const ended = event(race).catch(() => undefined);
        await race.cluster.drive(Promise.all([setting, ended]));
        await race.cluster.clock.advance(1_000);
        await race.cluster.ready();
        await race.compare(`after ${moment} turns`);
      }
    } finally {
      await race.cluster.close();
    }
  };

  it("a delete: neither the new version nor the one that it replaced stays behind unknown", async () => {
    await sweep(async ({ cluster }) => (cluster.workers[1] as FakeWorker).sidecar.delete([KEYS[0] as string]));
  });

  it("the death of the setter's sidecar: what its successor doesn't have is known to nobody", async () => {
    await sweep(async ({ cluster }) => (cluster.workers[0] as FakeWorker).sidecar.die("killed by the test"));
  });

  it("a replacement by another worker: one version is left", async () => {
    await sweep(async ({ cluster }) => (cluster.workers[1] as FakeWorker).sidecar.set([KEYS[0] as string], "other", 2));
  });
});

describe("races", () => {
  const seed = Number(process.env["HBMESH_SEED"] ?? Date.now() % 1_000_000);

  it(`leave the directory and the memories the same (HBMESH_SEED=${seed})`, { timeout: 120_000 }, async () => {
    process.stdout.write(`HBMESH_SEED=${seed}\n`);
    const race = new Race(createSeededRandom(seed));
    try {
      await race.start(true);
      await race.start(true);
      await race.start(true);
      for (let round = 0; round < ROUNDS; round++) {
        await race.round();
        await race.compare(`round ${round}`);
      }
    } finally {
      await race.cluster.close();
    }
  });
});
