/** Who may ask a worker, and what guards it, in words: for its log at the start, since nobody should have to guess. */
import { isLoopback, parseAddress } from "../base/address.js";
import type { WorkerConfig } from "../base/config.js";

export interface WorkerAccess {
  /** Clients of this host, over the session socket. */
  localClients: string;
  /** Whoever reaches the API's port. */
  api: string;
}

export function describeAccess(config: WorkerConfig, ownUid = process.geteuid?.() ?? 0): WorkerAccess {
  return { localClients: localClients(config, ownUid), api: api(config) };
}

function localClients(config: WorkerConfig, ownUid: number): string {
  const { clientUids, clientGid, clusterTokenFile, tenantsFile, localToken } = config;
  if (tenantsFile !== undefined || localToken === "required") {
    const whose = tenantsFile === undefined ? "the cluster's token" : "a tenant's token";
    return `any user of this host who shows ${whose}`;
  }
  const users = [...new Set([ownUid, 0, ...clientUids])].map(String).join(", ");
  const group = clientGid === undefined ? "" : ` and members of group ${clientGid}`;
  const byUser = `users ${users}${group}, without a token: the user id is the guard`;
  return clusterTokenFile === undefined ? byUser : `${byUser}; any other user who shows the cluster's token`;
}

function api(config: WorkerConfig): string {
  const guards = [
    ...(config.tlsCert === undefined ? [] : ["a certificate of the cluster's"]),
    ...(config.clusterTokenFile === undefined ? [] : ["the cluster's token"]),
    ...(config.tenantsFile === undefined ? [] : ["a tenant's token (for objects)"]),
  ];
  if (guards.length > 0) {
    return `who shows ${guards.join(" and ")}`;
  }
  const { host } = parseAddress(config.workerAddress, "workerAddress");
  return isLoopback(host) ? "every user of this host: nothing guards it" : "everyone who reaches it: nothing guards it";
}
