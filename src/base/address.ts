/**
 * Addresses, HOST:PORT: the names of workers, and where everything listens and connects.
 *
 * One grammar in all languages (native/base/address.h, python/hbmesh/_address.py), held by test/support/addresses.json.
 * HOST is an IPv4 address, an IPv6 address in brackets, or a name. Each address has one way of being written, so that
 * equal ones compare equal: `[0:0:0:0:0:0:0:1]:5` is `[::1]:5`, `[::ffff:10.0.0.1]:5` is `10.0.0.1:5`, names are in
 * small letters. A zone (`%eth0`) is refused: it means something on one host only.
 */
import { isIP, SocketAddress } from "node:net";
import { HbmeshError, StatusCode } from "./errors.js";

export interface Address {
  /** An IP address without brackets, or a name. */
  host: string;
  port: number;
}

const PORT_MAX = 65_535;
const NAME_LENGTH_MAX = 253;
const LABEL = /^(?!-)[a-z0-9_-]{1,63}(?<!-)$/;
/** A name that ends so is read as an IPv4 address by some resolvers: 127.1, 0x7f000001. */
const NUMBER = /^(\d+|0x[0-9a-f]*)$/;
const FORM = "give HOST:PORT, as in 10.0.0.1:31501 or [::1]:31501";

/** Reads HOST:PORT. Throws INVALID naming `what`, what was given, and why it is none. */
export function parseAddress(text: string, what: string): Address {
  const parsed = readAddress(text);
  if (typeof parsed === "string") {
    throw new HbmeshError(StatusCode.INVALID, `${what} ${quote(text)} ${parsed}: ${FORM}`);
  }
  return parsed;
}

/** Reads a host alone, IPv6 with brackets or without. Throws INVALID naming `what`, what was given, and why. */
export function parseHost(text: string, what: string): string {
  const host = readHost(text);
  if (host !== undefined) {
    return host;
  }
  const why =
    text === ""
      ? "is empty"
      : text.includes("%")
        ? ZONE
        : "is neither an IP address nor a host name; a port goes apart";
  throw new HbmeshError(StatusCode.INVALID, `${what} ${quote(text)} ${why}: give a host as in 10.0.0.1, ::1 or node7`);
}

/** As parseAddress, but names are refused: each machine may take a name for something else. */
export function parseIpAddress(text: string, what: string): Address {
  const address = parseAddress(text, what);
  if (isIP(address.host) === 0) {
    const message = `${what} "${text}" has a name, which may lead elsewhere on another machine: give the IP that others reach (getent ahosts ${address.host})`;
    throw new HbmeshError(StatusCode.INVALID, message);
  }
  return address;
}

/** The inverse of parseAddress. */
export function formatAddress(address: Address): string {
  return isIP(address.host) === 6 ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`;
}

/** The one way in which this address is written; a text that is none stays as it is. */
export function canonicalAddress(text: string): string {
  const parsed = readAddress(text);
  return typeof parsed === "string" ? text : formatAddress(parsed);
}

/** The one way in which this IP address is written; a text that is none stays as it is. */
export function canonicalHost(text: string): string {
  return readHost(text) ?? text;
}

/** Does this address reach only this machine? */
export function isLoopback(host: string): boolean {
  return host === "::1" || (isIP(host) === 4 && host.startsWith("127."));
}

/** Does this address stand for all of a host's, so that nobody can connect to it? */
export function isWildcard(host: string): boolean {
  return host === "::" || host === "0.0.0.0";
}

/** Does this address need a zone, and so mean something on one link only? */
export function isLinkLocal(host: string): boolean {
  return /^fe[89ab]/.test(host) && isIP(host) === 6;
}

const ZONE = "has a zone (%), which means something on one host only";
const NEITHER = "has a host that is neither an IP address (IPv6 in brackets) nor a name";
const NO_PORT = "has no port";
const BAD_PORT = `has a port that is no number from 0 to ${PORT_MAX}`;
const NO_BRACKETS = "has an IPv6 address without brackets";

/** The address, or why it is none. */
function readAddress(text: string): Address | string {
  if (text === "") {
    return "is empty";
  }
  if (text.includes("%")) {
    return ZONE;
  }
  const parts = splitPort(text);
  if (typeof parts === "string") {
    return parts;
  }
  const host = readHost(parts.host);
  if (host === undefined) {
    return NEITHER;
  }
  if (parts.port === "") {
    return NO_PORT;
  }
  const port = /^(0|[1-9]\d{0,4})$/.test(parts.port) ? Number(parts.port) : Number.NaN;
  return port <= PORT_MAX ? { host, port } : BAD_PORT;
}

function splitPort(text: string): { host: string; port: string } | string {
  if (text.startsWith("[")) {
    const [, host, colon, port] = /^(\[[^\]]*\])(?:(:)(.*))?$/s.exec(text) ?? [];
    return host === undefined ? NEITHER : { host, port: colon === undefined ? "" : (port ?? "") };
  }
  const colon = text.lastIndexOf(":");
  if (colon >= 0 && (isIP(text) === 6 || isIP(text.slice(0, colon)) === 6)) {
    return NO_BRACKETS;
  }
  return colon < 0 ? { host: text, port: "" } : { host: text.slice(0, colon), port: text.slice(colon + 1) };
}

/** As it is written; undefined: it is no host. */
function readHost(text: string): string | undefined {
  const [, inner] = /^\[([^\]]*)\]$/s.exec(text) ?? [];
  const family = isIP(inner ?? text);
  if (family === 6 && !text.includes("%")) {
    const { address } = new SocketAddress({ address: inner ?? text, family: "ipv6" });
    return address.startsWith("::ffff:") && address.includes(".") ? address.slice("::ffff:".length) : address;
  }
  if (inner !== undefined) {
    return undefined;
  }
  if (family === 4) {
    return text;
  }
  const name = text.toLowerCase();
  const labels = (name.endsWith(".") ? name.slice(0, -1) : name).split(".");
  const isName =
    name.length <= NAME_LENGTH_MAX && labels.every((label) => LABEL.test(label)) && !NUMBER.test(labels.at(-1) ?? "");
  return isName ? name : undefined;
}

/** What was given, without a password that somebody put before the host. */
function quote(text: string): string {
  return JSON.stringify(text.replace(/^.*@/s, "...@"));
}
