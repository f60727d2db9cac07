/**
 * The named cases of the benchmark that users of heterogeneous caches run: client processes, threads in each, keys of a
 * call, blobs of a key and their size. The iterations are those that its users know; each writes other keys.
 */

export interface HeteroCase {
  name: string;
  processes: number;
  threads: number;
  /** Of one call. */
  keys: number;
  /** Of one key. */
  blobs: number;
  blobBytes: number;
  /** Calls of each thread. */
  iterations: number;
}

const KB = 1024;
const MB = 1024 * KB;

/** The three sizes that most cases come in. */
const sizes = [
  { text: "72KB", blobs: 61, blobBytes: 72 * KB },
  { text: "144KB", blobs: 61, blobBytes: 144 * KB },
  { text: "1024KB", blobs: 28, blobBytes: 1024 * KB },
];

/** Iterations in the order of `sizes`. */
const families = [
  { processes: 1, threads: 1, keys: 1, iterations: [100, 100, 100] },
  { processes: 1, threads: 1, keys: 32, iterations: [75, 40, 13] },
  { processes: 1, threads: 8, keys: 32, iterations: [10, 5, 1] },
  { processes: 8, threads: 1, keys: 1, iterations: [100, 100, 40] },
  { processes: 8, threads: 1, keys: 32, iterations: [10, 5, 1] },
];

/** 128 MiB under one key. */
const splits = [
  { text: "16blob_8MB", blobs: 16, blobBytes: 8 * MB },
  { text: "32blob_4MB", blobs: 32, blobBytes: 4 * MB },
  { text: "64blob_2MB", blobs: 64, blobBytes: 2 * MB },
  { text: "128blob_1MB", blobs: 128, blobBytes: MB },
  { text: "256blob_512KB", blobs: 256, blobBytes: 512 * KB },
  { text: "512blob_256KB", blobs: 512, blobBytes: 256 * KB },
];

export const heteroCases: readonly HeteroCase[] = [
  ...families.flatMap(({ processes, threads, keys, iterations }) =>
    sizes.map(({ text, blobs, blobBytes }, index) => ({
      name: `${processes}process_${threads}thread_${keys}key_${text}`,
      processes,
      threads,
      keys,
      blobs,
      blobBytes,
      iterations: iterations[index] ?? 1,
    })),
  ),
  ...splits.map(({ text, blobs, blobBytes }) => ({
    name: `1process_1key_${text}`,
    processes: 1,
    threads: 1,
    keys: 1,
    blobs,
    blobBytes,
    iterations: 80,
  })),
];

/** Bytes of what one thread's call moves. */
export function callBytes(each: HeteroCase): number {
  return each.keys * each.blobs * each.blobBytes;
}

/** Bytes of device memory that all client processes of one side take, and of one iteration's objects. */
export function iterationBytes(each: HeteroCase): number {
  return each.processes * each.threads * callBytes(each);
}

/** Bytes of all objects that the case sets. */
export function caseBytes(each: HeteroCase): number {
  return each.iterations * iterationBytes(each);
}
