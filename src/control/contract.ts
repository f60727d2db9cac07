/**
 * What the control process offers to the layers above it (server, CLI), and what it needs from those who start it.
 */
import type { Clock } from "../base/clock.js";
import type { WorkerConfig } from "../base/config.js";
import type { Credentials } from "../base/credentials.js";
import type { HbmeshError } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import type { ThreadLoad } from "../base/processes.js";
import type { RandomSource } from "../base/random.js";
import type { Tenants } from "../base/tenants.js";
import type { Decisions } from "../decision/decisions.js";
import type { HealthResponse, Member } from "../gen/hbmesh/v1/cluster_pb.js";
import type { Presence } from "../gen/hbmesh/v1/objects_pb.js";
import type { Store } from "../metadata/store.js";
import type { SidecarPort } from "../sidecar/port.js";
import type { Drain } from "./drain.js";
import type { ControlNetwork } from "./network.js";

/** A sidecar that runs and has said welcome. */
export interface SpawnedSidecar {
  readonly port: SidecarPort;
  /**
   * The store's memory as a descriptor of this process, to be given to the next sidecar if this one dies; undefined
   * where objects don't outlive the sidecar. It stays open when the sidecar dies, until `stop` is called.
   */
  readonly storeFd: number | undefined;
  /** Of the thread that runs the process's loop. Default: not known. */
  load?(): ThreadLoad | undefined;
  /** Ends a sidecar that does not answer, at once (SIGKILL); its port then closes. Default: the port is closed. */
  kill?(): void;
  /** Ends the sidecar if it still runs, and keeps its memory for a successor. Default: it ends with its port. */
  end?(): Promise<void>;
  /**
   * Ends the sidecar if it still runs, waits for its end, and releases what belongs to it. Called once, also after it
   * died.
   */
  stop(): Promise<void>;
}

/** Starts a sidecar. With `adoptFd` it adopts the objects in that memory; the descriptor stays the caller's. */
export type SpawnSidecar = (adoptFd?: number) => Promise<SpawnedSidecar>;

export type TakeOverSidecar = () => Promise<SpawnedSidecar | undefined>;

/** Everything has a real default but `spawnSidecar`: without it the control process runs alone and holds no bytes. */
export interface ControlDependencies {
  spawnSidecar?: SpawnSidecar | undefined;
  /** Takes over a sidecar that an earlier control process left running; undefined if there is none. Default: none. */
  takeOverSidecar?: TakeOverSidecar | undefined;
  /**
   * Default: opened from config.metadataAddress, and closed with the control process. A store given here stays open.
   */
  store?: Store | undefined;
  clock?: Clock | undefined;
  log?: Logger | undefined;
  random?: RandomSource | undefined;
  decisions?: Decisions | undefined;
  /** Default: the lean link over TCP. */
  network?: ControlNetwork | undefined;
}

/** The answer for one key: `code` is OK or says why not, `message` names cause and remedy. */
export interface KeyAnswer {
  key: string;
  code: number;
  message: string;
}

export interface PresenceAnswer extends KeyAnswer {
  presence: Presence;
}

export interface MetaAnswer extends KeyAnswer {
  sizeBytes: bigint;
  blobSizes: bigint[];
  generation: bigint;
  /** Worker addresses that hold the bytes. */
  locations: string[];
  family: number;
}

export interface DeleteAnswer extends KeyAnswer {
  existed: boolean;
}

export interface ExplainedLocation {
  workerAddress: string;
  slot: number;
  /**
   * The holder's own answer: OK, NOT_FOUND or TRY_AGAIN if it no longer has this version, else why it could not be
   * asked.
   */
  code: number;
  message: string;
  blobSizes: bigint[];
  /** JSON text of its sidecar: pins, expiry, why it can't be evicted. Empty if it gives none. */
  detail: string;
}

/** What is known of one key; fields as in ExplainResponse (proto/hbmesh/v1/objects.proto). */
export interface ExplainAnswer extends KeyAnswer {
  owner: string;
  epoch: bigint;
  complete: boolean;
  missing: string[];
  family: number;
  generation: bigint;
  sizeBytes: bigint;
  locations: ExplainedLocation[];
  waiting: number;
  ended: string;
  endedGeneration: bigint;
  endedMillisecondsAgo: bigint;
  endedBy: string;
}

export interface CallOptions {
  signal?: AbortSignal | undefined;
  /** Whose keys; default: those of the tenant `default`. */
  tenant?: string | undefined;
}

/**
 * Objects as people and tools ask for them. Each call throws INVALID, naming the key, when one of the keys is not
 * allowed or there are too many, before anything is done; after that every key has an answer.
 */
export interface ObjectCalls {
  exist(keys: readonly string[], options?: CallOptions): Promise<PresenceAnswer[]>;
  getMetaInfo(keys: readonly string[], options?: CallOptions): Promise<MetaAnswer[]>;
  delete(keys: readonly string[], options?: CallOptions): Promise<DeleteAnswer[]>;
  explain(key: string, options?: CallOptions): Promise<ExplainAnswer>;
}

export interface ControlProcess {
  readonly config: WorkerConfig;
  /** This member's id in the cluster. */
  readonly memberId: number;
  /** Revision of the membership; the same on every member that has seen the same changes. */
  readonly epoch: bigint;
  readonly members: readonly Member[];
  /** Why this worker can't give sure answers now, or empty: what whenReady() waits for. */
  readonly notReadyReason: string;
  readonly objects: ObjectCalls;
  /** Who may ask through the API; undefined: everyone, as the one tenant that there is. */
  readonly tenants: Tenants | undefined;
  /** What is asked of those who use the API, the tenants apart, and what this worker shows. */
  readonly credentials: Credentials;
  /** Moves what this worker holds to others, before it leaves as planned. */
  readonly drain: Pick<Drain, "start" | "stop" | "status">;
  /** Resolves once every live member has announced what it holds, so that each question has a sure answer. */
  whenReady(options?: { signal?: AbortSignal; timeoutMs?: number }): Promise<void>;
  health(): Promise<Omit<HealthResponse, "$typeName" | "$unknown">>;
  /**
   * Resolves with the cause when the worker can't go on (its sidecar died too often); never otherwise. The owner then
   * calls close().
   */
  readonly failed: Promise<HbmeshError>;
  /** Leaves the cluster, ends the sidecar, settles everything that is pending. May be called twice. */
  close(): Promise<void>;
}
