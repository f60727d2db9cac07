/**
 * What hbmesh needs of the machine, in one place: programs, and the Debian packages that bring programs and headers.
 * Missing packages are installed when this process may (root, or sudo without a password); otherwise the one line to
 * run is the error.
 */
import { spawnSync } from "node:child_process";
import { accessSync, constants, existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { findFuzzTools } from "./fuzz-tools.mjs";
import { runLogged, SetupError, succeeds } from "./run.mjs";

const nodeMajorMin = 20;

/**
 * Debian packages and the file, program or Python module that shows each is there. `for` says which job needs it:
 * "build" is npm start; "test", "lint" and "wheel" are wanted in addition by those commands.
 */
export const debianPackages = [
  { name: "g++", program: "c++", for: "build" },
  { name: "make", program: "make", for: "build" },
  { name: "cmake", program: "cmake", for: "build" },
  { name: "python3", program: "python3", for: "build" },
  { name: "libfmt-dev", file: "/usr/include/fmt/core.h", for: "build" },
  { name: "libspdlog-dev", file: "/usr/include/spdlog/spdlog.h", for: "build" },
  { name: "libcli11-dev", file: "/usr/include/CLI/CLI.hpp", for: "build" },
  { name: "libxxhash-dev", file: "/usr/include/xxhash.h", for: "build" },
  { name: "libisal-dev", file: "/usr/include/isa-l/crc.h", for: "build" },
  { name: "libssl-dev", file: "/usr/include/openssl/hmac.h", for: "build" },
  { name: "liburing-dev", file: "/usr/include/liburing.h", for: "build" },
  { name: "libgtest-dev", file: "/usr/include/gtest/gtest.h", for: "test" },
  { name: "etcd-server", program: "etcd", for: "test" },
  { name: "curl", program: "curl", for: "test" },
  { name: "numactl", program: "numactl", for: "test" },
  { name: "openssl", program: "openssl", for: "test" },
  { name: "python3-venv", module: "ensurepip", for: "test" },
  { name: "python3-venv", module: "ensurepip", for: "lint" },
  { name: "python3-venv", module: "ensurepip", for: "wheel" },
  { name: "clang-format", program: "clang-format", for: "lint" },
];

function programPath(name) {
  for (const folder of (process.env.PATH ?? "").split(delimiter)) {
    const path = join(folder, name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Not in this folder.
    }
  }
  return undefined;
}

function isThere(wanted) {
  if (wanted.module !== undefined) {
    return spawnSync("python3", ["-c", `import ${wanted.module}`], { stdio: "ignore" }).status === 0;
  }
  return wanted.program === undefined ? existsSync(wanted.file) : programPath(wanted.program) !== undefined;
}

function missingPackages(purposes) {
  return debianPackages.filter((wanted) => purposes.includes(wanted.for) && !isThere(wanted));
}

/** `["build", "test"]`: throws SetupError with a remedy, or installs what is missing. */
export async function ensureTools(purposes, report) {
  const major = Number(process.versions.node.split(".")[0]);
  if (major < nodeMajorMin) {
    throw new SetupError(
      `Node ${nodeMajorMin} or newer is needed, this is ${process.versions.node} (${process.execPath}). ` +
        "Install it from https://nodejs.org or with your version manager, then run this again.",
    );
  }
  if (programPath("npm") === undefined) {
    throw new SetupError("npm is not on the PATH. It comes with Node; install the package that has both.");
  }
  const missing = missingPackages(purposes);
  if (missing.length > 0) {
    await installPackages([...new Set(missing.map((wanted) => wanted.name))], report);
    const still = missingPackages(purposes);
    if (still.length > 0) {
      throw new SetupError(
        `installed, but not found: ${still.map((wanted) => wanted.program ?? wanted.file ?? wanted.module).join(", ")}`,
      );
    }
  }
  if (purposes.includes("test") || purposes.includes("fuzz")) {
    await ensureFuzzTools(report);
  }
}

/** Clang comes first: it says which version its runtime must have. Without them the fuzz tests are skipped. */
async function ensureFuzzTools(report) {
  for (let step = 0; step < 2; step += 1) {
    const { missing, packages } = findFuzzTools();
    if (missing === undefined) {
      return;
    }
    try {
      await installPackages(packages, report);
    } catch (error) {
      if (!(error instanceof SetupError)) {
        throw error;
      }
      report(`no fuzzing: ${missing}; install ${packages.join(" ")} for it`);
      return;
    }
  }
}

async function installPackages(names, report) {
  const line = `apt-get install -y --no-install-recommends ${names.join(" ")}`;
  const prefix = await adminPrefix();
  if (prefix === undefined || programPath("apt-get") === undefined) {
    const hint = programPath("apt-get") === undefined ? "with your system's package manager (Debian names)" : "once";
    throw new SetupError(`missing: ${names.join(", ")}. Install ${hint}, then run this again:\n\n  sudo ${line}\n`);
  }
  report(`installing ${names.join(" ")}`);
  const environment = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  const [program, ...rest] = [...prefix, ...line.split(" ")];
  if (await succeeds(program, rest, { env: environment })) {
    return;
  }
  // A fresh machine has no package lists yet.
  const [update, ...updateRest] = [...prefix, "apt-get", "update"];
  await runLogged("apt-update", update, updateRest, { env: environment });
  await runLogged("apt-install", program, rest, { env: environment });
}

/** [] as root, ["sudo", "-n"] where that needs no password, undefined where this process may not install. */
async function adminPrefix() {
  if (process.getuid?.() === 0) {
    return [];
  }
  const mayElevate = programPath("sudo") !== undefined && (await succeeds("sudo", ["-n", "true"]));
  return mayElevate ? ["sudo", "-n"] : undefined;
}
