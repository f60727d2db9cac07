/** What users of hbmesh import. */
export { HbmeshError, type HbmeshErrorFields, StatusCode } from "../base/errors.js";
export {
  BatchResult,
  ExistResult,
  MetaResult,
  type ObjectMeta,
  type Presence,
  Status,
  type TransferPath,
  WriteResult,
} from "./batch-result.js";
export { Blob, DeviceBlobList } from "./blobs.js";
export type { WorkerHealth } from "./health.js";
export {
  type CallOptions,
  type GetOptions,
  HeteroClient,
  type HeteroClientOptions,
  type SetOptions,
} from "./hetero-client.js";
export { SimDevice } from "./sim-device.js";
