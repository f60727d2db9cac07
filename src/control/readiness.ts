/** Why a worker isn't ready: what it still waits for before it answers questions with certainty. */
import type { Announcer } from "./announcer.js";
import type { DirectoryOwner } from "./directory-owner.js";
import type { Drain } from "./drain.js";
import type { LeaseGuard } from "./lease-guard.js";
import type { Membership } from "./membership.js";
import type { Peers } from "./peers.js";
import type { SidecarSupervisor } from "./sidecar-supervisor.js";

export interface Readiness {
  isClosing: boolean;
  drain: Drain;
  supervisor: SidecarSupervisor | undefined;
  membership: Membership;
  owner: DirectoryOwner;
  announcer: Announcer;
  guard: LeaseGuard;
  peers: Peers;
}

/** Empty: it is ready. */
export function whyNotReady(worker: Readiness): string {
  if (worker.isClosing) {
    return "the worker is shutting down";
  }
  if (worker.drain.isLeaving) {
    return worker.drain.leavingReason;
  }
  const sidecarReason = worker.supervisor?.notReadyReason ?? "";
  if (sidecarReason !== "") {
    return sidecarReason;
  }
  if (worker.membership.view === undefined) {
    return "the worker has not joined its cluster yet";
  }
  if (worker.owner.complete) {
    const { unconfirmed } = worker.announcer;
    return unconfirmed === 0 ? "" : `owners have not confirmed yet ${unconfirmed} copies of other workers' objects`;
  }
  const { missing } = worker.owner;
  if (missing.length === 0) {
    return worker.guard.mayDecide ? "" : "its lease in the store has ended, and it has not joined again yet";
  }
  return `not announced yet after the last change of the ring: ${worker.peers.namesOf(missing)}`;
}
