/**
 * Goal: the C API gives the same answers as the TypeScript client from real workers.
 * Method: run capi_suite, a C program with the cases of native/capi, against both workers of a cluster over tcp and over shm, and of a
 * single worker, case by case; each must say that it passed, and all that it has must be in the list here.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { run } from "../cluster/commands.js";
import { type Fixture, startFixture } from "../cluster/fixture.js";
import { read, root } from "../contract/sources.js";

/** Built with the native tests (HBMESH_TESTS), as `npm test` does. */
const suite = `${root}build/test/capi_suite`;
const cases = [...read("native/capi/capi_suite.c").matchAll(/\{"(\w+)", capi_case_\w+\}/g)].map(
  (match) => match[1] ?? "",
);

it("knows the cases of the suite", () => {
  expect(cases).toEqual(
    expect.arrayContaining(["life", "host_objects", "publish_subscribe", "device_cache", "layers"]),
  );
  expect(cases.length).toBeGreaterThanOrEqual(7);
});

describe.each(["tcp", "shm"] as const)("the C API with two workers over %s", (transport) => {
  let fixture: Fixture;

  beforeAll(async () => {
    fixture = await startFixture({ transport });
  });

  afterAll(async () => {
    await fixture.close();
  });

  describe.each([0, 1])("at worker %i", (worker) => {
    it.each(cases)("%s", async (name) => {
      const result = await run(suite, [fixture.addresses[worker] ?? "", name]);
      expect(result).toEqual({ code: 0, stdout: `passed ${name}\n`, stderr: "" });
    });

    it("all in one process", async () => {
      const result = await run(suite, [fixture.addresses[worker] ?? ""]);
      expect(result).toEqual({ code: 0, stdout: cases.map((name) => `passed ${name}\n`).join(""), stderr: "" });
    });
  });
});
