/**
 * Stamps: a step runs again only when the content of its inputs changed, or an output is missing. `.setup/<step>.stamp`
 * holds the fingerprint of the inputs with which the step last succeeded.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { root, stateFolder } from "./run.mjs";

/** SHA-256 over names and bytes of the files under `paths` (relative to the root; a missing one counts as missing). */
export function fingerprint(paths, extra = "", accept = () => true) {
  const hash = createHash("sha256").update(extra);
  for (const path of paths) {
    addPath(hash, path, accept);
  }
  return hash.digest("hex");
}

function addPath(hash, path, accept) {
  const whole = join(root, path);
  const entry = statSync(whole, { throwIfNoEntry: false });
  if (entry === undefined) {
    hash.update(`${path}\0missing\0`);
  } else if (entry.isDirectory()) {
    for (const name of readdirSync(whole).sort()) {
      addPath(hash, join(path, name), accept);
    }
  } else if (accept(path)) {
    const bytes = readFileSync(whole);
    hash.update(`${path}\0${bytes.length}\0`).update(bytes);
  }
}

export function isCurrent(step, print, outputs) {
  const path = join(stateFolder, `${step}.stamp`);
  return (
    outputs.every((output) => existsSync(join(root, output))) &&
    existsSync(path) &&
    readFileSync(path, "utf8") === print
  );
}

export function writeStamp(step, print) {
  mkdirSync(stateFolder, { recursive: true });
  writeFileSync(join(stateFolder, `${step}.stamp`), print);
}

export function clearStamp(step) {
  rmSync(join(stateFolder, `${step}.stamp`), { force: true });
}
