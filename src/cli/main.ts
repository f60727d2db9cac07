#!/usr/bin/env node
/**
 * `hbmesh`: the command line. Each command has a file of its own with its arguments, its wiring and its exit codes;
 * this one puts them together and turns what they throw into a sentence on stderr.
 *
 * Exit codes: 0 it worked; 1 it failed, with the cause on stderr; 2 the arguments are wrong; 130 interrupted; 141
 * nobody reads its output any more.
 * Options can be spelled with underscores or dashes: --worker_address and --worker-address are the same, and so is
 * --worker, wherever a command takes a worker's address.
 */
import { readFileSync, realpathSync } from "node:fs";
import { isatty } from "node:tty";
import { fileURLToPath } from "node:url";
import { Command, CommanderError } from "commander";
import { HbmeshError } from "../base/errors.js";
import { addBenchCommand } from "./bench.js";
import { addClusterCommands } from "./cluster.js";
import { addDemoCommand } from "./demo.js";
import { addDevCommand } from "./dev.js";
import { endWithLauncher } from "./launcher.js";
import { addObjectCommands } from "./objects.js";
import { commandsOf, ExitError, unifySpelling } from "./options.js";
import { Output } from "./output.js";
import { reapOrphans } from "./reaper.js";
import { endByHangUp } from "./signals.js";
import { addStartCommand } from "./start.js";
import { addStatusCommand } from "./status.js";
import { addStopCommand } from "./stop.js";
import { refuseUnknownOptions } from "./unknown-options.js";
import { addWorkerCommand } from "./worker.js";

const overview = `
Try it:
  $ hbmesh demo                         two workers, one set, one get, compared by SHA-256, measured
  $ hbmesh dev                          two workers on this machine until Ctrl-C
  $ hbmesh members --worker 127.0.0.1:31501
  $ hbmesh exist --worker 127.0.0.1:31501 some-key another-key
  $ hbmesh explain some-key             where it is, or why it is gone
  $ hbmesh bench hetero                 how fast this machine sets and gets, and how fast it could

A cluster, on each host:
  $ hbmesh start -w --worker_address 10.0.0.1:31501 --etcd_address 10.0.0.9:2379 --cluster_token_file token
  $ hbmesh status
  $ hbmesh stop --worker_address 10.0.0.1:31501

Exit codes: 0 it worked, 1 it failed (the cause is on stderr), 2 wrong arguments, 130 interrupted, 141 nobody
reads its output any more (as in hbmesh status | head -1).
Ctrl-C, SIGTERM, SIGHUP and SIGQUIT end a command as planned. What npx or npm starts ends with it.
Every command has its own --help with examples. Options may be spelled with underscores or dashes; where a command takes a
worker's address, --worker and --worker_address are the same.`;

/** The tree of commands. `setExitCode` is called by those that worked and have something to tell by their code. */
export function buildProgram(setExitCode: (code: number) => void): Command {
  const packagePath = fileURLToPath(new URL("../../package.json", import.meta.url));
  const { version } = JSON.parse(readFileSync(packagePath, "utf8")) as { version: string };
  const program = new Command("hbmesh")
    .description("hbmesh: objects in accelerator memory (HBM), host memory and on other nodes, by key.")
    .version(version)
    .addHelpText("after", overview)
    .showSuggestionAfterError(true)
    .exitOverride();
  const worker = addWorkerCommand(program);
  addStartCommand(program, worker);
  addStopCommand(program);
  addStatusCommand(program, setExitCode);
  addDevCommand(program, worker, setExitCode);
  addDemoCommand(program, setExitCode);
  addObjectCommands(program, setExitCode);
  addClusterCommands(program, setExitCode);
  addBenchCommand(program);
  for (const command of commandsOf(program)) {
    command.showSuggestionAfterError(true).exitOverride();
  }
  return program;
}

/** Runs one command line (without node and script name). Resolves to the exit code, never rejects. */
export async function main(args: readonly string[]): Promise<number> {
  let exitCode = 0;
  const program = buildProgram((code) => {
    exitCode = code;
  });
  try {
    const line = unifySpelling(program, args);
    refuseUnknownOptions(program, line);
    await program.parseAsync(line, { from: "user" });
    return exitCode;
  } catch (error) {
    if (error instanceof CommanderError) {
      // Commander has printed its message; help and version are no errors.
      return error.exitCode === 0 ? 0 : 2;
    }
    if (error instanceof ExitError) {
      if (error.message !== "") {
        process.stderr.write(`hbmesh: ${error.message}\n`);
      }
      return error.exitCode;
    }
    const failure = HbmeshError.from(error);
    process.stderr.write(`hbmesh: ${failure.codeName}: ${failure.message}\n`);
    if (process.env.HBMESH_DEBUG !== undefined) {
      process.stderr.write(`${failure.stack}\n`);
    }
    return 1;
  }
}

function isEntryPoint(): boolean {
  const script = process.argv[1];
  return script !== undefined && realpathSync(script) === realpathSync(fileURLToPath(import.meta.url));
}

/** A connection or timer that a command has left open keeps its process no longer than this. */
const LEFT_OPEN_MS = 1_000;

if (isEntryPoint()) {
  if (process.pid === 1) {
    reapOrphans();
  }
  const output = new Output();
  endWithLauncher();
  const hasTerminal = [0, 1, 2].some((fd) => isatty(fd));
  process.exitCode = output.exitCodeOf(await main(process.argv.slice(2)));
  if (hasTerminal && ![0, 1, 2].some((fd) => isatty(fd))) {
    endByHangUp();
  }
  setTimeout(() => process.exit(), LEFT_OPEN_MS).unref();
}
