/**
 * Goal: sixteen devices, each sending to each of the others at once, never deadlock, and all bytes are right.
 * Method: a client a device publishes to the fifteen others in one call and subscribes to what they send in one call,
 * all at the same time; on one worker with sixteen devices, and on two with eight each over tcp and over shm. The
 * test's own time limit is the watchdog.
 */
import { afterEach, describe, expect, it } from "vitest";
import type { HeteroClient } from "../../src/client/index.js";
import { DeviceObject, type Fixture, startFixture } from "../cluster/fixture.js";

const cards = 16;
const sizes = [64 * 1024, 4_096, 333];
const waitMs = 50_000;

let fixture: Fixture | undefined;
let made: DeviceObject[] = [];

afterEach(async () => {
  for (const object of made) {
    object.free();
  }
  made = [];
  await fixture?.close();
  fixture = undefined;
});

function memory(device: number, seed?: number): DeviceObject {
  const object = new DeviceObject(device, sizes, seed);
  made.push(object);
  return object;
}

interface Card {
  readonly number: number;
  readonly client: HeteroClient;
  readonly device: number;
}

const seedOf = (round: number, from: number, to: number): number => 1 + (round * cards + from) * cards + to;

/** What this card sends to and receives from each of the others; resolves when all of it has ended. */
async function exchange(card: Card, round: number): Promise<boolean> {
  const others = Array.from({ length: cards }, (_, index) => index).filter((index) => index !== card.number);
  const sources = others.map((other) => memory(card.device, seedOf(round, card.number, other)));
  const targets = others.map(() => memory(card.device));
  const [received, sent] = await Promise.all([
    card.client.devSubscribe(
      others.map((other) => `r${round}-${other}-${card.number}`),
      targets.map((target) => target.list),
    ),
    card.client.devPublish(
      others.map((other) => `r${round}-${card.number}-${other}`),
      sources.map((source) => source.list),
    ),
  ]);
  await Promise.all([...received, ...sent].map((future) => future.get(waitMs)));
  return targets.every((target, index) => target.holds(seedOf(round, others[index] ?? 0, card.number)));
}

describe.each([
  { place: "one worker with 16 devices", workers: 1, transport: "tcp" },
  { place: "two workers with 8 each over tcp", workers: 2, transport: "tcp" },
  { place: "two workers with 8 each over shm", workers: 2, transport: "shm" },
] as const)("$place", ({ workers, transport }) => {
  it("each sends to each at once, twice", async () => {
    const devices = cards / workers;
    const running = await startFixture({ workers, transport, devices });
    fixture = running;
    const all = await Promise.all(
      Array.from({ length: cards }, async (_, number): Promise<Card> => {
        return { number, client: await running.client(Math.floor(number / devices)), device: number % devices };
      }),
    );
    for (const round of [0, 1]) {
      expect(await Promise.all(all.map((card) => exchange(card, round)))).toEqual(all.map(() => true));
    }
  });
});
