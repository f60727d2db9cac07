/**
 * Who asks: `authorization: Bearer <token>` shows the cluster's token, or names a tenant. What was sent stands in no
 * message.
 */
import type { ClusterToken } from "../base/credentials.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { DEFAULT_TENANT, type Tenants } from "../base/tenants.js";

/** What a request is measured by. */
export interface Access {
  tenants: Tenants | undefined;
  clusterToken: ClusterToken | undefined;
  /** What the worker's own user on its host shows (base/operator-proof.ts). */
  operator?: ClusterToken | undefined;
}

function bearerOf(header: Headers): string | undefined {
  return /^Bearer +(\S+) *$/i.exec(header.get("authorization") ?? "")?.[1];
}

function isOperator({ operator }: Access, header: Headers): boolean {
  const token = bearerOf(header);
  return token !== undefined && operator?.matches(token) === true;
}

/**
 * Whose keys a request is about. Without tenants everyone who may ask is the one tenant; who has the cluster's token
 * may ask for it too where there are tenants. Throws NOT_AUTHORIZED when the token is missing or nobody's.
 */
export function tenantOf({ tenants, clusterToken }: Access, header: Headers): string {
  if (tenants === undefined && clusterToken === undefined) {
    return DEFAULT_TENANT;
  }
  const token = bearerOf(header);
  if (token !== undefined && clusterToken?.matches(token) === true) {
    return DEFAULT_TENANT;
  }
  const tenant = token === undefined ? undefined : tenants?.tenantOf(token);
  if (tenant === undefined) {
    const cause = token === undefined ? "the request has no token" : "nobody has the token of the request";
    const source =
      tenants === undefined ? "the cluster's token (--cluster_token_file)" : "a token of the worker's tenants file";
    const remedy = `send the header \`authorization: Bearer <token>\` with ${source}`;
    throw new HbmeshError(StatusCode.NOT_AUTHORIZED, `${cause}; ${remedy}`);
  }
  return tenant;
}

/**
 * What belongs to no tenant, such as health and members: where there is a cluster token, everyone who asks shows one
 * that is known.
 */
export function checkAsker(access: Access, header: Headers): void {
  if (access.clusterToken !== undefined && !isOperator(access, header)) {
    tenantOf(access, header);
  }
}

/**
 * What concerns the worker as a whole: who asks shows the cluster's token, or is the worker's own user on its host.
 * Where there are tenants and no such token a tenant's is not enough.
 */
export function checkOperator(access: Access, header: Headers): void {
  const { tenants, clusterToken } = access;
  if ((tenants === undefined && clusterToken === undefined) || isOperator(access, header)) {
    return;
  }
  const token = bearerOf(header);
  if (token === undefined || clusterToken?.matches(token) !== true) {
    const remedy =
      clusterToken === undefined
        ? "a tenant's token is not enough for this: run hbmesh stop on the worker's host as its user or root, or start the cluster's workers with --cluster_token_file"
        : "send the header `authorization: Bearer <token>` with the cluster's token (--cluster_token_file), or run hbmesh stop on the worker's host as its user or root";
    throw new HbmeshError(StatusCode.NOT_AUTHORIZED, `only who has the cluster's token may do this; ${remedy}`);
  }
}
