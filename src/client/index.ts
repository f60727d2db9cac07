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
export { HeteroClient } from "./hetero-client.js";
export { LayerTicket } from "./layer-ticket.js";
export type {
  CallOptions,
  DevGetOptions,
  GetOptions,
  HeteroClientOptions,
  ReserveOptions,
  SetOptions,
  SubscribeOptions,
} from "./options.js";
export { SimDevice } from "./sim-device.js";
export { TransferFuture, type Transferred } from "./transfer-future.js";
