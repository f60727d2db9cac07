/**
 * Goal: orphans are waited for, and never a child that Node waits for itself. Method: a process table by hand, and time
 * that goes on when the test says so; what Node does in a turn of its loop is done by the test between two looks.
 */
import { describe, expect, it } from "vitest";
import { Reaper } from "../../../src/cli/reaper.js";

class Table {
  readonly reaped: number[] = [];
  zombies: { pid: number; startTicks: bigint }[] = [];
  readonly #due: (() => void)[] = [];
  readonly reaper = new Reaper({
    zombies: () => this.zombies,
    reap: (pid) => {
      this.reaped.push(pid);
      this.zombies = this.zombies.filter((each) => each.pid !== pid);
    },
    later: (_, look) => void this.#due.push(look),
  });

  get looksToCome(): number {
    return this.#due.length;
  }

  /** The time for a look comes. */
  turn(): void {
    this.#due.shift()?.();
  }
}

describe("Reaper", () => {
  it("reaps what two looks have found defunct, and rests when nothing is left", () => {
    const table = new Table();
    table.reaper.wake();
    table.zombies = [{ pid: 7, startTicks: 1n }];
    table.turn();
    expect(table.reaped).toEqual([]);
    table.zombies.push({ pid: 8, startTicks: 1n });
    table.turn();
    expect(table.reaped).toEqual([7]);
    table.turn();
    expect(table.reaped).toEqual([7, 8]);
    expect(table.looksToCome).toBe(0);
  });

  it("leaves to Node what Node waits for between two looks", () => {
    const table = new Table();
    table.zombies = [{ pid: 7, startTicks: 1n }];
    table.reaper.wake();
    table.turn();
    table.zombies = []; // libuv has waited
    table.turn();
    expect(table.reaped).toEqual([]);
    expect(table.looksToCome).toBe(0);
  });

  it("takes a process whose number is used again for the other one that it is", () => {
    const table = new Table();
    table.zombies = [{ pid: 7, startTicks: 1n }];
    table.reaper.wake();
    table.turn();
    table.zombies = [{ pid: 7, startTicks: 2n }];
    table.turn();
    expect(table.reaped).toEqual([]);
    table.turn();
    expect(table.reaped).toEqual([7]);
  });

  it("many ends at once cost one look", () => {
    const table = new Table();
    for (let count = 0; count < 100; count += 1) {
      table.reaper.wake();
    }
    expect(table.looksToCome).toBe(1);
  });
});
