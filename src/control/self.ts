/** What a member says of itself in the store. */
import type { WorkerConfig } from "../base/config.js";
import type { SidecarInfo } from "../sidecar/port.js";
import { readHostId } from "./host-id.js";
import type { SelfDescription } from "./membership.js";

/** `info`: of its sidecar; undefined while there is none. */
export function describeSelf(
  config: WorkerConfig,
  linkAddress: string,
  info: SidecarInfo | undefined,
): SelfDescription {
  return {
    workerAddress: config.workerAddress,
    linkAddress,
    transports: (info?.transports ?? []).map(({ name, address }) => ({
      $typeName: "hbmesh.v1.TransportAddress",
      name,
      address,
    })),
    weight: config.weight,
    hostId: readHostId(),
    deviceCount: info?.deviceCount ?? 0,
    remoteH2dDeviceIds: [...config.remoteH2dDeviceIds],
  };
}
