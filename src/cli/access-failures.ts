/**
 * What a command says when a worker does not let it in: which option is missing, or is one too many. TLS fails in the
 * socket, with a code of Node's or OpenSSL's; a token is refused in the answer.
 */
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { AccessOptions } from "./api-client.js";

export interface Asked {
  worker: string;
  access: AccessOptions;
  hasToken: boolean;
}

/** Undefined: it failed for another reason. */
export function accessFailure(failure: HbmeshError, asked: Asked): HbmeshError | undefined {
  if (failure.code === StatusCode.NOT_AUTHORIZED && / token/.test(failure.message) && !asked.hasToken) {
    const remedy = "give --token_file FILE, or its token in HBMESH_TOKEN";
    return new HbmeshError(failure.code, `${failure.message}. Here: ${remedy}`, { node: asked.worker, cause: failure });
  }
  const found = errorsOf(failure)
    .map((error) => tlsFailure(error, asked))
    .find((each) => each !== undefined);
  return found === undefined
    ? undefined
    : new HbmeshError(found.code, found.message, { node: asked.worker, cause: failure });
}

function errorsOf(failure: Error): NodeJS.ErrnoException[] {
  const found: NodeJS.ErrnoException[] = [];
  for (let error: unknown = failure; error instanceof Error && found.length < 8; error = error.cause) {
    found.push(error);
  }
  return found;
}

function tlsFailure(
  { code = "", message }: NodeJS.ErrnoException,
  { worker, access }: Asked,
): { code: StatusCode; message: string } | undefined {
  const is = (pattern: RegExp): boolean => pattern.test(code) || pattern.test(message);
  if (is(/WRONG_VERSION_NUMBER|wrong version number|PACKET_LENGTH_TOO_LONG|packet length too long/)) {
    const what = `the worker at ${worker} does not speak TLS: leave out --tls_ca, --tls_cert and --tls_key`;
    return { code: StatusCode.INVALID, message: what };
  }
  if (is(/CERTIFICATE_REQUIRED|certificate required|ALERT_HANDSHAKE_FAILURE/)) {
    const what = `the worker at ${worker} asks for a certificate: give --tls_cert and --tls_key`;
    return { code: StatusCode.NOT_AUTHORIZED, message: what };
  }
  if (is(/ALERT_UNKNOWN_CA|alert unknown ca|ALERT_BAD_CERTIFICATE|ALERT_CERTIFICATE|alert (bad )?certificate/)) {
    const what = `the worker at ${worker} does not take the certificate ${access.tls_cert}: it must be signed by the cluster's authority, and not be over`;
    return { code: StatusCode.NOT_AUTHORIZED, message: what };
  }
  if (access.tls_cert !== undefined && is(/ECONNRESET|socket hang up/)) {
    // Node ends a connection whose certificate it does not take after the handshake, and without a word.
    const what = `the worker at ${worker} has closed the connection: if it runs, it does not take the certificate ${access.tls_cert}, which must be signed by the cluster's authority, and not be over`;
    return { code: StatusCode.RPC_UNAVAILABLE, message: what };
  }
  if (is(/^(UNABLE_TO_|SELF_SIGNED|DEPTH_ZERO|CERT_|ERR_TLS_CERT)/)) {
    const what = `the certificate that ${worker} shows is not good (${message}): --tls_ca ${access.tls_ca} must be of who signed it, and it must name that IP in its subjectAltName`;
    return { code: StatusCode.NOT_AUTHORIZED, message: what };
  }
  return undefined;
}
