/**
 * Goal: a Canceller is to its listeners what an AbortSignal is, and EitherSignal tells of whichever of two aborts.
 * Method: the same steps with a Canceller, with a real AbortSignal, and with both of them joined.
 */
import { describe, expect, it } from "vitest";
import { Canceller, EitherSignal } from "../../../src/base/cancel.js";

const reason = new Error("enough");

describe("a canceller", () => {
  it("calls its listeners once, with its reason known by then", () => {
    const canceller = new Canceller();
    const told: unknown[] = [];
    canceller.addEventListener("abort", () => told.push(canceller.reason));
    expect(canceller.aborted).toBe(false);
    expect(() => canceller.throwIfAborted()).not.toThrow();
    canceller.abort(reason);
    canceller.abort(new Error("again"));
    expect(told).toEqual([reason]);
    expect(canceller.aborted).toBe(true);
    expect(() => canceller.throwIfAborted()).toThrow(reason);
  });

  it("calls nobody who went before, was there already, or comes too late", () => {
    const canceller = new Canceller();
    let calls = 0;
    const listener = (): void => {
      calls++;
    };
    const gone = (): void => {
      throw new Error("it had gone");
    };
    canceller.addEventListener("abort", listener);
    canceller.addEventListener("abort", listener);
    canceller.addEventListener("abort", gone);
    canceller.removeEventListener("abort", gone);
    canceller.abort(reason);
    canceller.addEventListener("abort", gone);
    expect(calls).toBe(1);
  });
});

describe("either of two signals", () => {
  it.each([0, 1])("aborts with number %i", (number) => {
    const canceller = new Canceller();
    const controller = new AbortController();
    const either = new EitherSignal(canceller, controller.signal);
    let calls = 0;
    const listener = (): void => {
      calls++;
    };
    either.addEventListener("abort", listener);
    expect(either.aborted).toBe(false);
    expect(() => either.throwIfAborted()).not.toThrow();
    (number === 0 ? canceller : controller).abort(reason);
    expect(calls).toBe(1);
    expect(either.aborted).toBe(true);
    expect(either.reason).toBe(reason);
    expect(() => either.throwIfAborted()).toThrow(reason);
  });

  it("tells nobody who went before", () => {
    const cancellers = [new Canceller(), new Canceller()] as const;
    const either = new EitherSignal(...cancellers);
    const gone = (): void => {
      throw new Error("it had gone");
    };
    either.addEventListener("abort", gone);
    either.removeEventListener("abort", gone);
    cancellers[0].abort(reason);
    cancellers[1].abort(new Error("later"));
    expect(either.reason).toBe(reason);
  });
});
