/** Why this process can't listen at an address, and which addresses it may listen at. */
import { networkInterfaces } from "node:os";
import { formatAddress, isLinkLocal } from "./address.js";

/** The cause and what to do, for the end of a sentence. */
export function listenFault({ code, message }: NodeJS.ErrnoException): string {
  switch (code) {
    case "EADDRINUSE":
      return "another process has this port; stop it, or choose another one";
    case "EADDRNOTAVAIL":
      return `this host has no such IP address${describeOwnHosts()}`;
    case "EACCES":
      return "this user may not listen at that port; choose one from 1024 on";
    default:
      return message;
  }
}

/** "; this host has 10.0.0.7, fd00::2", with the port if one is given; empty for a host that has loopback alone. */
export function describeOwnHosts(port?: number): string {
  const hosts = Object.values(networkInterfaces())
    .flatMap((each) => each ?? [])
    .filter(({ internal, address }) => !internal && !isLinkLocal(address))
    .map(({ address }) => (port === undefined ? address : formatAddress({ host: address, port })));
  return hosts.length === 0 ? "" : `; this host has ${hosts.join(", ")}`;
}
