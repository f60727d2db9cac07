/** `hbmesh bench`: benchmarks as commands of their own, each in a file of its own. */
import type { Command } from "commander";
import { addHeteroCommand } from "./bench-hetero.js";
import { addInterferenceCommand } from "./bench-interference.js";
import { addLinkCommand } from "./bench-link.js";
import { addMetaCommand } from "./bench-meta.js";
import { addObjectsCommand } from "./bench-objects.js";

const help = `
Every figure stands beside a limit that the same run measures on the same machine. Without a worker's address they start their own
workers, with simulated devices.

Examples:
  $ hbmesh bench hetero -n 1process_1thread_32key_72KB
  $ hbmesh bench hetero --html hetero.html
  $ hbmesh bench link & hbmesh bench link 127.0.0.1 -a
  $ hbmesh bench meta
  $ hbmesh bench objects --objects 1000000
  $ hbmesh bench interference`;

export function addBenchCommand(program: Command): Command {
  const bench = program
    .command("bench")
    .description("Measure objects, links and metadata, each beside what the machine can do.")
    .addHelpText("after", help);
  addHeteroCommand(bench);
  addLinkCommand(bench);
  addMetaCommand(bench);
  addObjectsCommand(bench);
  addInterferenceCommand(bench);
  return bench;
}
