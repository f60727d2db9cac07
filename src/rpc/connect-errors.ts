/**
 * HbmeshError <-> ConnectError, in this one file. Connect's codes are coarser than ours, so our number travels beside
 * them: as a KeyStatus detail (which JSON shows to people) and, with key and node, in headers.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import { causeOf } from "../base/connection-cause.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { KeyStatusSchema } from "../gen/hbmesh/v1/status_pb.js";

const HEADER_CODE = "hbmesh-code";
const HEADER_KEY = "hbmesh-key";
const HEADER_NODE = "hbmesh-node";

/** Which of Connect's codes (and so which HTTP status) each of ours is shown as. Absent: Unknown. */
const CONNECT_CODES: Partial<Record<StatusCode, Code>> = {
  [StatusCode.INVALID]: Code.InvalidArgument,
  [StatusCode.NOT_FOUND]: Code.NotFound,
  [StatusCode.RUNTIME_ERROR]: Code.Internal,
  [StatusCode.OUT_OF_MEMORY]: Code.ResourceExhausted,
  [StatusCode.NOT_READY]: Code.Unavailable,
  [StatusCode.NOT_AUTHORIZED]: Code.Unauthenticated,
  [StatusCode.INTERRUPTED]: Code.Aborted,
  [StatusCode.OUT_OF_RANGE]: Code.OutOfRange,
  [StatusCode.NO_SPACE]: Code.ResourceExhausted,
  [StatusCode.TRY_AGAIN]: Code.ResourceExhausted,
  [StatusCode.DATA_INCONSISTENCY]: Code.DataLoss,
  [StatusCode.SHUTTING_DOWN]: Code.Unavailable,
  [StatusCode.CLIENT_WORKER_DISCONNECT]: Code.Unavailable,
  [StatusCode.WORKER_TIMEOUT]: Code.DeadlineExceeded,
  [StatusCode.SCALING]: Code.Unavailable,
  [StatusCode.NOT_SUPPORTED]: Code.Unimplemented,
  [StatusCode.NO_AVAILABLE_WORKER]: Code.Unavailable,
  [StatusCode.RPC_CANCELLED]: Code.Canceled,
  [StatusCode.RPC_DEADLINE_EXCEEDED]: Code.DeadlineExceeded,
  [StatusCode.RPC_UNAVAILABLE]: Code.Unavailable,
  [StatusCode.RPC_PEER_DEAD]: Code.Unavailable,
  [StatusCode.KEY_ALREADY_EXISTS]: Code.AlreadyExists,
  [StatusCode.FUTURE_TIMEOUT]: Code.DeadlineExceeded,
};

/** What a code of Connect's own means when no code of ours came with it. Absent: RUNTIME_ERROR. */
const STATUS_CODES: Partial<Record<Code, StatusCode>> = {
  [Code.Canceled]: StatusCode.RPC_CANCELLED,
  [Code.InvalidArgument]: StatusCode.INVALID,
  [Code.DeadlineExceeded]: StatusCode.RPC_DEADLINE_EXCEEDED,
  [Code.NotFound]: StatusCode.NOT_FOUND,
  [Code.AlreadyExists]: StatusCode.KEY_ALREADY_EXISTS,
  [Code.PermissionDenied]: StatusCode.NOT_AUTHORIZED,
  [Code.Unauthenticated]: StatusCode.NOT_AUTHORIZED,
  [Code.ResourceExhausted]: StatusCode.TRY_AGAIN,
  [Code.Aborted]: StatusCode.INTERRUPTED,
  [Code.OutOfRange]: StatusCode.OUT_OF_RANGE,
  [Code.Unimplemented]: StatusCode.NOT_SUPPORTED,
  [Code.Unavailable]: StatusCode.RPC_UNAVAILABLE,
  [Code.DataLoss]: StatusCode.DATA_INCONSISTENCY,
};

/** Keeps a ConnectError as it is; anything that is no HbmeshError is an internal fault, RUNTIME_ERROR. */
export function toConnectError(reason: unknown): ConnectError {
  if (reason instanceof ConnectError) {
    return reason;
  }
  const error = HbmeshError.from(reason);
  const headers = new Headers({ [HEADER_CODE]: String(error.code) });
  if (error.key !== undefined) {
    headers.set(HEADER_KEY, encodeURIComponent(error.key));
  }
  if (error.node !== undefined) {
    headers.set(HEADER_NODE, error.node);
  }
  const code = CONNECT_CODES[error.code] ?? Code.Unknown;
  const detail = { desc: KeyStatusSchema, value: { code: error.code, message: error.message } };
  return new ConnectError(error.message, code, headers, [detail], error);
}

/** `node` is the peer that was asked; it is kept unless the error names another. */
export function fromConnectError(reason: unknown, node?: string): HbmeshError {
  if (reason instanceof HbmeshError) {
    return reason;
  }
  if (!(reason instanceof ConnectError)) {
    return HbmeshError.from(reason);
  }
  if (reason.cause instanceof HbmeshError) {
    return reason.cause;
  }
  const number = Number(reason.metadata.get(HEADER_CODE) ?? "");
  const known = number !== 0 && StatusCode[number] !== undefined;
  const mapped = isSocketError(reason)
    ? StatusCode.RPC_UNAVAILABLE
    : (STATUS_CODES[reason.code] ?? StatusCode.RUNTIME_ERROR);
  const code = known ? (number as StatusCode) : mapped;
  const key = decodeKey(reason.metadata.get(HEADER_KEY));
  const asked = reason.metadata.get(HEADER_NODE) ?? node;
  const text = isSocketError(reason) ? causeOf(reason.cause ?? reason) : reason.rawMessage || causeOf(reason);
  // Connect's own message for a refused or broken connection names neither the peer nor what to do.
  const message = known || asked === undefined ? text : `${asked}: ${text}; check that it runs and can be reached`;
  return new HbmeshError(code, message, {
    cause: reason,
    ...(key === undefined ? {} : { key }),
    ...(asked === undefined ? {} : { node: asked }),
  });
}

/** Connect calls some broken connections unknown or internal; the socket's own error is among the causes then. */
function isSocketError(reason: ConnectError): boolean {
  let cause: unknown = reason.cause;
  for (let depth = 0; depth < 4 && cause instanceof Error; depth++) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code !== undefined && /^(EPIPE|ECONN|EHOST|ENET|ETIMEDOUT|ENOTFOUND|EAI_|HPE_|ERR_STREAM|UND_ERR)/.test(code)) {
      return true;
    }
    cause = cause.cause;
  }
  return false;
}

function decodeKey(text: string | null): string | undefined {
  if (text === null) {
    return undefined;
  }
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
