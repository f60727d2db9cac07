/**
 * Workers as they are after a minute of traffic. A control process runs JavaScript, which is compiled only after it ran
 * often: its first thousand requests cost several times what later ones do. Benchmarks of a steady state call this
 * first.
 */
import { type BenchContext, withClosers } from "./cluster.js";
import { BenchClient, type KeyedRun } from "./native-client.js";

/** Keys of a call: some are at the owner here, some at the other one. */
const keys = 4;
const blobBytes = 4_096;
/** Objects that are there at a time stay below 16 MiB. */
const callsAtATime = 200;

/** Sets, gets at the other worker, and deletes small objects, in both directions; some seconds. Leaves no keys. */
export async function warmUp(addresses: readonly string[], context: BenchContext): Promise<void> {
  await withClosers(async (defer) => {
    const clients: BenchClient[] = [];
    for (const [index, address] of addresses.entries()) {
      const client = await BenchClient.start(`warm-up ${index + 1}`, address);
      defer(() => client.end());
      await client.allocate("m", { device: 0, threads: 1, keys, blobs: 1, bytes: blobBytes }, 1);
      clients.push(client);
    }
    for (const [index, setter] of clients.entries()) {
      const getter = clients[(index + 1) % clients.length] ?? setter;
      for (let done = 0; done < context.warmUpCalls; done += callsAtATime) {
        context.signal.throwIfAborted();
        const iterations = Math.min(callsAtATime, context.warmUpCalls - done);
        const run: KeyedRun = { memory: "m", prefix: `warm${index}_${done}_`, suffixes: ["w"], iterations };
        await setter.run("set", run);
        await getter.run("get", run);
        await setter.run("delete", run);
      }
    }
  });
}
