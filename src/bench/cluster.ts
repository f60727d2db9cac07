/** The workers that a benchmark runs on. Who starts them is decided above this folder: benchmarks are told how. */

export interface BenchCluster {
  /** Worker addresses. */
  readonly addresses: readonly string[];
  close(): Promise<void>;
}

export interface BenchClusterOptions {
  workers: number;
  /** Simulated devices of each. */
  devices: number;
  transport: "tcp" | "shm";
  sharedMemorySizeMb: number;
  /** Further arguments of `hbmesh worker`, for the worker with this number. */
  workerArgs?: (index: number) => readonly string[];
}

/** Starts workers on this machine. */
export type OpenCluster = (options: BenchClusterOptions) => Promise<BenchCluster>;

/** What every benchmark is given. */
export interface BenchContext {
  openCluster: OpenCluster;
  /** Told of each step, for people. */
  progress: (text: string) => void;
  /** Aborted: the benchmark ends at the next step and cleans up. */
  signal: AbortSignal;
  /** Calls of each kind, in each direction, before workers count as warm: see warm-up.ts. */
  warmUpCalls: number;
}

/** Ends everything that was opened, the last one first, whatever became of `use`. */
export async function withClosers<Result>(
  use: (defer: (close: () => Promise<void>) => void) => Promise<Result>,
): Promise<Result> {
  const closers: (() => Promise<void>)[] = [];
  try {
    return await use((close) => closers.push(close));
  } finally {
    for (const close of closers.reverse()) {
      await close();
    }
  }
}
