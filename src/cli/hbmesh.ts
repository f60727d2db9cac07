#!/usr/bin/env node
/**
 * The program behind the name `hbmesh`: looks whether the process may open enough files, then runs main.ts.
 *
 * A file of its own, with imports of Node's own modules alone: Node opens the modules of a program many at a time, and
 * one that may not open so many ends with a stack trace before a line of it has run.
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** Loading takes some 100, a worker some 60 for itself, and 4 for each client. */
const OPEN_FILES_MIN = 256;

/** How many files this process may open; undefined where the system does not tell, or there is no limit. */
function openFilesLimit(): number | undefined {
  try {
    const soft = /^Max open files\s+(\d+)/m.exec(readFileSync("/proc/self/limits", "utf8"))?.[1];
    return soft === undefined ? undefined : Number(soft);
  } catch {
    return undefined;
  }
}

const limit = openFilesLimit();
if (limit !== undefined && limit < OPEN_FILES_MIN) {
  process.stderr.write(
    `hbmesh: this process may open ${limit} files, and needs at least ${OPEN_FILES_MIN}: raise the limit, as with ` +
      "`ulimit -n 65536` in the shell, LimitNOFILE= in a systemd unit or --ulimit nofile= of a container\n",
  );
  process.exitCode = 1;
} else {
  const main = new URL("./main.js", import.meta.url);
  process.argv[1] = fileURLToPath(main); // it runs by itself when it is the program
  await import(main.href);
}
