/**
 * IP:PORT addresses: the names of workers. IPv6 is written in brackets, as in `[::1]:31501`.
 */
import { isIP } from "node:net";
import { HbmeshError, StatusCode } from "./errors.js";

export interface Address {
  host: string;
  port: number;
}

/**
 * Reads IP:PORT. Throws INVALID naming `what` and what was given. Host names are refused: a worker's address is its
 * name in the cluster, and must mean the same on every machine.
 */
export function parseAddress(text: string, what: string): Address {
  const match = /^(?:\[([^\]]*)\]|([^:]*)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2] ?? "";
  const port = Number(match?.[3] ?? "-1");
  const family = isIP(host);
  const bracketed = match?.[1] !== undefined;
  if (match === null || family === 0 || (family === 6) !== bracketed) {
    throw new HbmeshError(StatusCode.INVALID, `${what} must be IP:PORT, as in 127.0.0.1:31501, and not "${text}"`);
  }
  if (port > 65_535) {
    throw new HbmeshError(StatusCode.INVALID, `${what} has port ${port}; ports go from 0 to 65535`);
  }
  return { host, port };
}

/** The inverse of parseAddress. */
export function formatAddress(address: Address): string {
  return isIP(address.host) === 6 ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`;
}

/** Does this address reach only this machine? */
export function isLoopback(host: string): boolean {
  return host === "::1" || /^127\./.test(host);
}
