/** Reads the sources for the contract tests: which files there are, and their lines. */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("../..", import.meta.url));

/** Files of the repository, tracked or new, without what .gitignore names; sorted, relative to the root. */
export function repositoryFiles(): string[] {
  const list = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard"], {
    cwd: root,
    encoding: "utf8",
  });
  const names = list.split("\n").filter((name) => name !== "" && existsSync(join(root, name)));
  return [...new Set(names)].sort();
}

export function filesWith(folder: string, ...endings: string[]): string[] {
  return repositoryFiles().filter(
    (name) => name.startsWith(`${folder}/`) && endings.some((ending) => name.endsWith(ending)),
  );
}

export function read(name: string): string {
  return readFileSync(join(root, name), "utf8");
}
