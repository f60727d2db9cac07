/** Puts a worker together: control process, its sidecar as a child process, the Connect API. */
import type { WorkerConfig } from "../base/config.js";
import type { HbmeshError } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import { createOperatorProof } from "../base/operator-proof.js";
import { type ControlProcess, type SpawnedSidecar, startControlProcess } from "../control/index.js";
import { type ApiServer, startApiServer, startProbeServer } from "../server/index.js";
import { type StartedSidecar, startSidecar, takeOverSidecar } from "../sidecar/index.js";
import type { WorkerReady } from "./local-cluster.js";

/** How much slower than the machine the simulated devices are; zeros: not at all. */
export interface SimSpeed {
  bandwidthMbPerSecond: number;
  latencyMicros: number;
}

export interface WorkerParts {
  config: WorkerConfig;
  log: Logger;
  sim: SimSpeed;
  hasSidecar: boolean;
}

export interface RunningWorker {
  readonly facts: Omit<WorkerReady, "t">;
  /** Resolves with the cause when the worker can't go on. */
  readonly failed: Promise<HbmeshError>;
  close(): Promise<void>;
}

/** Resolves when the worker answers questions with certainty. Rejects with the cause; nothing is left then. */
export async function startWorker(parts: WorkerParts): Promise<RunningWorker> {
  const { config, log } = parts;
  let started: StartedSidecar | undefined;
  const options = { ...config, sim: parts.sim, log, startTimeoutMs: config.sidecarStartTimeoutMs };
  const spawnSidecar = async (adoptFd?: number): Promise<SpawnedSidecar> => {
    started = await startSidecar(options, adoptFd);
    return started;
  };
  const takeOver = async (): Promise<SpawnedSidecar | undefined> => {
    started = await takeOverSidecar(options);
    return started;
  };
  const control = await startControlProcess(config, {
    log,
    ...(parts.hasSidecar ? { spawnSidecar, takeOverSidecar: takeOver } : {}),
  });
  const proof = createOperatorProof();
  const servers: Pick<ApiServer, "close">[] = [];
  const closeServers = async (): Promise<void> => {
    await Promise.all(servers.map((server) => server.close()));
    proof?.close();
  };
  try {
    servers.push(
      await startApiServer({
        address: config.workerAddress,
        log,
        control,
        credentials: control.credentials,
        operator: proof?.token,
      }),
    );
    if (config.probeAddress !== undefined) {
      servers.push(await startProbeServer(config.probeAddress, control));
    }
    await control.whenReady({ timeoutMs: config.sidecarStartTimeoutMs });
    return {
      facts: factsOf(control, started),
      failed: control.failed,
      async close() {
        // The API tells of the leaving until it is done.
        await control.close();
        await closeServers();
      },
    };
  } catch (error) {
    await control.close();
    await closeServers();
    throw error;
  }
}

function factsOf(control: ControlProcess, sidecar: StartedSidecar | undefined): Omit<WorkerReady, "t"> {
  const self = control.members.find((member) => member.id === control.memberId);
  const info = sidecar?.port.info;
  return {
    workerAddress: control.config.workerAddress,
    linkAddress: self?.linkAddress ?? "",
    sidecarPid: sidecar?.process.pid ?? 0,
    backend: info?.backend ?? "none",
    deviceCount: info?.deviceCount ?? 0,
    transports: info?.transports ?? [],
  };
}
