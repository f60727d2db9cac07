/**
 * Goal: tenants never meet: what one does under a key is not there for another, at either worker, in any family; nobody
 * gets in without a token. Method: the group's cases at each place of cases.ts, with workers that have a file of three
 * tokens; the same keys with other bytes.
 */
import { expect } from "vitest";
import { StatusCode } from "../../src/base/errors.js";
import { codesOf, failureOf } from "../cluster/fixture.js";
import { apiSuite, endOf, waitMs } from "./suite.js";

apiSuite("tenants", (at, it) => {
  it("the same key of two tenants is two host objects, at either worker", async () => {
    const red = [await at.client(0, "token-red"), await at.client(1, "token-red")] as const;
    const blue = [await at.client(0, "token-blue"), await at.client(1, "token-blue")] as const;
    const plain = await at.client(1, "token-default");
    const keys = [at.key];
    expect(codesOf(await red[0].mSetD2H(keys, [at.memory(0, 1).list]))).toEqual(["OK"]);
    for (const client of blue) {
      expect((await client.exist(keys)).presences).toEqual(["MISS"]);
      expect(codesOf(await client.getMetaInfo(keys))).toEqual(["NOT_FOUND"]);
      expect(codesOf(await client.mGetH2D(keys, [at.memory(2).list]))).toEqual(["NOT_FOUND"]);
      expect((await client.delete(keys)).existed).toEqual([false]);
    }
    expect((await plain.exist(keys)).presences).toEqual(["MISS"]);
    expect(codesOf(await blue[1].mSetD2H(keys, [at.memory(0, 2, [64]).list]))).toEqual(["OK"]);
    const [ofRed, ofBlue] = [at.memory(1), at.memory(1, undefined, [64])];
    expect(codesOf(await red[1].mGetH2D(keys, [ofRed.list]))).toEqual(["OK"]);
    expect(codesOf(await blue[0].mGetH2D(keys, [ofBlue.list]))).toEqual(["OK"]);
    expect([ofRed.holds(1), ofBlue.holds(2)]).toEqual([true, true]);
    expect((await blue[0].delete(keys)).existed).toEqual([true]);
    expect((await red[1].exist(keys)).presences).toEqual(["HIT"]);
    expect((await red[1].delete(keys)).existed).toEqual([true]);
  });

  it("published and cached keys of a tenant are not there for another", async () => {
    const red = [await at.client(0, "token-red"), await at.client(1, "token-red")] as const;
    const blue = await at.client(1, "token-blue");
    const sent = await at.publish(red[0], at.key, at.memory(0, 3));
    expect(await endOf(await at.subscribe(blue, at.key, at.memory(2), 50))).toBe("FUTURE_TIMEOUT");
    const sentBlue = await at.publish(blue, at.key, at.memory(2, 4));
    const target = at.memory(1);
    expect(await endOf(await at.subscribe(red[1], at.key, target))).toBe("OK");
    expect([await endOf(sent), target.holds(3)]).toEqual(["OK", true]);
    // It is still nobody's but blue's.
    await expect(sentBlue.get(0)).rejects.toMatchObject({ code: StatusCode.FUTURE_TIMEOUT });
    const keys = [`${at.key}-cache`];
    expect(codesOf(await red[0].devMSet(keys, [at.memory(0, 5).list]))).toEqual(["OK"]);
    expect(codesOf(await blue.devMGet(keys, [at.memory(1).list]))).toEqual(["NOT_FOUND"]);
    expect((await blue.devDelete(keys)).existed).toEqual([false]);
    expect((await blue.devLocalDelete(keys)).existed).toEqual([false]);
    expect(codesOf(await red[1].devMGet(keys, [target.list], { timeoutMs: waitMs }))).toEqual(["OK"]);
    expect(target.holds(5)).toBe(true);
    expect((await red[1].devDelete(keys)).existed).toEqual([true]);
  });

  it("no token, or one that nobody has: NOT_AUTHORIZED, and no message has the token", async () => {
    for (const token of [undefined, "token-green", "token-re", "token-redd"]) {
      const failure = await failureOf(at.newClient(1, token).init());
      expect(failure.code).toBe(StatusCode.NOT_AUTHORIZED);
      expect(failure.message).toContain("token of a tenant");
      expect(failure.message).not.toContain("token-");
    }
  });

  it("messages name keys as their tenant wrote them", async () => {
    const red = await at.client(0, "token-red");
    const missing = await red.mGetH2D([at.key], [at.memory(1).list]);
    expect(codesOf(missing)).toEqual(["NOT_FOUND"]);
    expect(missing.statuses[0]?.message).not.toContain("\x1f");
    expect(codesOf(await red.mSetD2H([at.key], [at.memory(0, 6).list]))).toEqual(["OK"]);
    const refused = await failureOf((await at.subscribe(red, at.key, at.memory(1))).get(waitMs));
    expect(refused).toMatchObject({ code: StatusCode.INVALID, key: at.key });
    expect(refused.message).toContain(`key "${at.key}"`);
    const explained = JSON.stringify(await red.explain(at.key));
    expect(explained).toContain(`"${at.key}"`);
    expect(explained).not.toContain("\x1f");
    expect((await failureOf(red.mSetD2H(["a\x1fb"], [at.memory(0, 6).list]))).code).toBe(StatusCode.INVALID);
    expect((await red.delete([at.key])).existed).toEqual([true]);
  });
});
