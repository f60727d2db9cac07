/**
 * Goal: an address is read alike everywhere, and written in one way. Method: the table that the C++ and Python parsers
 * are tested with too (test/support/addresses.json).
 */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import {
  canonicalAddress,
  formatAddress,
  isLinkLocal,
  isLoopback,
  isWildcard,
  parseAddress,
  parseHost,
  parseIpAddress,
} from "../../../src/base/address.js";
import { StatusCode } from "../../../src/base/errors.js";

interface Table {
  accepted: { text: string; host: string; port: number; canonical: string }[];
  refused: { text: string; why: string }[];
  hosts: { text: string; host: string }[];
  refusedHosts: { text: string; why: string }[];
}

const path = new URL("../../support/addresses.json", import.meta.url);
const { accepted, refused, hosts, refusedHosts } = JSON.parse(readFileSync(path, "utf8")) as Table;

/** The INVALID that reading it throws. */
function refusalOf(read: () => unknown): string {
  try {
    read();
  } catch (reason) {
    expect(reason).toMatchObject({ code: StatusCode.INVALID });
    return (reason as Error).message;
  }
  throw new Error("it was accepted");
}

describe("addresses", () => {
  it.each(accepted)("$text is $canonical", ({ text, host, port, canonical }) => {
    expect(parseAddress(text, "x")).toEqual({ host, port });
    expect(formatAddress({ host, port })).toBe(canonical);
    expect(canonicalAddress(text)).toBe(canonical);
    expect(canonicalAddress(canonical)).toBe(canonical);
  });

  it.each(refused)("$text is refused: $why", ({ text, why }) => {
    const message = refusalOf(() => parseAddress(text, "workerAddress"));
    expect(message).toMatch(/^workerAddress "/);
    expect(message).toContain(`" ${why}`);
    expect(message).toContain("give HOST:PORT, as in 10.0.0.1:31501 or [::1]:31501");
    expect(message).not.toContain("secret");
    expect(canonicalAddress(text)).toBe(text);
  });

  it.each(hosts)("$text alone is the host $host", ({ text, host }) => {
    expect(parseHost(text, "host")).toBe(host);
  });

  it.each(refusedHosts)("$text alone is no host: $why", ({ text, why }) => {
    expect(refusalOf(() => parseHost(text, "host"))).toContain(`" ${why}`);
  });

  it("a worker's own has an IP, not a name", () => {
    expect(parseIpAddress("[0::1]:5", "x")).toEqual({ host: "::1", port: 5 });
    expect(refusalOf(() => parseIpAddress("node7:5", "workerAddress"))).toBe(
      'workerAddress "node7:5" has a name, which may lead elsewhere on another machine: give the IP that others reach (getent ahosts node7)',
    );
  });

  it("knows those that reach one machine, all of its addresses, or one link", () => {
    const told = ["127.3.4.5", "::1", "10.0.0.1", "127.example", "0.0.0.0", "::", "fe80::1", "febf::1", "fec0::1"].map(
      (host) => [isLoopback(host), isWildcard(host), isLinkLocal(host)].map(Number).join(""),
    );
    expect(told).toEqual(["100", "100", "000", "000", "010", "010", "001", "001", "000"]);
  });
});
