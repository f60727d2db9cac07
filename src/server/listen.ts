/** Listening for HTTP: a server at an address, and what to say when that can't be. */
import type { Server } from "node:http";
import { parseAddress } from "../base/address.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { listenFault } from "../base/listen-fault.js";

/** Rejects with NOT_READY naming the address and the remedy. */
export function listen(server: Server, address: string): Promise<void> {
  const { host, port } = parseAddress(address, "the API address");
  return new Promise((resolve, reject) => {
    const onError = (cause: NodeJS.ErrnoException): void => {
      const message = `can't listen at ${address}: ${listenFault(cause)}`;
      reject(new HbmeshError(StatusCode.NOT_READY, message, { node: address, cause }));
    };
    server.once("error", onError);
    server.listen({ host, port }, () => {
      server.off("error", onError);
      resolve();
    });
  });
}
