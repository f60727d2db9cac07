/** Would others reach this worker's control link, as far as it can tell by itself? */
import { parseAddress } from "../base/address.js";
import type { Clock } from "../base/clock.js";
import type { WorkerConfig } from "../base/config.js";
import type { Credentials } from "../base/credentials.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { checkOwnCertificate } from "../base/own-certificate.js";
import type { ControlNetwork } from "./network.js";
import { dial } from "./reach.js";

/**
 * With TLS: does the certificate name the worker's IPs, and does a connection to its own link get through the
 * handshake? Throws INVALID, saying what is wrong. Without: there is nothing that could not be reached at an address
 * where this process listens.
 */
export async function checkOwnLink(
  { workerAddress, tlsCert = "" }: WorkerConfig,
  { tls }: Credentials,
  network: ControlNetwork,
  linkAddress: string,
  clock: Clock,
): Promise<void> {
  if (tls === undefined) {
    return;
  }
  const hosts = [workerAddress, linkAddress].map((address) => parseAddress(address, "the address").host);
  checkOwnCertificate(tls.cert, tlsCert, hosts, clock.nowMs());
  try {
    await dial(network, linkAddress);
  } catch (cause) {
    const why = HbmeshError.from(cause).message;
    const remedy = "others would not get in either: check that --tls_ca signed --tls_cert, for servers and clients";
    throw new HbmeshError(StatusCode.INVALID, `this worker can't connect to its own control link (${why}); ${remedy}`, {
      cause,
    });
  }
}
