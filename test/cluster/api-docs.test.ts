/**
 * Goal: the TypeScript examples of docs/API.md do what they say, with both clients at one worker and at two.
 * Method: each is run as it stands, as the body of an async function, against the two workers that `hbmesh dev` starts.
 */
import assert from "node:assert/strict";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import * as hbmesh from "../../src/client/index.js";
import { read } from "../contract/sources.js";
import { type Fixture, startFixture } from "./fixture.js";

const examples = [...read("docs/API.md").matchAll(/<!-- example: ([\w-]+) -->\n```ts\n([\s\S]*?)```/g)].map(
  ([, name = "", code = ""]) => ({ name, code }),
);

/** A function's class that has no name of its own. */
const AsyncFunction = (async () => {}).constructor as new (
  ...parts: string[]
) => (...given: unknown[]) => Promise<void>;

let fixture: Fixture;

beforeAll(async () => {
  fixture = await startFixture();
}, 60_000);

afterAll(async () => {
  await fixture.close();
});

async function runExample(code: string, workers: readonly [number, number]): Promise<void> {
  const [client, other] = await Promise.all(workers.map((worker) => fixture.client(worker)));
  const [host, port] = (fixture.addresses[workers[0]] ?? "").split(":");
  const scope = { ...hbmesh, assert, host, port: Number(port), client, other };
  await new AsyncFunction(...Object.keys(scope), code)(...Object.values(scope));
}

describe("docs/API.md", () => {
  it("has the examples that this test knows", () => {
    const names = examples.map(({ name }) => name);
    expect(names).toEqual(expect.arrayContaining(["client", "set-get", "questions", "set-options", "explain"]));
  });

  const cases = examples.flatMap(({ name, code }) => [
    { name, code, where: "one worker", workers: [0, 0] as const },
    { name, code, where: "two workers", workers: [0, 1] as const },
  ]);

  it.each(cases)("$name, clients of $where", async ({ code, workers }) => {
    await runExample(code, workers);
  });
});
