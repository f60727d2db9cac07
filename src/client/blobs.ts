/** What a caller hands over: device memory by pointer and size, grouped by key. */

/**
 * One piece of device memory. The memory belongs to the caller and stays valid until the call that uses it has settled.
 *
 * @example new Blob(device.allocate(4096), 4096n)
 */
export class Blob {
  /** `pointer` is a device address, `size` its bytes, above 0. Both are checked by the call that uses the blob. */
  constructor(
    readonly pointer: bigint,
    readonly size: bigint,
  ) {}
}

/** The blobs of one key, all on one device. A get must name as many blobs, of the same sizes, as the set did. */
export class DeviceBlobList {
  /** `deviceIndex` counts the node's devices from 0. */
  constructor(
    readonly deviceIndex: number,
    readonly blobs: readonly Blob[],
  ) {}
}
