/**
 * What the fuzzers are built with: Clang and its runtime. Nothing else needs it, so that its absence is no error: the
 * fuzz tests are then skipped, by name.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";

const compiler = "clang++";

function answerOf(option) {
  const result = spawnSync(compiler, [option], { encoding: "utf8" });
  return result.status === 0 ? result.stdout.trim() : undefined;
}

/** Is libFuzzer among the libraries of this Clang? They lie in one folder for each platform. */
function hasRuntime(resources) {
  const libraries = join(resources, "lib");
  if (!existsSync(libraries)) {
    return false;
  }
  return readdirSync(libraries, { recursive: true }).some((name) => /libclang_rt\.fuzzer[^/]*\.a$/.test(name));
}

/** `{ compiler }`, or `{ missing, packages }`: why there will be no fuzzing, and the Debian packages that change it. */
export function findFuzzTools() {
  const version = answerOf("-dumpversion");
  if (version === undefined) {
    return { missing: "clang++ is not on the PATH", packages: ["clang"] };
  }
  if (!hasRuntime(answerOf("-print-resource-dir") ?? "")) {
    const name = `libclang-rt-${version.split(".")[0]}-dev`;
    return { missing: `clang++ ${version} has no libFuzzer (${name})`, packages: [name] };
  }
  return { compiler };
}
