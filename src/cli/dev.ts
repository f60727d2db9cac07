/**
 * `hbmesh dev`: workers on this machine until Ctrl-C. This process hosts the embedded store; each worker is a process,
 * and so is its sidecar. When a worker dies the others are ended too and the exit code is 1.
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { type Command, InvalidArgumentError } from "commander";
import { type LocalCluster, startLocalCluster } from "./local-cluster.js";
import { ExitError, usageError, wholeNumber } from "./options.js";
import { onEndingSignal } from "./signals.js";
import { formatTable, toJson } from "./table.js";
import { givenArguments, type WorkerOptions, withWorkerOptions, workerConfig } from "./worker-options.js";

interface DevOptions extends WorkerOptions {
  workers: number;
  port: number;
  json?: boolean;
}

/** Options of a worker that make no sense for several on one machine, which end together; and why. */
const REFUSED: Readonly<Record<string, string>> = {
  worker_address: "The workers of hbmesh dev are at 127.0.0.1, from --port on; hbmesh worker takes an address.",
  link_address: "Each worker of hbmesh dev takes a free port for it; hbmesh worker takes an address.",
  probe_address: "The workers of hbmesh dev answer probes at their own addresses; hbmesh worker takes another one.",
  orphan_grace_ms: "A sidecar of hbmesh dev ends with its control process; hbmesh worker takes a time.",
};

const help = `
Each option of hbmesh worker is one of every worker here, but for those that name one of them. With --spill_directory each has a
directory of its own in that one. With --etcd_address they are members of a cluster there, else this process serves their store.

Started by npx or npm it ends with that process, however that one ends. To go on without it start node_modules/.bin/hbmesh dev itself,
which ends with Ctrl-C, SIGTERM, SIGHUP or SIGQUIT alone.

Examples:
  $ hbmesh dev
  $ hbmesh dev --transport shm --devices 2
  $ hbmesh dev --port 0 --json
  $ hbmesh dev --key_rule extended --cluster_token_file token
  $ hbmesh dev --shared_memory_size_mb 64 --spill_directory /tmp/hbmesh --spill_mb 1024

Exit codes: 0 after Ctrl-C, 1 when a worker could not start or died, 130 after Ctrl-C before the workers were ready.`;

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
  const { tools, curl, scheme } = accessTo(options);
  return (
    `${formatTable(columns, rows)}metadata: ${cluster.metadataAddress}\n\n` +
    `Try: npx hbmesh members --worker ${first}${tools}\n` +
    `     curl -s${curl} -H 'content-type: application/json' -d '{}' ${scheme}://${first}/hbmesh.v1.ClusterService/Health\n` +
    "Ctrl-C ends them all.\n"
  );
}

/** What those who ask these workers add. */
function accessTo(options: DevOptions): { tools: string; curl: string; scheme: string } {
  const { cluster_token_file: token, tls_ca: ca, tls_cert: cert, tls_key: key } = options;
  return {
    tools:
      (token === undefined ? "" : ` --token_file ${token}`) +
      (ca === undefined ? "" : ` --tls_ca ${ca} --tls_cert ${cert} --tls_key ${key}`),
    curl:
      (token === undefined ? "" : ` -H "authorization: Bearer $(cat ${token})"`) +
      (ca === undefined ? "" : ` --cacert ${ca} --cert ${cert} --key ${key}`),
    scheme: ca === undefined ? "http" : "https",
  };
}

/** What every worker gets of the command line, or the one with this number. Each has an SSD tier of its own. */
function workerArguments(options: DevOptions, command: Command, worker: Command): (index: number) => string[] {
  const shared = givenArguments(command, worker, ["spill_directory", "etcd_address", "metadata_address", "transport"]);
  const { spill_directory: folder } = options;
  if (folder === undefined) {
    return () => shared;
  }
  try {
    mkdirSync(folder, { recursive: true });
  } catch (reason) {
    const cause = reason instanceof Error ? reason.message : String(reason);
    throw usageError(`--spill_directory ${folder} can't be made (${cause}): give one where you may make files`);
  }
  return (index) => [...shared, `--spill_directory=${join(folder, `worker-${index + 1}`)}`];
}

/** Undefined: a store of its own. */
function storeOf(options: DevOptions): string | undefined {
  if (options.metadata_address === "memory") {
    throw usageError(
      "--metadata_address memory is a cluster of one process: leave it out, hbmesh dev serves a store to its workers",
    );
  }
  return options.etcd_address ?? options.metadata_address;
}

async function dev(options: DevOptions, command: Command, worker: Command): Promise<number> {
  // What is wrong for one of them is said once, before any is started.
  workerConfig({ ...options, worker_address: "127.0.0.1:31501" });
  const metadataAddress = storeOf(options);
  const workerArgs = workerArguments(options, command, worker);
  let stop: (exitCode: number) => void = () => undefined;
  const stopped = new Promise<number>((resolve) => {
    stop = resolve;
  });
  // A second Ctrl-C while the workers end changes nothing: they are ended, or killed, within seconds.
  const starting = new AbortController();
  onEndingSignal(() => {
    starting.abort(new ExitError(130, "interrupted before the workers were ready"));
    stop(0);
  });
  const cluster = await startLocalCluster({
    workers: options.workers,
    transport: options.transport,
    port: options.port,
    workerArgs,
    signal: starting.signal,
    ...(metadataAddress === undefined ? {} : { metadataAddress }),
    onWorkerExit: ({ ready, lastOutput }, reason) => {
      process.stderr.write(`hbmesh: the worker at ${ready.workerAddress} ended with ${reason}\n`);
      process.stderr.write(`${lastOutput()}\n`);
      stop(1);
    },
  });
  process.stdout.write(describe(cluster, options));
  const exitCode = await stopped;
  await cluster.close();
  return exitCode;
}

/** `worker` is the command whose options its workers get. */
export function addDevCommand(program: Command, worker: Command, setExitCode: (code: number) => void): void {
  const command = program
    .command("dev")
    .description("Run workers on this machine, each a control process with its own sidecar process, until Ctrl-C.")
    .option("--workers <N>", "how many", wholeNumber(1, 16), 2)
    .option("--port <N>", "port of the first worker, counting up; 0 picks free ones", wholeNumber(0, 65_000), 31501)
    .option("--json", "print the addresses as one JSON document");
  withWorkerOptions(command)
    .addHelpText("after", help)
    .action(async (options: DevOptions) => {
      setExitCode(await dev(options, command, worker));
    });
  for (const option of command.options) {
    const reason = REFUSED[option.attributeName()];
    if (reason !== undefined) {
      option.hideHelp().makeOptionMandatory(false);
      option.argParser(() => {
        throw new InvalidArgumentError(reason);
      });
    }
    if (option.attributeName() === "transport") {
      option.default("tcp").description = "between the workers; tcp makes them behave as two hosts";
      command.setOptionValueWithSource("transport", "tcp", "default");
    }
  }
}
