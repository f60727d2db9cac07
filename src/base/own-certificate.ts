/**
 * Does a worker's certificate fit the addresses at which others reach it? They refuse one that does not name the IP,
 * and one whose time has not come or is over: such a worker would be a member that nobody can ask.
 */
import { X509Certificate } from "node:crypto";
import { HbmeshError, StatusCode } from "./errors.js";

/**
 * `hosts`: IP addresses of this worker, `cert`: PEM, `file`: for messages. Throws INVALID, saying what the certificate
 * has and what is needed.
 */
export function checkOwnCertificate(cert: Buffer, file: string, hosts: readonly string[], nowMs: number): void {
  const certificate = parse(cert, file);
  const missing = [...new Set(hosts)].filter((host) => certificate.checkIP(host) === undefined);
  if (missing.length > 0) {
    const names = certificate.subjectAltName ?? "no names";
    const needed = missing.map((host) => `IP:${host}`).join(",");
    const message = `--tls_cert ${file} is for ${names}, and this worker is at ${missing.join(" and ")}: others would refuse it; issue one whose subjectAltName has ${needed}`;
    throw new HbmeshError(StatusCode.INVALID, message);
  }
  const { validFrom, validTo } = certificate;
  if (nowMs < Date.parse(validFrom) || nowMs > Date.parse(validTo)) {
    const now = new Date(nowMs).toUTCString();
    const message = `--tls_cert ${file} is valid from ${validFrom} to ${validTo}, and it is ${now}: issue a new one, or set the clock`;
    throw new HbmeshError(StatusCode.INVALID, message);
  }
}

function parse(cert: Buffer, file: string): X509Certificate {
  try {
    return new X509Certificate(cert);
  } catch (cause) {
    const message = `--tls_cert ${file} is no certificate in PEM (${(cause as Error).message})`;
    throw new HbmeshError(StatusCode.INVALID, message, { cause });
  }
}
