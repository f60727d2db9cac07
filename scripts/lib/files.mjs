/** Lists files, for the scripts and tests that look at the sources. */
import { readdirSync } from "node:fs";
import { join } from "node:path";

const skipped = new Set(["node_modules", "dist", "build", ".git", ".setup"]);

/** Every file under `folder` whose name ends in one of `endings`, sorted, with whole paths. */
export function filesUnder(folder, endings) {
  const found = [];
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) {
      if (!skipped.has(entry.name) && !entry.name.startsWith("build-")) {
        found.push(...filesUnder(path, endings));
      }
    } else if (endings.some((ending) => entry.name.endsWith(ending))) {
      found.push(path);
    }
  }
  return found.sort();
}
