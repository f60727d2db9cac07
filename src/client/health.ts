/**
 * Asks a worker over its Connect API whether it is ready: another way than the queues, so it also tells why a client
 * can't connect.
 */
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { causeOf } from "../base/connection-cause.js";
import { createDirectAgent } from "../base/direct-agent.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { ClusterService } from "../gen/hbmesh/v1/cluster_pb.js";

export interface WorkerHealth {
  ready: boolean;
  /** Why it isn't ready; of one that is ready, what it goes on without; or empty. */
  reason: string;
  workerAddress: string;
  arenaBytes: bigint;
  arenaUsedBytes: bigint;
  /** In the arena and on the SSD tier. */
  objects: bigint;
  /** Clients that are connected to its sidecar. */
  sessions: number;
  /** Size of the SSD tier under the arena; 0: there is none. */
  spillBytes: bigint;
  /** Objects there, and their bytes. */
  spilledObjects: bigint;
  spilledBytes: bigint;
  /** The most objects, and how many slots of the object table are used. */
  slots: bigint;
  usedSlots: bigint;
  /** Memory beside the arena: the object table, and the sidecar's own for finding and ordering objects. */
  tableBytes: bigint;
  indexBytes: bigint;
  /** What the arena has of objects on the SSD tier. */
  spilledIndexBytes: bigint;
  /** Objects evicted since the sidecar's start, by what there was too little of: memory, slots, the SSD tier. */
  evictedMemoryFull: bigint;
  evictedTableFull: bigint;
  evictedTierFull: bigint;
}

const agent = createDirectAgent(false);

/** Rejects with NO_AVAILABLE_WORKER when nobody answers at `node`, RPC_DEADLINE_EXCEEDED when it takes too long. */
export async function askHealth(node: string, timeoutMs: number, signal?: AbortSignal): Promise<WorkerHealth> {
  const transport = createConnectTransport({ baseUrl: `http://${node}`, httpVersion: "1.1", nodeOptions: { agent } });
  try {
    const health = await createClient(ClusterService, transport).health({}, { timeoutMs, ...(signal && { signal }) });
    const { $typeName: _type, $unknown: _unknown, ...known } = health;
    return known;
  } catch (error) {
    throw translate(ConnectError.from(error), node, timeoutMs);
  }
}

function translate(error: ConnectError, node: string, timeoutMs: number): HbmeshError {
  const fields = { node, cause: error };
  switch (error.code) {
    case Code.DeadlineExceeded:
      return new HbmeshError(
        StatusCode.RPC_DEADLINE_EXCEEDED,
        `waited ${timeoutMs} ms for worker ${node} to say how it is: look at its log`,
        fields,
      );
    case Code.Canceled:
      return new HbmeshError(
        StatusCode.RPC_CANCELLED,
        `the health check of ${node} was cancelled by its caller`,
        fields,
      );
    case Code.Unavailable:
    case Code.Aborted:
      return new HbmeshError(
        StatusCode.NO_AVAILABLE_WORKER,
        `no worker answers at ${node} (${causeOf(error.cause ?? error)}): start one, or check host and port`,
        fields,
      );
    default:
      return new HbmeshError(
        StatusCode.RPC_UNAVAILABLE,
        `worker ${node} could not say how it is: ${causeOf(error.cause ?? error)}`,
        fields,
      );
  }
}
