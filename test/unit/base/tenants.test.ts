/**
 * Goal: tenants are read as the file says, keys of two tenants never meet, and no fault tells a token.
 */
import { describe, expect, it } from "vitest";
import { StatusCode } from "../../../src/base/errors.js";
import { hash64 } from "../../../src/base/hash64.js";
import { loadTenants, parseTenants, scopeKeys } from "../../../src/base/tenants.js";
import { createDecisions, encodeKeys, splitTenant } from "../../../src/decision/index.js";

const SECRET = "tok3n-of-somebody";

function faultOf(text: string): { code: StatusCode; message: string } {
  try {
    parseTenants(text, "tenants.txt");
  } catch (reason) {
    return reason as { code: StatusCode; message: string };
  }
  throw new Error("no fault");
}

describe("tenants", () => {
  it("are named by token, with comments and blank lines left out", () => {
    const tenants = parseTenants(`# who may ask\n\n${SECRET} red\n  other\tblue  \r\nthird red\n`, "tenants.txt");
    expect(tenants.count).toBe(2);
    expect([SECRET, "other", "third", "red", "", `${SECRET} `].map((token) => tenants.tenantOf(token))).toEqual([
      "red",
      "blue",
      "red",
      undefined,
      undefined,
      undefined,
    ]);
  });

  it.each([
    [`${SECRET} red\n${SECRET}\n`, "line 2 of the tenants file tenants.txt has 1 fields"],
    [`${SECRET} red blue`, "line 1 of the tenants file tenants.txt has 3 fields"],
    [`${SECRET} red\n\n${SECRET} blue`, "line 3 of the tenants file tenants.txt repeats the token of another line"],
    ["# nobody\n", "names nobody"],
    ["", "names nobody"],
  ])("%j is refused, without its token", (text, expected) => {
    const { code, message } = faultOf(text);
    expect(code).toBe(StatusCode.INVALID);
    expect(message).toContain(expected);
    expect(message).not.toContain(SECRET);
  });

  it("a file that isn't there is named", () => {
    expect(() => loadTenants("/nowhere/tenants")).toThrow("the tenants file /nowhere/tenants can't be read");
  });

  it("keys of a tenant have a prefix that the directory understands and no user can write", () => {
    const decisions = createDecisions();
    expect(scopeKeys("default", ["k"])).toEqual(["k"]);
    expect(scopeKeys("a", ["key"])).toEqual(["d24ec4f1a98c6e5b\x1fkey"]);
    const scoped = scopeKeys("größer", ["k".repeat(255), "x"]);
    expect(scoped.map((key) => splitTenant(key).key)).toEqual(["k".repeat(255), "x"]);
    expect(decisions.validateKeys(encodeKeys(scoped), "strict", 10)).toBeUndefined();
    expect(decisions.validateKeys(encodeKeys(scoped), "strict", 10, "user")).toMatchObject({ reason: "too-long" });
    expect(decisions.validateKeys(encodeKeys(scopeKeys("a", ["k"])), "strict", 10, "user")).toMatchObject({
      reason: "forbidden-byte",
      detail: 0x1f,
    });
    expect(new Set(["default", "a", "b", "A"].flatMap((tenant) => scopeKeys(tenant, ["k"]))).size).toBe(4);
  });

  it("the hash is XXH64", () => {
    const known: [string, bigint][] = [
      ["", 0xef46db3751d8e999n],
      ["a", 0xd24ec4f1a98c6e5bn],
      ["abc", 0x44bc2cf5ad770999n],
      ["Nobody inspects the spammish repetition", 0xfbcea83c8a378bf1n],
    ];
    expect(known.map(([text]) => hash64(Buffer.from(text)))).toEqual(known.map(([, hash]) => hash));
  });
});
