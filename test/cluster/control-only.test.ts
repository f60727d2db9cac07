/**
 * Goal: a control process without a sidecar is a full member of the ring: it keeps its share of the directory, answers
 * the API, and when it is killed its keys are found again through those who hold the bytes; clients are told why they
 * can't use it. Method: three workers, the third with --no-sidecar; 64 objects set through the first, read through the
 * second.
 */
import { afterEach, expect, it } from "vitest";
import { StatusCode } from "../../src/base/errors.js";
import { until } from "./commands.js";
import { clientOf, codesOf, DeviceObject, type Fixture, failureOf, startFixture } from "./fixture.js";

const keys = Array.from({ length: 64 }, (_, index) => `control-only-${index}`);
const sizes = [4_096, 100];

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

const objects = (device: number, seeded: boolean): DeviceObject[] =>
  keys.map((_, index) => {
    const object = new DeviceObject(device, sizes, seeded ? index : undefined);
    made.push(object);
    return object;
  });
const lists = (of: readonly DeviceObject[]) => of.map(({ list }) => list);

/** What a worker's API answers, asked as curl does. */
async function ask<Answer>(worker: string, method: string, body: object): Promise<Answer> {
  const url = `http://${worker}/hbmesh.v1.ObjectService/${method}`;
  const headers = { "content-type": "application/json" };
  const response = await fetch(url, { method: "POST", headers, body: JSON.stringify(body) });
  expect(response.status).toBe(200);
  return (await response.json()) as Answer;
}

/** The workers that own these keys. */
async function ownersOf(worker: string): Promise<string[]> {
  const answers = await Promise.all(keys.map((key) => ask<{ owner: string }>(worker, "Explain", { key })));
  return [...new Set(answers.map(({ owner }) => owner))].sort();
}

it("keeps its share of the directory, and loses none of it when it is killed", async () => {
  fixture = await startFixture({
    workers: 3,
    workerArgs: (index) => ["--dead_after_ms", "5000", ...(index === 2 ? ["--no-sidecar"] : [])],
  });
  const { addresses } = fixture;
  const [first = "", , third = ""] = addresses;
  const writer = await fixture.client(0);
  const reader = await fixture.client(1);
  expect(codesOf(await writer.mSetD2H(keys, lists(objects(0, true))))).toEqual(keys.map(() => "OK"));
  const got = objects(2, false);
  expect(codesOf(await reader.mGetH2D(keys, lists(got)))).toEqual(keys.map(() => "OK"));
  expect(got.filter((object, index) => !object.holds(index))).toEqual([]);
  expect(await ownersOf(third)).toEqual([...addresses].sort());
  const asked = await ask<{ entries: { presence: string }[] }>(third, "Exist", {
    keys: [keys[0], "control-only-none"],
  });
  expect(asked.entries.map(({ presence }) => presence)).toEqual(["PRESENCE_HIT", "PRESENCE_MISS"]);

  fixture.cluster.workers[2]?.process.kill("SIGKILL");
  await fixture.cluster.workers[2]?.ended;
  await until("the others keep its keys", async () => !(await ownersOf(first)).includes(third));
  const again = objects(3, false);
  expect(codesOf(await reader.mGetH2D(keys, lists(again), { timeoutMs: 20_000 }))).toEqual(keys.map(() => "OK"));
  expect(again.filter((object, index) => !object.holds(index))).toEqual([]);
});

it("tells a client that there is no sidecar for it", async () => {
  fixture = await startFixture({ workers: 1, workerArgs: ["--no-sidecar"] });
  const [address = ""] = fixture.addresses;
  const client = clientOf(address, { connectTimeoutMs: 300 });
  const failure = await failureOf(client.init());
  expect(StatusCode[failure.code]).toBe("NO_AVAILABLE_WORKER");
  expect(failure.message).toContain(address);
  await client.close();
});
