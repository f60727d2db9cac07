/** One `hbmesh worker` as a child process, of any user and behind any program. */
import { type ChildProcess, spawn } from "node:child_process";
import { findFreePorts } from "../../src/base/free-port.js";
import { mainPath, until } from "./commands.js";

export interface WorkerProcess {
  readonly process: ChildProcess;
  readonly port: number;
  readonly address: string;
  /** What it has logged so far. */
  readonly log: () => string;
  /** SIGTERM to `pid` (default: the child), and its end. */
  stop(pid?: number): Promise<void>;
}

export interface WorkerProcessOptions {
  args?: readonly string[];
  uid?: number;
  gid?: number;
  /** A program that runs what follows: node and the worker's command line. */
  behind?: readonly string[];
}

/** Resolves when it is ready; rejects with its log when it isn't. */
export async function startWorkerProcess(options: WorkerProcessOptions = {}): Promise<WorkerProcess> {
  const { args = [], behind = [], ...user } = options;
  const [port = 0] = await findFreePorts(1);
  const address = `127.0.0.1:${port}`;
  const small = ["--worker_address", address, "--shared_memory_size_mb", "16", "--devices", "2"];
  const [program = "", ...line] = [...behind, process.execPath, mainPath, "worker", ...small, ...args];
  const child = spawn(program, line, { ...user, cwd: "/", stdio: ["ignore", "ignore", "pipe"] });
  let log = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    log += text;
  });
  const ended = new Promise<void>((resolve) => child.once("close", () => resolve()));
  const worker: WorkerProcess = {
    process: child,
    port,
    address,
    log: () => log,
    async stop(pid) {
      if (child.exitCode === null && child.signalCode === null) {
        process.kill(pid ?? child.pid ?? 0, "SIGTERM");
      }
      await ended;
    },
  };
  await until("the worker is ready", () => {
    if (child.exitCode !== null) {
      throw new Error(`the worker ended: ${log}`);
    }
    return log.includes(`"msg":"ready at ${address}"`);
  });
  return worker;
}
