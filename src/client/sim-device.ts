/** Simulated accelerator memory of this process, for tests, demos and machines without accelerators. */
import { HbmeshError, StatusCode } from "../base/errors.js";
import { loadAddon, type NativeSimHeap } from "../sidecar/addon.js";
import { fromNativeError } from "../sidecar/native-errors.js";

/**
 * One simulated device. Its memory is shared memory that the worker's sidecar maps, so the bytes that a set reads and a
 * get writes are real. Memory stays allocated until it is freed or the process ends; all SimDevices of one index share
 * it.
 *
 * @example
 * const device = new SimDevice(0);
 * const pointer = device.allocate(4096);
 * device.copyIn(pointer, new Uint8Array(4096).fill(7));
 */
export class SimDevice {
  readonly index: number;
  readonly #heap: NativeSimHeap;

  /** Throws INVALID when the index is no integer from 0 on, NOT_READY when the native addon is not built. */
  constructor(index: number, heap: NativeSimHeap = loadAddon().simHeap) {
    if (!Number.isInteger(index) || index < 0) {
      throw new HbmeshError(StatusCode.INVALID, `device index ${String(index)} must be an integer from 0 on`);
    }
    this.index = index;
    this.#heap = heap;
  }

  /** Takes memory with undefined contents. Throws INVALID for no bytes, OUT_OF_MEMORY when the device is full. */
  allocate(bytes: bigint | number): bigint {
    const size = toBytes(bytes);
    return translated(() => this.#heap.allocate(this.index, size));
  }

  /** Gives memory back. Throws INVALID unless `pointer` came from allocate and was not freed. */
  free(pointer: bigint): void {
    translated(() => this.#heap.free(pointer));
  }

  /** Writes bytes into device memory from `pointer` on. Throws INVALID or OUT_OF_RANGE outside of an allocation. */
  copyIn(pointer: bigint, source: Uint8Array): void {
    translated(() => this.#heap.copyIn(pointer, source));
  }

  /** Reads a copy of `bytes` bytes of device memory. Throws INVALID or OUT_OF_RANGE outside of an allocation. */
  copyOut(pointer: bigint, bytes: bigint | number): Uint8Array {
    const size = toBytes(bytes);
    return translated(() => this.#heap.copyOut(pointer, size));
  }
}

function toBytes(bytes: bigint | number): bigint {
  if (typeof bytes === "bigint" ? bytes >= 0n : Number.isSafeInteger(bytes) && bytes >= 0) {
    return BigInt(bytes);
  }
  throw new HbmeshError(StatusCode.INVALID, `${String(bytes)} is no number of bytes: give an integer from 0 on`);
}

function translated<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw fromNativeError(error);
  }
}
