/**
 * Workers that run on this host, whoever started them and how: found by their command lines, as is a sidecar that was
 * left alone.
 */
import { lookup } from "node:dns/promises";
import { readlinkSync } from "node:fs";
import { isIP } from "node:net";
import { basename, isAbsolute, resolve } from "node:path";
import { canonicalAddress, canonicalHost, formatAddress, parseAddress } from "../base/address.js";
import { causeOf } from "../base/connection-cause.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { type FoundProcess, findProcesses, isOwn, startedAtMs } from "../base/processes.js";
import type { AccessOptions } from "./api-client.js";

export interface WorkerProcess extends FoundProcess {
  workerAddress: string;
  startedAtMs: number;
  /** The file that it logs to, if it is one. */
  log: string | undefined;
  /**
   * What it asks of those who ask it, as far as its own options tell. Empty for another user's: whoever writes a
   * command line could have us read a file that only we may read, and show what is in it to an address of theirs.
   */
  access: AccessOptions;
}

/**
 * The addresses that a worker may have which somebody names so: itself, or what a host's name leads to. Rejects with
 * NO_AVAILABLE_WORKER for a name that leads nowhere.
 */
export async function addressesOf(
  named: string,
  lookUp: (name: string) => Promise<{ address: string }[]> = (name) => lookup(name, { all: true }),
): Promise<string[]> {
  const { host, port } = parseAddress(named, "the worker address");
  if (isIP(host) !== 0) {
    return [formatAddress({ host, port })];
  }
  try {
    const found = await lookUp(host);
    return [...new Set(found.map(({ address }) => formatAddress({ host: canonicalHost(address), port })))];
  } catch (cause) {
    const message = `the name ${host} leads to no address (${causeOf(cause)}): check it, or give the IP`;
    throw new HbmeshError(StatusCode.NO_AVAILABLE_WORKER, message, { node: named, cause });
  }
}

/** All of them, or those at these addresses; the oldest first. */
export function findWorkers(workerAddresses?: readonly string[]): WorkerProcess[] {
  return findProcesses((args) => matches(workerAddressOf(args), workerAddresses))
    .map((found) => ({
      ...found,
      workerAddress: workerAddressOf(found.args) ?? "",
      startedAtMs: startedAtMs(found),
      log: logOf(found.pid),
      access: accessOf(found),
    }))
    .sort((a, b) => a.startedAtMs - b.startedAtMs);
}

/** Sidecars with this worker's address: its own, or one that outlives its control process for a while. */
export function findSidecars(workerAddresses?: readonly string[]): (FoundProcess & { workerAddress: string })[] {
  const addressOf = ([program = "", ...args]: readonly string[]): string | undefined =>
    basename(program) === "hbmesh-sidecar" ? addressIn(args) : undefined;
  return findProcesses((args) => matches(addressOf(args), workerAddresses)).map((found) => ({
    ...found,
    workerAddress: addressOf(found.args) ?? "",
  }));
}

/** Processes that keep the memory of a sidecar (native/sidecar/memory_keeper.h), also after it was killed. */
export function findKeepers(workerAddresses: readonly string[]): FoundProcess[] {
  return findProcesses(
    ([program, address = ""]) => program === "hbmesh-keeper" && workerAddresses.includes(canonicalAddress(address)),
  );
}

function matches(address: string | undefined, wanted: readonly string[] | undefined): boolean {
  return address !== undefined && (wanted === undefined || wanted.includes(address));
}

/** `node .../cli/main.js worker --worker_address IP:PORT`, or hbmesh.js or hbmesh instead of main.js. */
function workerAddressOf(args: readonly string[]): string | undefined {
  const command = args.findIndex((arg, index) => index > 0 && arg === "worker" && isHbmesh(args[index - 1] ?? ""));
  return command < 0 ? undefined : addressIn(args.slice(command + 1));
}

/** In the one way in which it is written, whatever somebody typed. */
function addressIn(args: readonly string[]): string | undefined {
  const value = optionValue(args, "worker_address");
  return value === undefined ? undefined : canonicalAddress(value);
}

function isHbmesh(path: string): boolean {
  return path.endsWith("/cli/main.js") || path.endsWith("/cli/hbmesh.js") || basename(path) === "hbmesh";
}

/** `--name value` or `--name=value`, in either spelling; the last one counts. */
function optionValue(args: readonly string[], name: string): string | undefined {
  let value: string | undefined;
  for (const [index, arg] of args.entries()) {
    const [word = ""] = arg.split("=", 1);
    if (word.replaceAll("-", "_") === `__${name}`) {
      value = arg.includes("=") ? arg.slice(word.length + 1) : args[index + 1];
    }
  }
  return value;
}

function accessOf({ pid, args }: FoundProcess): AccessOptions {
  const access: AccessOptions = {};
  if (!isOwn(pid)) {
    return access;
  }
  const fileOf = (name: string): string | undefined => {
    const file = optionValue(args, name);
    try {
      return file === undefined || isAbsolute(file) ? file : resolve(readlinkSync(`/proc/${pid}/cwd`), file);
    } catch {
      return undefined;
    }
  };
  const token = fileOf("cluster_token_file");
  if (token !== undefined) {
    access.token_file = token;
  }
  for (const name of ["tls_ca", "tls_cert", "tls_key"] as const) {
    const file = fileOf(name);
    if (file !== undefined) {
      access[name] = file;
    }
  }
  return access;
}

function logOf(pid: number): string | undefined {
  try {
    const target = readlinkSync(`/proc/${pid}/fd/2`);
    return target.startsWith("/dev/") || !target.startsWith("/") ? undefined : target;
  } catch {
    return undefined;
  }
}
