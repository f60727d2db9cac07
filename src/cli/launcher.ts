/**
 * What npx or npm starts ends with it. A signal that is sent to npx alone reaches the shell between the two at most, so
 * that `hbmesh dev` would go on with its workers, and with their ports, as nobody's child.
 *
 * Only npm's own launchers are watched: a shell, a script or a service manager may end before what it has started.
 */
import { basename } from "node:path";
import { type FoundProcess, identify, isRunning, parentOf } from "../base/processes.js";
import { endThisProcess } from "./signals.js";

const LOOK_MS = 250;
/** 128 + SIGTERM. */
const ENDED_EXIT_CODE = 143;
/** npm gives itself a title such as "npm exec hbmesh dev", which replaces its arguments. */
const TITLE = /^(npm|npx|pnpm|yarn)( |$)/;
const SCRIPT = /^(npm|npx|pnpm|yarn)(-cli)?(\.c?js)?$/;
const SHELL = /^(ba|da|z)?sh$/;

/** What launched this process and the shells in between, the nearest first; empty: no such launcher did. */
export function findLauncher(pid = process.pid): FoundProcess[] {
  const chain: FoundProcess[] = [];
  for (;;) {
    const parent = identify(parentOf(chain.at(-1)?.pid ?? pid));
    if (parent === undefined) {
      return [];
    }
    chain.push(parent);
    const [program = "", argument = ""] = parent.args;
    if (TITLE.test(program) || (basename(program) === "node" && SCRIPT.test(basename(argument)))) {
      return chain;
    }
    if (!SHELL.test(basename(program)) || argument !== "-c") {
      return [];
    }
  }
}

/** Ends this process, as SIGTERM does, when what launched it is gone. */
export function endWithLauncher(): void {
  const chain = findLauncher();
  if (chain.length === 0) {
    return;
  }
  const timer = setInterval(() => {
    if (!chain.every(isRunning)) {
      clearInterval(timer);
      process.stderr.write("hbmesh: ending, since the npm or npx that started it is gone\n");
      endThisProcess(ENDED_EXIT_CODE);
    }
  }, LOOK_MS);
  timer.unref();
}
