/**
 * Goal: the C API keeps the same promises as the TypeScript client, case by case.
 * Method: capi_suite, a C program (native/capi/suite), runs each group of cases.ts against the same workers as the
 * TypeScript files of this folder: two over tcp, two over shm, and one. Each case is reported by its name; the program
 * must have exactly the cases of the table.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { run } from "../cluster/commands.js";
import type { Fixture } from "../cluster/fixture.js";
import { root } from "../contract/sources.js";
import { apiGroups, type GroupName, places } from "./cases.js";
import { startGroup } from "./suite.js";

/** Built with the native tests (HBMESH_TESTS), as `npm test` does. */
const nativeFolder = process.env["HBMESH_NATIVE_DIR"];
const suite = nativeFolder === undefined ? `${root}build/test/capi_suite` : `${nativeFolder}/../test/capi_suite`;
const groupNames = Object.keys(apiGroups) as GroupName[];
const secondsMax = 180;

it("the program has the cases of the table, no more and no less", async () => {
  const listed = await run(suite, ["list"]);
  const wanted = groupNames.flatMap((group) => apiGroups[group].cases.map((name) => `${group}\t${name}`));
  expect(listed).toMatchObject({ code: 0, stderr: "" });
  expect(listed.stdout.trimEnd().split("\n").sort()).toEqual(wanted.sort());
});

describe.each(groupNames)("C API, %s", (group) => {
  describe.each(places)("$place", (where) => {
    let fixture: Fixture;
    /** Of each case: "passed", or what did not hold. */
    const outcomes = new Map<string, string>();
    let ended = {};

    beforeAll(async () => {
      fixture = await startGroup(group, where);
      const addresses = [fixture.addresses[0] ?? "", fixture.addresses[where.workers - 1] ?? ""];
      const transport = where.workers === 1 ? "local" : where.transport;
      const { code, stdout, stderr } = await run(suite, ["run", group, ...addresses, transport]);
      let told = "";
      for (const line of stdout.trimEnd().split("\n")) {
        const [word, name = ""] = line.split("\t");
        if (word === "passed" || word === "FAILED") {
          outcomes.set(name, word === "passed" && told === "" ? word : `FAILED\n${told}`);
          told = "";
        } else {
          told += `${line}\n`;
        }
      }
      ended = { code, stderr };
      outcomes.set("", `ended with ${code}: ${told}${stderr}`); // of a case that it did not come to
    }, secondsMax * 1000);

    afterAll(async () => {
      await fixture.close();
    });

    it.each(apiGroups[group].cases)("%s", (name) => {
      const outcome = outcomes.get(name) ?? outcomes.get("");
      expect(outcome, outcome).toBe("passed");
    });

    it("the program ends well", () => {
      expect(ended).toEqual({ code: 0, stderr: "" });
    });
  });
});
