/**
 * `hbmesh dev`: workers on this machine until Ctrl-C. This process hosts the embedded store; each worker is a process,
 * and so is its sidecar. When a worker dies the others are ended too and the exit code is 1.
 */
import { type Command, Option } from "commander";
import { type LocalCluster, startLocalCluster, type TransportChoice } from "./local-cluster.js";
import { wholeNumber } from "./options.js";
import { type RoomOptions, roomArguments, withRoomOptions } from "./room-options.js";
import { formatTable, toJson } from "./table.js";

interface DevOptions extends RoomOptions {
  workers: number;
  devices: number;
  transport: TransportChoice;
  shared_memory_size_mb: number;
  replica_percent: number;
  port: number;
  json?: boolean;
}

function describe(cluster: LocalCluster, options: DevOptions): string {
  const facts = cluster.workers.map(({ ready, process: child }) => ({
    workerAddress: ready.workerAddress,
    linkAddress: ready.linkAddress,
    pid: child.pid ?? 0,
    sidecarPid: ready.sidecarPid,
    devices: ready.deviceCount,
    transports: ready.transports,
  }));
  if (options.json === true) {
    return `${toJson({ metadataAddress: cluster.metadataAddress, workers: facts })}\n`;
  }
  const columns = [
    { title: "worker" },
    { title: "process", right: true },
    { title: "sidecar", right: true },
    { title: "devices", right: true },
    { title: "transports" },
  ];
  const rows = facts.map((worker) => [
    worker.workerAddress,
    String(worker.pid),
    String(worker.sidecarPid),
    String(worker.devices),
    worker.transports.map(({ name, address }) => `${name}=${address}`).join(" "),
  ]);
  const first = facts[0]?.workerAddress ?? "";
  return (
    `${formatTable(columns, rows)}metadata: ${cluster.metadataAddress}\n\n` +
    `Try: npx hbmesh members --worker ${first}\n` +
    `     curl -s -H 'content-type: application/json' -d '{}' http://${first}/hbmesh.v1.ClusterService/Health\n` +
    "Ctrl-C ends them all.\n"
  );
}

async function dev(options: DevOptions): Promise<number> {
  let stop: (exitCode: number) => void = () => undefined;
  const stopped = new Promise<number>((resolve) => {
    stop = resolve;
  });
  // A second Ctrl-C while the workers end changes nothing: they are ended, or killed, within seconds.
  process.on("SIGINT", () => stop(0));
  process.on("SIGTERM", () => stop(0));
  const cluster = await startLocalCluster({
    workers: options.workers,
    devices: options.devices,
    transport: options.transport,
    sharedMemorySizeMb: options.shared_memory_size_mb,
    replicaPercent: options.replica_percent,
    port: options.port,
    workerArgs: roomArguments(options),
    onWorkerExit: (worker, reason) => {
      process.stderr.write(`hbmesh: the worker at ${worker.ready.workerAddress} ended with ${reason}\n`);
      process.stderr.write(`${worker.lastOutput()}\n`);
      stop(1);
    },
  });
  process.stdout.write(describe(cluster, options));
  const exitCode = await stopped;
  await cluster.close();
  return exitCode;
}

export function addDevCommand(program: Command, setExitCode: (code: number) => void): void {
  const command = program
    .command("dev")
    .description("Run workers on this machine, each a control process with its own sidecar process, until Ctrl-C.")
    .option("--workers <N>", "how many", wholeNumber(1, 16), 2)
    .option("--devices <N>", "simulated devices of each worker", wholeNumber(1, 64), 8)
    .addOption(
      new Option("--transport <NAME>", "between the workers; tcp makes them behave as two hosts")
        .choices(["auto", "tcp", "shm"])
        .default("tcp"),
    )
    .option("--shared_memory_size_mb <N>", "arena of each worker", wholeNumber(16, 16_777_216), 1024)
    .option(
      "--replica_percent <N>",
      "most of it that copies of remotely read objects may take; 0 keeps none",
      wholeNumber(0, 100),
      0,
    );
  withRoomOptions(command, "for an SSD tier under each arena: each worker has a directory in this one")
    .option("--port <N>", "port of the first worker, counting up; 0 picks free ones", wholeNumber(0, 65_000), 31501)
    .option("--json", "print the addresses as one JSON document")
    .addHelpText(
      "after",
      "\nExamples:\n  $ hbmesh dev\n  $ hbmesh dev --transport shm --devices 2\n  $ hbmesh dev --port 0 --json\n" +
        "  $ hbmesh dev --shared_memory_size_mb 64 --spill_directory /tmp/hbmesh --spill_mb 1024\n\n" +
        "Exit codes: 0 after Ctrl-C, 1 when a worker could not start or died.",
    )
    .action(async (options: DevOptions) => {
      setExitCode(await dev(options));
    });
}
