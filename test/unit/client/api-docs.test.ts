/**
 * Goal: docs/API.md tells of every call, and its examples are whole.
 * Method: the methods of HeteroClient and the functions of hbmesh.h are looked up in the page; every example is parsed
 * as the body of an async function, which is how the tests with real workers run it.
 */
import { readFileSync } from "node:fs";
import ts from "typescript";
import { describe, expect, it } from "vitest";
import { HeteroClient, LayerTicket, TransferFuture } from "../../../src/client/index.js";

const read = (name: string): string => readFileSync(new URL(`../../../${name}`, import.meta.url), "utf8");
const page = read("docs/API.md");
const examples = [...page.matchAll(/<!-- example: ([\w-]+) -->\n```ts\n([\s\S]*?)```/g)].map(([, name, code]) => ({
  name,
  code: code ?? "",
}));

function publicNames(prototype: object): string[] {
  return Object.getOwnPropertyNames(prototype).filter((name) => name !== "constructor" && name !== "settle");
}

describe("docs/API.md", () => {
  it("has every method of the TypeScript client", () => {
    const names = [HeteroClient, LayerTicket, TransferFuture].flatMap((each) => publicNames(each.prototype));
    expect(names.length).toBeGreaterThan(20);
    expect(names.filter((name) => !new RegExp(`\\b${name}\\b`).test(page) && !undocumented.has(name))).toEqual([]);
  });

  it("has every function of hbmesh.h", () => {
    const header = read("native/capi/hbmesh.h");
    const names = [...header.matchAll(/^HBMESH_API [^(]*?\b(hbmesh_\w+)\(/gm)].map(([, name]) => name ?? "");
    expect(names.length).toBeGreaterThan(40);
    expect(names.filter((name) => !page.includes(name))).toEqual([]);
  });

  it("has marked every TypeScript block, each under a name of its own", () => {
    expect(examples.length).toBe([...page.matchAll(/^```ts$/gm)].length);
    expect(new Set(examples.map(({ name }) => name)).size).toBe(examples.length);
  });

  it.each(examples)("the example $name parses", ({ code }) => {
    const source = ts.transpileModule(`async function example() {\n${code}\n}`, { reportDiagnostics: true });
    expect(source.diagnostics?.map(({ messageText }) => messageText)).toEqual([]);
  });
});

/** Facts about an object rather than calls. */
const undocumented = new Set(["future", "layerCount"]);
