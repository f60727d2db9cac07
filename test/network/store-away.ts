/** What goes on while nobody reaches the store; for the short form in the gate and the long one in test/slow. */
import { expect } from "vitest";
import { until } from "../cluster/commands.js";
import type { NetworkFixture } from "./fixture.js";

const SENTENCE = "the store can't be reached, by others neither: going on with the last ring";

/**
 * Sets and gets at every host for so long after the first of them says that it goes on without the store, which is gone
 * already.
 */
export async function goOnWithoutStore(net: NetworkFixture, durationMs: number): Promise<void> {
  for (const host of net.all) {
    await until(
      `worker ${host} says that it goes on without the store`,
      async () => (await net.health(host))?.reason === SENTENCE,
    );
  }
  const endMs = performance.now() + durationMs;
  do {
    for (const host of net.all) {
      await net.fillPatiently(host, 2);
    }
    await net.expectAllFound();
    for (const host of net.all) {
      expect(await net.health(host)).toMatchObject({ ready: true, reason: SENTENCE });
    }
  } while (performance.now() < endMs);
  for (const host of net.all) {
    expect(net.logOf(host)).toContain(SENTENCE);
    const { address } = net.worker(host);
    const { code, stdout } = await net.hbmesh(host, "status", "--worker_address", address);
    expect(stdout).toContain(`${address}: ${SENTENCE}`);
    expect(code, stdout).toBe(0);
  }
}
