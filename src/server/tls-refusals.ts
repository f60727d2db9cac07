/**
 * Who can't be talked to over TLS. One that speaks plain HTTP is told so, in plain HTTP, so that its user learns more
 * than "connection closed"; all refusals are in the log.
 */
import type { Server } from "node:https";
import type { Socket } from "node:net";
import type { TLSSocket } from "node:tls";
import { StatusCode } from "../base/errors.js";
import type { LimitedWarn } from "../base/log-limit.js";

const CAUSES: Readonly<Record<string, string>> = {
  ERR_SSL_HTTP_REQUEST: "it speaks plain HTTP",
  ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE: "it shows no certificate",
};

/** `address`: what the plain caller is to ask instead. */
export function tellTlsRefusals(server: Server, address: string, warn: LimitedWarn): void {
  /** The TCP connections under those of TLS, by the other end. */
  const under = new Map<string, Socket>();
  server.on("connection", (socket: Socket) => {
    const peer = nameOf(socket) ?? "";
    under.set(peer, socket);
    socket.once("close", () => {
      if (under.get(peer) === socket) {
        under.delete(peer);
      }
    });
  });
  server.on("tlsClientError", (error: NodeJS.ErrnoException, secure: TLSSocket) => {
    const peer = nameOf(secure);
    if (error.code === "ERR_SSL_HTTP_REQUEST") {
      under.get(peer ?? "")?.end(plainAnswer(address));
    }
    const cause = CAUSES[error.code ?? ""] ?? error.message.trim();
    warn({ peer, cause }, "refused an API connection: its TLS handshake failed");
  });
}

/** Undefined: it is gone already. */
function nameOf({ remoteAddress, remotePort }: Socket): string | undefined {
  return remoteAddress === undefined ? undefined : `${remoteAddress} ${remotePort}`;
}

function plainAnswer(address: string): string {
  const message = `this worker speaks TLS: ask https://${address}, and show a certificate of the cluster's (commands of hbmesh: --tls_ca, --tls_cert and --tls_key)`;
  const body = `${JSON.stringify({ code: "unauthenticated", message })}\n`;
  const head = [
    "HTTP/1.1 400 Bad Request",
    "content-type: application/json",
    `content-length: ${Buffer.byteLength(body)}`,
    `hbmesh-code: ${StatusCode.NOT_AUTHORIZED}`,
    "connection: close",
  ];
  return `${head.join("\r\n")}\r\n\r\n${body}`;
}
