/**
 * Goal: a certificate that others would refuse is refused at the start, with what it has and what is needed. Method:
 * certificates made by openssl for several names, looked at for addresses of a worker, at times in and out of theirs.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { StatusCode } from "../../../src/base/errors.js";
import { checkOwnCertificate } from "../../../src/base/own-certificate.js";
import { createAuthority } from "../../support/certificates.js";

describe("a worker's own certificate", () => {
  let folder = "";
  let authority: ReturnType<typeof createAuthority>;
  const nowMs = Date.now();

  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "hbmesh-certificate-"));
    authority = createAuthority(folder, "ca");
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  /** By default at a time after the certificate was issued. */
  const check = (san: string, hosts: readonly string[], atMs?: number): void => {
    const file = authority.issue("worker", san).tlsCert;
    checkOwnCertificate(readFileSync(file), "worker.pem", hosts, atMs ?? Date.now());
  };

  it("is good when it names every IP, in any way of writing it", () => {
    check("IP:10.0.0.2", ["10.0.0.2", "10.0.0.2"]);
    check("DNS:node7,IP:10.0.0.2,IP:fd00::2", ["10.0.0.2", "fd00::2"]);
    check("IP:0:0:0:0:0:0:0:1", ["::1"]);
  });

  it.each([
    ["DNS:node7", ["10.0.0.2"], "is for DNS:node7, and this worker is at 10.0.0.2", "subjectAltName has IP:10.0.0.2"],
    ["IP:10.0.0.3", ["10.0.0.2", "fd00::2"], "this worker is at 10.0.0.2 and fd00::2", "has IP:10.0.0.2,IP:fd00::2"],
    ["IP:127.0.0.1", ["::1"], "is for IP Address:127.0.0.1, and this worker is at ::1", "has IP:::1"],
    ["DNS:10.0.0.2", ["10.0.0.2"], "is for DNS:10.0.0.2", "has IP:10.0.0.2"],
  ])("%s does not do for %j", (san, hosts, has, needed) => {
    expect(() => check(san, hosts)).toThrow(
      expect.objectContaining({ code: StatusCode.INVALID, message: expect.stringContaining(has) }),
    );
    expect(() => check(san, hosts)).toThrow(
      `others would refuse it; issue one whose ${needed.replace(/^has/, "subjectAltName has")}`,
    );
  });

  it("is refused before its time and after it, and what is no certificate too", () => {
    const dayMs = 86_400_000;
    check("IP:10.0.0.2", ["10.0.0.2"], nowMs + dayMs);
    for (const atMs of [nowMs - dayMs, nowMs + 3 * dayMs]) {
      expect(() => check("IP:10.0.0.2", ["10.0.0.2"], atMs)).toThrow(
        /^--tls_cert worker\.pem is valid from .* to .*, and it is .*: issue a new one/,
      );
    }
    expect(() => checkOwnCertificate(Buffer.from("nothing"), "worker.pem", ["10.0.0.2"], nowMs)).toThrow(
      expect.objectContaining({
        code: StatusCode.INVALID,
        message: expect.stringMatching(/^--tls_cert worker\.pem is no certificate in PEM \(/),
      }),
    );
  });
});
