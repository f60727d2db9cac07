/**
 * Runs the commands of the set-up: output goes to a log under .setup/, and only the end of it is shown, when the
 * command failed.
 */
import { spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

export const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
export const stateFolder = join(root, ".setup");

const shownLinesMax = 40;

/** An expected failure of the set-up: its message is the whole story, without a stack. */
export class SetupError extends Error {}

/** Runs a program with its output in .setup/<name>.log. Throws SetupError with the log's last lines. */
export async function runLogged(name, program, args, options = {}) {
  mkdirSync(stateFolder, { recursive: true });
  const path = join(stateFolder, `${name}.log`);
  const log = openSync(path, "w");
  const { code, error } = await new Promise((resolve) => {
    const child = spawn(program, args, { cwd: root, ...options, stdio: ["ignore", log, log] });
    child.on("error", (cause) => resolve({ code: -1, error: cause }));
    child.on("exit", (status, signal) => resolve({ code: status ?? signal }));
  });
  closeSync(log);
  if (code === 0) {
    return;
  }
  const lines = readFileSync(path, "utf8").trimEnd().split("\n");
  const shown = lines.slice(-shownLinesMax).join("\n");
  const cause = error === undefined ? `ended with ${code}` : error.message;
  throw new SetupError(
    `${[program, ...args].join(" ")}\n${shown}\n\n${cause}; the whole output is in ${relative(root, path)}`,
  );
}

/** Does this command end with 0? Its output is dropped. */
export function succeeds(program, args, options = {}) {
  return new Promise((resolve) => {
    const child = spawn(program, args, { cwd: root, ...options, stdio: "ignore" });
    child.on("error", () => resolve(false));
    child.on("exit", (status) => resolve(status === 0));
  });
}
