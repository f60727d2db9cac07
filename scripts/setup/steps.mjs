/**
 * The steps of the set-up, in order. Each is { name, title, needed(), run() }: `needed` looks at stamps and costs
 * milliseconds, `run` does the work and may assume that the steps before it are done.
 */
import { accessSync, chmodSync, constants, existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { root, runLogged, SetupError } from "./run.mjs";
import { clearStamp, fingerprint, isCurrent, writeStamp } from "./stamp.mjs";
import { ensureTools } from "./tools.mjs";

const binary = (name) => join(root, "node_modules", ".bin", name);

/** A step that runs when the content of `inputs` changed since it last succeeded or an output is missing. */
function stampedStep({ name, title, inputs, accept, extra, outputs, run }) {
  return {
    name,
    title,
    needed: () => !isCurrent(name, fingerprint(inputs, extra, accept), outputs),
    run: async (report) => {
      // Taken before the work: a file that is edited meanwhile makes the step run again.
      const print = fingerprint(inputs, extra, accept);
      clearStamp(name);
      await run(report);
      const missing = outputs.filter((output) => !existsSync(join(root, output)));
      if (missing.length > 0) {
        throw new SetupError(`${title}: the command succeeded but did not make ${missing.join(", ")}`);
      }
      writeStamp(name, print);
    },
  };
}

/** Is every package of the lock file there in its version? Optional ones (other platforms) may be absent. */
function packagesAreInstalled() {
  const installedPath = join(root, "node_modules", ".package-lock.json");
  if (!existsSync(installedPath)) {
    return false;
  }
  const wanted = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8")).packages;
  const installed = JSON.parse(readFileSync(installedPath, "utf8")).packages;
  return Object.entries(wanted).every(
    ([path, entry]) => path === "" || entry.optional || installed[path]?.version === entry.version,
  );
}

/**
 * `npx hbmesh` runs dist/cli/hbmesh.js itself. npm makes it executable only the first time that it links this clone
 * into its cache; a dist/ that was built anew afterwards would be refused with "Permission denied".
 */
function commandStep() {
  const command = join(root, "dist", "cli", "hbmesh.js");
  return {
    name: "command",
    title: "hbmesh, executable",
    needed: () => !isExecutable(command),
    run: () => chmodSync(command, 0o755),
  };
}

function isExecutable(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

const isTypeScript = (path) => path.endsWith(".ts");

/** What is built of the native code, the most complete first: what one of them made is good for those after it. */
const nativeParts = [
  { name: "native-tests", title: "native code and its tests", targets: [] },
  { name: "native", title: "native code", targets: [] },
  {
    name: "native-core",
    title: "native code: sidecar and addon",
    targets: ["hbmesh-sidecar", "hbmesh_addon", "hbmesh-raw-sockets"],
  },
];

function nativeStep(purposes) {
  const buildFolder = join(root, "build");
  const part = purposes.includes("test") ? 0 : purposes.includes("start") ? 2 : 1;
  const { name, title, targets } = nativeParts[part];
  const inputs = ["CMakeLists.txt", "cmake", "native", "node_modules/node-addon-api/package.json"];
  const outputs = ["build/Release/hbmesh.node", "build/Release/hbmesh-sidecar"];
  const print = () => fingerprint(inputs);
  return {
    name,
    title,
    needed: () => !nativeParts.slice(0, part + 1).some((each) => isCurrent(each.name, print(), outputs)),
    run: async () => {
      const before = print();
      clearStamp(name);
      const jobs = String(availableParallelism());
      const tests = `--CDHBMESH_TESTS=${part === 0 ? "ON" : "OFF"}`;
      const wanted = targets.length > 0 ? ["--target", ...targets] : [];
      // A cache of another checkout, or of another generator, can't be reused: start again.
      const cache = join(buildFolder, "CMakeCache.txt");
      if (existsSync(cache) && !readFileSync(cache, "utf8").includes(`CMAKE_HOME_DIRECTORY:INTERNAL=${root}\n`)) {
        rmSync(buildFolder, { recursive: true, force: true });
      }
      await runLogged("native-configure", binary("cmake-js"), ["configure", "--config", "Release", tests]);
      await runLogged("native-build", "cmake", ["--build", buildFolder, "--config", "Release", "-j", jobs, ...wanted]);
      writeStamp(name, before);
    },
  };
}

/** Tools of the Python package's tests, lint and wheel, in a virtual environment of this checkout. */
function pythonStep() {
  const folder = join(root, "build", "venv");
  return stampedStep({
    name: "python",
    title: "Python tools, from python/requirements-dev.txt",
    inputs: ["python/requirements-dev.txt"],
    outputs: ["build/venv/bin/python"],
    run: async () => {
      await runLogged("python-venv", "python3", ["-m", "venv", "--clear", folder]);
      const pip = ["-m", "pip", "install", "--disable-pip-version-check", "--no-input"];
      await runLogged("python-pip", join(folder, "bin", "python"), [...pip, "-r", "python/requirements-dev.txt"]);
    },
  });
}

/**
 * All steps for `purposes`: "build" always, "test" for the tests, "lint" for the formatters, "wheel" for the Python
 * package. "start" leaves out native programs that the main job and workers don't need: bench, C library; "fuzz" leaves
 * out all of the native code.
 */
export function setupSteps(purposes) {
  return [
    {
      name: "tools",
      title: "tools of the machine",
      needed: () => true,
      run: (report) => ensureTools(purposes, report),
    },
    {
      name: "packages",
      title: "npm packages",
      needed: () => !packagesAreInstalled(),
      // No package here needs its install script.
      run: () => runLogged("npm-ci", "npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"]),
    },
    stampedStep({
      name: "generate",
      title: "messages from proto/",
      inputs: ["proto", "buf.yaml", "buf.gen.yaml"],
      outputs: ["src/gen/hbmesh/v1/status_pb.ts"],
      run: () => runLogged("buf", binary("buf"), ["generate"], { env: pathWithBinaries() }),
    }),
    stampedStep({
      name: "wasm",
      title: "decisions, AssemblyScript to Wasm",
      inputs: ["asm"],
      outputs: ["dist/decisions.wasm"],
      run: () => {
        mkdirSync(join(root, "dist"), { recursive: true });
        return runLogged("asc", binary("asc"), [
          "asm/index.ts",
          "--config",
          "asm/asconfig.json",
          "--target",
          "release",
        ]);
      },
    }),
    stampedStep({
      name: "key-rule",
      title: "key rule, Wasm to C++",
      inputs: ["dist/decisions.wasm", "scripts/generate-key-rule.mjs"],
      outputs: ["native/generated/key_rule.h"],
      run: () => runLogged("key-rule", process.execPath, ["scripts/generate-key-rule.mjs"]),
    }),
    stampedStep({
      name: "typescript",
      title: "control plane, TypeScript to dist/",
      inputs: ["src", "tsconfig.json", "node_modules/typescript/package.json"],
      accept: (path) => isTypeScript(path) || path.endsWith(".json"),
      outputs: ["dist/cli/main.js", "dist/client/index.js"],
      run: () => runLogged("tsc", binary("tsc"), ["-p", "tsconfig.json"]),
    }),
    commandStep(),
    // The fuzzers are a build of their own (scripts/fuzz.mjs), which needs what was generated above.
    ...(purposes.includes("fuzz") ? [] : [nativeStep(purposes)]),
    // After the native code, which may empty build/.
    ...(purposes.some((purpose) => ["test", "lint", "wheel"].includes(purpose)) ? [pythonStep()] : []),
  ];
}

function pathWithBinaries() {
  return { ...process.env, PATH: `${join(root, "node_modules", ".bin")}:${process.env.PATH ?? ""}` };
}
