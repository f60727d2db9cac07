/**
 * Which members run on the same machine: those with the same boot id, user and network namespace can share memory and
 * abstract sockets.
 */
import { readFileSync, readlinkSync } from "node:fs";
import { hostname } from "node:os";

/** Falls back to the host name where the kernel doesn't tell. */
export function readHostId(): string {
  let boot = hostname();
  let network = "";
  try {
    boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    network = readlinkSync("/proc/self/ns/net");
  } catch {
    // Not Linux, or /proc is not mounted.
  }
  // By number: in a container the user often has no name.
  return `${boot}/${network}/${process.geteuid?.() ?? 0}`;
}
