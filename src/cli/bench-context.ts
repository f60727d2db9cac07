/** What the benchmarks of src/bench are given by the command line: workers of this machine, progress, Ctrl-C. */
import type { BenchContext, OpenCluster } from "../bench/cluster.js";
import { startLocalCluster } from "./local-cluster.js";
import { ExitError } from "./options.js";
import { onEndingSignal } from "./signals.js";

/** Taking memory before it is used is slow on a busy machine: time for each megabyte, above the usual. */
const startMsPerMb = 20;
const startMs = 30_000;

/** Workers on this machine, as `hbmesh dev` starts them. */
export const openLocalCluster: OpenCluster = async (options) => {
  const startTimeoutMs = startMs + startMsPerMb * options.sharedMemorySizeMb;
  const cluster = await startLocalCluster({ ...options, startTimeoutMs });
  return {
    addresses: cluster.workers.map((worker) => worker.ready.workerAddress),
    close: () => cluster.close(),
  };
};

/** From here on a control process's requests cost what they cost later too. */
const warmUpCalls = 2_000;

/** Runs a benchmark with progress on stderr; Ctrl-C ends it at its next step, cleaned up, with exit code 130. */
export async function withBenchContext<Result>(use: (context: BenchContext) => Promise<Result>): Promise<Result> {
  const started = performance.now();
  const interrupted = new AbortController();
  const interrupt = (): void => interrupted.abort(new ExitError(130, "interrupted"));
  const stopListening = onEndingSignal(interrupt);
  const progress = (text: string): void => {
    const seconds = ((performance.now() - started) / 1000).toFixed(1).padStart(6);
    process.stderr.write(`${seconds} s  ${text}\n`);
  };
  try {
    return await use({ openCluster: openLocalCluster, progress, signal: interrupted.signal, warmUpCalls });
  } catch (error) {
    // Processes that Ctrl-C ended fail in ways of their own.
    throw interrupted.signal.aborted ? new ExitError(130, "interrupted") : error;
  } finally {
    stopListening();
  }
}
