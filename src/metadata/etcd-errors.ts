/** What etcd3 and gRPC reject with, as HbmeshError: the endpoints, the cause in plain words, and what to do. */
import { isRecoverableError } from "etcd3";
import { causeOf } from "../base/connection-cause.js";
import { HbmeshError, StatusCode } from "../base/errors.js";

const GRPC_DEADLINE_EXCEEDED = 4;
const GRPC_UNAVAILABLE = 14;

/** No etcd was reached, or answered in time; or etcd3 did not try. */
export function isUnreached(reason: unknown): boolean {
  if (!(reason instanceof Error)) {
    return false;
  }
  // Streams tell of gRPC's own codes.
  const isLate = "code" in reason && (reason.code === GRPC_DEADLINE_EXCEEDED || reason.code === GRPC_UNAVAILABLE);
  return isLate || isRecoverableError(reason) || "isBrokenCircuitError" in reason;
}

/** The lease that a call named has ended. */
export function isLeaseGone(reason: unknown): boolean {
  return reason instanceof Error && /requested lease not found/.test(reason.message);
}

/** etcd has forgotten who logged in, or does not take the password any more. */
export function isLoginOver(reason: unknown): boolean {
  return (
    reason instanceof Error &&
    /invalid auth token|revision of auth store is old|invalid user ID or password/.test(reason.message)
  );
}

function isRefused(reason: unknown): boolean {
  return (
    reason instanceof Error &&
    /permission denied|invalid user ID or password|user name is empty|authentication is not enabled/.test(
      reason.message,
    )
  );
}

/** `what` was being done at these endpoints, and had `timeoutMs`. */
export function fromEtcdError(
  reason: unknown,
  { what, endpoints, timeoutMs }: { what: string; endpoints: readonly string[]; timeoutMs: number },
): HbmeshError {
  if (reason instanceof HbmeshError) {
    return reason;
  }
  if (isLeaseGone(reason)) {
    return new HbmeshError(StatusCode.NOT_FOUND, "the lease is gone; grant another one", { cause: reason });
  }
  const node = endpoints.join(",");
  const why = whyOf(causeOf(reason), timeoutMs);
  if (isRefused(reason)) {
    const remedy =
      "check --etcd_user and --etcd_password_file, and that the user's role may read and write the prefix hbmesh/";
    const message = `${what} etcd at ${node} was refused (${why}); ${remedy}`;
    return new HbmeshError(StatusCode.NOT_AUTHORIZED, message, { node, cause: reason });
  }
  const message = `${what} etcd at ${node} failed (${why}); check that etcd runs there: etcdctl --endpoints ${node} endpoint health`;
  return new HbmeshError(StatusCode.RPC_UNAVAILABLE, message, { node, cause: reason });
}

/** The library's text without what it wraps around the cause: `14 UNAVAILABLE: No connection established. Last ...`. */
function whyOf(text: string, timeoutMs: number): string {
  if (/deadline.exceeded/i.test(text)) {
    // The text goes on with what the library waited for, which is wrong where a host takes a connection and is silent.
    return `no answer within ${timeoutMs} ms`;
  }
  const unnamed = /Name resolution failed for target dns:(.*):\d+/.exec(text)?.[1];
  if (unnamed !== undefined) {
    return `the name ${unnamed} leads to no address`;
  }
  const last = /Last error: (?:Error: )?(.*?)(?: \(\d{4}-[^)]*Z\))?\.? Resolution note:/s.exec(text)?.[1];
  switch (last?.trim()) {
    case undefined:
      return text.replace(/^\d+ [A-Z_]+: /, "");
    case "Failed to connect":
      return "the connection was closed before etcd answered";
    case "Protocol error":
      return "what answers there is no etcd (protocol error)";
    default:
      return (last as string).replace(/\s+/g, " ").replace(/:?$/, "");
  }
}
