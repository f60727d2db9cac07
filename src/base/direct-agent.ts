/**
 * HTTP between our own parts never goes through a proxy. Node's global agents take one from the environment (http_proxy
 * with NODE_USE_ENV_PROXY=1); an agent of one's own does not.
 */
import { Agent as HttpAgent } from "node:http";
import { Agent as HttpsAgent } from "node:https";

const LIMITS = { keepAlive: true } as const;

/** Keeps connections while the process lives, which they don't hold up. */
export function createDirectAgent(isTls: boolean): HttpAgent {
  return isTls ? new HttpsAgent(LIMITS) : new HttpAgent(LIMITS);
}

/**
 * Has gRPC (etcd3, whose login takes no options) connect to these hosts itself, whatever grpc_proxy, https_proxy and
 * http_proxy say. It reads no_grpc_proxy, or no_proxy where there is none, at each connection.
 */
export function keepGrpcDirect(hosts: readonly string[], env: NodeJS.ProcessEnv = process.env): void {
  const listed = (env.no_grpc_proxy || env.no_proxy || "").split(",").filter((host) => host !== "");
  env.no_grpc_proxy = [...new Set([...listed, ...hosts])].join(",");
}
