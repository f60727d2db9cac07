/**
 * Whose keys a request of the API is about: `authorization: Bearer <token>` names the tenant. What was sent stands in no message.
 */
import { HbmeshError, StatusCode } from "../base/errors.js";
import { DEFAULT_TENANT, type Tenants } from "../base/tenants.js";

/** Without tenants everyone is the one tenant. Throws NOT_AUTHORIZED when the token is missing or nobody's. */
export function tenantOf(tenants: Tenants | undefined, header: Headers): string {
  if (tenants === undefined) {
    return DEFAULT_TENANT;
  }
  const token = /^Bearer +(\S+) *$/i.exec(header.get("authorization") ?? "")?.[1];
  const tenant = token === undefined ? undefined : tenants.tenantOf(token);
  if (tenant === undefined) {
    const cause = token === undefined ? "the request has no token" : "nobody has the token of the request";
    const remedy = "send the header `authorization: Bearer <token>` with a token of the worker's tenants file";
    throw new HbmeshError(StatusCode.NOT_AUTHORIZED, `${cause}; ${remedy}`);
  }
  return tenant;
}
