/**
 * Goal: the TypeScript examples of docs/API.md do what they say.
 * Method: take each block that follows an `example` comment and run it as it is against the two workers of a cluster, as
 * `hbmesh dev` starts them, with what the page says that it has: the exports of hbmesh, assert, host, port, client, other.
 */
import assert from "node:assert/strict";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import * as hbmesh from "../../src/client/index.js";
import { type Fixture, startFixture } from "../cluster/fixture.js";
import { read } from "../contract/sources.js";

const examples = [...read("docs/API.md").matchAll(/^<!-- example: (\S+) -->\n```ts\n([\s\S]*?)^```/gm)].map(
  ([, name, body]) => ({ name: name ?? "", body: body ?? "" }),
);

describe("docs/API.md", () => {
  let fixture: Fixture;

  beforeAll(async () => {
    fixture = await startFixture({ devices: 8 });
  });

  afterAll(async () => {
    await fixture.close();
  });

  it("has examples, and each has a name of its own", () => {
    expect(new Set(examples.map(({ name }) => name)).size).toBe(examples.length);
    expect(examples.length).toBeGreaterThanOrEqual(9);
  });

  it.each(examples)("$name", async ({ body }) => {
    const [host, port] = (fixture.addresses[0] ?? "").split(":");
    const client = await fixture.client(0);
    const other = await fixture.client(1);
    const scope = { ...hbmesh, assert, host, port: Number(port), client, other };
    const AsyncFunction = (async () => undefined).constructor as new (
      ...parts: string[]
    ) => (...values: unknown[]) => Promise<void>;
    const running = new AsyncFunction(...Object.keys(scope), body)(...Object.values(scope));
    // A worker whose sidecar has no lifetimes, pins and checksums refuses them, by that code and no other.
    const unserved = /ttlSeconds: 60, checksum|pin:/.test(body);
    await running.catch((error: { code?: number }) => {
      if (!unserved || error.code !== hbmesh.StatusCode.NOT_SUPPORTED) {
        throw error;
      }
    });
  });
});
