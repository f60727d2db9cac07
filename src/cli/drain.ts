/** The first part of `hbmesh stop`: has the worker move what it holds to others, and tells how far that is. */
import { setTimeout as delay } from "node:timers/promises";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { type DrainStatus, NO_DRAIN } from "../control/index.js";
import { type ApiOptions, answerOf, clusterClient } from "./api-client.js";
import { ExitError } from "./options.js";
import { onEndingSignal } from "./signals.js";
import { grouped } from "./table.js";

export interface DrainChoice {
  drain_mb_per_second: number;
  drain_timeout_ms: number;
  /** Leaves what finds no room, or is not moved in time. */
  force: boolean;
}

/** For people and --json. */
export type DrainReport = DrainStatus;

const LOOK_MS = 250;
const TELL_MS = 1_000;

/** Resolves when the worker may leave. Throws an ExitError naming why it stays, and what to do. */
export async function drainWorker(
  access: ApiOptions,
  choice: DrainChoice,
  { say, isRunning }: { say: (text: string) => void; isRunning: () => boolean },
): Promise<DrainReport> {
  const client = clusterClient(access);
  const settings = {
    bytesPerSecond: BigInt(choice.drain_mb_per_second) * 2n ** 20n,
    timeLimitMs: choice.drain_timeout_ms,
    leaveBehind: choice.force,
  };
  let state: DrainReport;
  try {
    state = await answerOf(access, client.drain(settings));
  } catch (reason) {
    const error = HbmeshError.from(reason);
    if (error.code === StatusCode.NOT_FOUND) {
      // No sidecar, and so nothing to move.
      return { ...NO_DRAIN, reason: error.message };
    }
    const remedy = "try again, or end it without that with --drain false: what only it holds is lost then";
    throw new ExitError(
      1,
      `the worker at ${access.worker} can't be asked to move its objects: ${error.message}; ${remedy}`,
    );
  }
  const onInterrupt = async (): Promise<void> => {
    stopListening();
    await client.stopDrain({}).catch(() => {});
    process.stderr.write(
      "hbmesh: interrupted; the worker stays, with what has not been moved, and takes new objects\n",
    );
    process.exit(130);
  };
  // However this command is ended: a worker that has moved everything and isn't stopped would serve nobody.
  const stopListening = onEndingSignal(() => void onInterrupt());
  try {
    state = await follow(access, { state, say, isRunning });
  } finally {
    stopListening();
  }
  if (state.state !== "moved") {
    throw new ExitError(1, describeStay(access.worker, state));
  }
  return state;
}

async function follow(
  access: ApiOptions,
  progress: { state: DrainReport; say: (text: string) => void; isRunning: () => boolean },
): Promise<DrainReport> {
  const client = clusterClient(access);
  let { state } = progress;
  let toldMs = Number.NEGATIVE_INFINITY;
  let told = "";
  while (state.state === "moving") {
    const text = describeProgress(state);
    if (text !== told && performance.now() - toldMs >= TELL_MS) {
      progress.say(`  ${text}`);
      told = text;
      toldMs = performance.now();
    }
    await delay(LOOK_MS);
    if (!progress.isRunning()) {
      throw new ExitError(
        1,
        `the worker at ${access.worker} ended while it moved its objects to others: ${text}; see its log`,
      );
    }
    // A busy worker may be late with an answer: it goes on moving.
    state = await client.getDrain({}).catch(() => state);
  }
  progress.say(`  ${describeProgress(state)}`);
  return state;
}

const mebibytes = (bytes: bigint): string => (Number(bytes) / 2 ** 20).toFixed(1);

export function describeProgress(state: DrainReport): string {
  const { objects, objectsMoved, bytes, bytesMoved, objectsElsewhere, objectsEnded, objectsLeft, bytesLeft } = state;
  const parts = [
    `moved ${grouped(objectsMoved)} of ${grouped(objects)} objects, ${mebibytes(bytesMoved)} of ${mebibytes(bytes)} MiB`,
    objectsElsewhere > 0n ? `${grouped(objectsElsewhere)} were elsewhere already` : "",
    objectsEnded > 0n ? `${grouped(objectsEnded)} were deleted or replaced meanwhile` : "",
    state.state !== "moving" && objectsLeft > 0n
      ? `${grouped(objectsLeft)} with ${mebibytes(bytesLeft)} MiB are left${state.reason === "" ? "" : ` (${state.reason})`}`
      : "",
    `${(Number(state.milliseconds) / 1_000).toFixed(1)} s`,
  ];
  return parts.filter((part) => part !== "").join("; ");
}

/** What ends with the worker whatever is done, or undefined. */
export function describeDeviceObjects({ deviceCached, published }: DrainReport): string | undefined {
  return deviceCached + published === 0n
    ? undefined
    : `bytes in device memory can't be moved: ${grouped(deviceCached)} cached (devMSet) and ${grouped(published)} published objects end with the worker`;
}

function describeStay(worker: string, state: DrainReport): string {
  const why = state.reason === "" ? state.state : state.reason;
  const left = `${grouped(state.objectsLeft)} objects with ${mebibytes(state.bytesLeft)} MiB`;
  const remedy =
    "make room on other workers or start another one, delete what is not needed, or stop it with --force, which moves what it can, or --drain false, which moves nothing: what is left is lost then";
  return `the worker at ${worker} stays, with ${left} that were not moved: ${why}; ${remedy}`;
}
