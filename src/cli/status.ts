/** `hbmesh status`: the workers that run on this host, and how each of them is. Or one worker, wherever it runs. */
import type { Command } from "commander";
import { readOperatorProof } from "../base/operator-proof.js";
import { type AccessOptions, clusterClient, failureOf, withAccessOptions } from "./api-client.js";
import { address, ExitError, wholeNumber } from "./options.js";
import { formatTable, grouped, toJson } from "./table.js";
import { addressesOf, findSidecars, findWorkers, type WorkerProcess } from "./worker-processes.js";

interface StatusOptions extends AccessOptions {
  worker_address?: string;
  timeout_ms: number;
  json?: boolean;
}

type State = "ready" | "not ready" | "no answer" | "sidecar only" | "not here";

interface WorkerStatus {
  workerAddress: string;
  state: State;
  /** Why it isn't ready; of one that is ready, what it goes on without; or empty. */
  reason: string;
  /** 0: not of this host. */
  pid: number;
  sidecarPid: number;
  startedAt: string | null;
  log: string | null;
  memberId: number;
  members: number;
  epoch: bigint;
  devices: number;
  remoteH2dDeviceIds: number[];
  objects: bigint;
  arenaBytes: bigint;
  arenaUsedBytes: bigint;
  /** The most objects, and what they take beside the arena. */
  slots: bigint;
  usedSlots: bigint;
  tableBytes: bigint;
  indexBytes: bigint;
  sessions: number;
}

const help = `
States: ready; not ready (with the reason); no answer (it starts, hangs, or asks for a token: --token_file); sidecar only (its control
process is gone, the sidecar waits for the next one); not here.

Examples:
  $ hbmesh status
  $ hbmesh status --worker_address 10.0.0.1:31501 --json

Exit codes: 0 all of them are ready, or there are none; 1 one isn't; 2 wrong arguments.`;

async function status(options: StatusOptions): Promise<number> {
  const named = options.worker_address;
  const wanted = named === undefined ? undefined : await addressesOf(named);
  const workers = findWorkers(wanted);
  const sidecars = findSidecars(wanted);
  const addresses = new Set([...workers, ...sidecars].map((found) => found.workerAddress));
  if (named !== undefined && addresses.size === 0) {
    addresses.add(wanted?.length === 1 ? (wanted[0] as string) : named);
  }
  const workerAt = (workerAddress: string): WorkerProcess | undefined =>
    workers.find((found) => found.workerAddress === workerAddress);
  const statuses = await Promise.all(
    [...addresses].sort().map((each) => statusOf(each, accessTo(workerAt(each), options))),
  );
  for (const each of statuses) {
    const worker = workerAt(each.workerAddress);
    each.pid = worker?.pid ?? 0;
    each.startedAt = worker === undefined ? null : new Date(worker.startedAtMs).toISOString();
    each.log = worker?.log ?? null;
    each.sidecarPid = sidecars.find((found) => found.workerAddress === each.workerAddress)?.pid ?? 0;
    if (each.state === "no answer" && each.pid === 0) {
      each.state = each.sidecarPid === 0 ? "not here" : "sidecar only";
    }
  }
  process.stdout.write(options.json === true ? `${toJson({ workers: statuses })}\n` : forPeople(statuses));
  return statuses.every(({ state }) => state === "ready") ? 0 : 1;
}

/** As the options say; else as the worker's own user, by a proof that is worth nothing to another worker. */
function accessTo(worker: WorkerProcess | undefined, options: StatusOptions): StatusOptions {
  const token = options.token_file === undefined && worker ? readOperatorProof(worker.pid) : undefined;
  return { ...worker?.access, ...options, token };
}

async function statusOf(workerAddress: string, options: StatusOptions): Promise<WorkerStatus> {
  const nothing: WorkerStatus = {
    workerAddress,
    state: "no answer",
    reason: "",
    pid: 0,
    sidecarPid: 0,
    startedAt: null,
    log: null,
    memberId: 0,
    members: 0,
    epoch: 0n,
    devices: 0,
    remoteH2dDeviceIds: [],
    objects: 0n,
    arenaBytes: 0n,
    arenaUsedBytes: 0n,
    slots: 0n,
    usedSlots: 0n,
    tableBytes: 0n,
    indexBytes: 0n,
    sessions: 0,
  };
  try {
    const client = clusterClient({ ...options, worker: workerAddress });
    const [health, { members, epoch }] = await Promise.all([client.health({}), client.listMembers({})]);
    const self = members.find((member) => member.workerAddress === workerAddress);
    return {
      ...nothing,
      state: health.ready ? "ready" : "not ready",
      reason: health.reason,
      memberId: self?.id ?? 0,
      members: members.length,
      epoch,
      devices: self?.deviceCount ?? 0,
      remoteH2dDeviceIds: self?.remoteH2dDeviceIds ?? [],
      objects: health.objects,
      arenaBytes: health.arenaBytes,
      arenaUsedBytes: health.arenaUsedBytes,
      slots: health.slots,
      usedSlots: health.usedSlots,
      tableBytes: health.tableBytes,
      indexBytes: health.indexBytes,
      sessions: health.sessions,
    };
  } catch (error) {
    const cause = error instanceof ExitError ? error : failureOf({ ...options, worker: workerAddress }, error);
    return { ...nothing, reason: cause.message };
  }
}

function forPeople(statuses: readonly WorkerStatus[]): string {
  if (statuses.length === 0) {
    return "no worker runs on this host\n";
  }
  const number = (title: string): { title: string; right: boolean } => ({ title, right: true });
  const columns = [
    { title: "worker" },
    { title: "state" },
    number("process"),
    number("sidecar"),
    number("members"),
    number("devices"),
    number("objects"),
    number("slots"),
    number("memory used, MiB"),
    number("for slots, MiB"),
    { title: "since" },
    { title: "log" },
  ];
  const mebibytes = (bytes: bigint): string => grouped(bytes / 2n ** 20n);
  const rows = statuses.map((each) => [
    each.workerAddress,
    each.state,
    each.pid === 0 ? "" : String(each.pid),
    each.sidecarPid === 0 ? "" : String(each.sidecarPid),
    String(each.members),
    String(each.devices),
    grouped(each.objects),
    `${grouped(each.usedSlots)} of ${grouped(each.slots)}`,
    `${mebibytes(each.arenaUsedBytes)} of ${mebibytes(each.arenaBytes)}`,
    mebibytes(each.tableBytes + each.indexBytes),
    each.startedAt ?? "",
    each.log ?? "",
  ]);
  const reasons = statuses
    .filter(({ reason }) => reason !== "")
    .map((each) => `${each.workerAddress}: ${each.reason}\n`);
  return `${formatTable(columns, rows)}${reasons.join("")}`;
}

export function addStatusCommand(program: Command, setExitCode: (code: number) => void): void {
  const command = program
    .command("status")
    .description("List the workers of this host and how they are.")
    .option("--worker_address <HOST:PORT>", "only this one, which may run elsewhere", address)
    .option("--timeout_ms <N>", "how long to wait for its answer", wholeNumber(1, 3_600_000), 3_000)
    .option("--json", "print one JSON document instead of a table");
  withAccessOptions(command)
    .addHelpText("after", help)
    .action(async (options: StatusOptions) => {
      setExitCode(await status(options));
    });
}
