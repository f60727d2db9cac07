/**
 * Goal: the judge of a simulation finds what it is there for. Method: answers that are right and wrong, one by one.
 */
import { describe, expect, it } from "vitest";
import { StatusCode } from "../../src/base/errors.js";
import { Model } from "../../src/sim/model.js";
import type { SimAnswer } from "../../src/sim/sidecar.js";

const HERE = { where: "host 1", isCutOff: false };
const CUT_OFF = { where: "host 2", isCutOff: true };

function answer(code: StatusCode, more: Partial<SimAnswer> = {}): SimAnswer {
  return { code, existed: false, content: undefined, message: "", ...more };
}

const OK = answer(StatusCode.OK);
const MISS = answer(StatusCode.NOT_FOUND);
const UNKNOWN = answer(StatusCode.TRY_AGAIN);
const found = (content: number, isLocal = false): SimAnswer => answer(StatusCode.OK, { content, isLocal });

function modelWith(hasBytes: boolean): Model {
  const model = new Model({ hasBytes: () => hasBytes });
  model.beginSet("a", 5, 0)(OK, HERE);
  return model;
}

describe("the model of a simulation", () => {
  it("takes what was set, and unknown", () => {
    const model = modelWith(true);
    model.beginGet("a")(found(5), HERE);
    model.beginGet("a")(UNKNOWN, HERE);
    model.beginGet("never")(MISS, HERE);
    expect(model.violations).toEqual([]);
    expect(model.counts).toMatchObject({ hits: 1, unknown: 1, misses: 1, writes: 1 });
    expect(model.certain).toEqual(["a"]);
  });

  it("finds a miss of a key whose bytes are there; without bytes it is lost, once", () => {
    const wrong = modelWith(true);
    wrong.beginGet("a")(MISS, HERE);
    expect(wrong.violations).toEqual(["get a at host 1: a miss, but its bytes are there"]);
    const lost = modelWith(false);
    lost.beginGet("a")(MISS, HERE);
    lost.beginGet("a")(MISS, HERE);
    expect(lost.violations).toEqual([]);
    expect(lost.counts).toMatchObject({ misses: 2, lostWithBytes: 1 });
  });

  it("finds other bytes than were set, and bytes of what was deleted", () => {
    const model = modelWith(true);
    model.beginGet("a")(found(6), HERE);
    model.beginDelete("a")(OK);
    model.beginGet("a")(found(5), HERE);
    expect(model.violations).toHaveLength(2);
    expect(model.violations[0]).toContain("content 6, possible are 5");
  });

  it("allows what a cut-off host serves of its own, but not what it got from others", () => {
    const model = modelWith(true);
    model.beginSet("a", 6, 2)(OK, HERE);
    model.beginGet("a")(found(5, true), CUT_OFF);
    expect(model.violations).toEqual([]);
    expect(model.counts.staleLocal).toBe(1);
    model.beginGet("a")(found(5), CUT_OFF);
    model.beginGet("a")(found(5, true), HERE);
    expect(model.violations).toHaveLength(2);
  });

  it("finds a set that claims that a deleted key exists", () => {
    const model = modelWith(true);
    model.beginDelete("a")(OK);
    model.beginSet("a", 6, 0)(answer(StatusCode.OK, { existed: true }), HERE);
    expect(model.violations).toEqual(["set a at host 1: it is said to exist, but was deleted, or never set"]);
  });

  it("allows both ends of a write that failed, and of one under way", () => {
    const model = modelWith(true);
    const reading = model.beginGet("a");
    const writing = model.beginSet("a", 6, 2);
    expect(model.isFree("a")).toBe(false);
    reading(found(6), HERE);
    model.beginGet("a")(found(5), HERE);
    writing(UNKNOWN, HERE);
    model.beginGet("a")(found(5), HERE);
    model.beginGet("a")(found(6), HERE);
    expect(model.violations).toEqual([]);
    expect(model.isFree("a"), "it may have its effect at any time").toBe(false);
  });
});
