/** Waiting for something that tells nobody when it happens, such as the end of another's child. */
import { setTimeout as delay } from "node:timers/promises";

const LOOK_MS = 20;

/** Looks again and again. False: it was not so within the time. */
export async function until(condition: () => boolean, timeoutMs: number): Promise<boolean> {
  const endMs = performance.now() + timeoutMs;
  while (!condition()) {
    if (performance.now() >= endMs) {
      return false;
    }
    await delay(LOOK_MS);
  }
  return true;
}
