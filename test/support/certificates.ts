/**
 * Certificates for tests, by openssl: a cluster's authority, a worker of it at 127.0.0.1, and strangers. In a folder
 * that the test removes.
 */
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";

export interface TlsFiles {
  tlsCert: string;
  tlsKey: string;
  tlsCa: string;
}

function openssl(...args: string[]): void {
  execFileSync("openssl", args, { stdio: ["ignore", "ignore", "pipe"] });
}

/** An authority: issue() gives files with a certificate for 127.0.0.1, or for another name. */
export function createAuthority(folder: string, name: string): { issue: (who: string, san?: string) => TlsFiles } {
  const key = join(folder, `${name}.key`);
  const ca = join(folder, `${name}.pem`);
  const fresh = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  openssl("req", "-x509", ...fresh, "-keyout", key, "-out", ca, "-subj", `/CN=${name}`, "-days", "2");
  return {
    issue(who, san = "IP:127.0.0.1") {
      const base = join(folder, `${name}-${who}`);
      writeFileSync(`${base}.ext`, `subjectAltName=${san}\n`);
      openssl("req", ...fresh, "-keyout", `${base}.key`, "-out", `${base}.csr`, "-subj", `/CN=${who}`);
      const signing = ["-CA", ca, "-CAkey", key, "-CAcreateserial", "-days", "2", "-extfile", `${base}.ext`];
      openssl("x509", "-req", "-in", `${base}.csr`, "-out", `${base}.pem`, ...signing);
      return { tlsCert: `${base}.pem`, tlsKey: `${base}.key`, tlsCa: ca };
    },
  };
}
