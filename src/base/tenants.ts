/**
 * Tenants: who may see which keys. A file names them, one line each: `token tenant`, separated by blanks; empty lines
 * and lines that begin with `#` are left out. A token is a secret: it is kept as a digest only, and stands in no
 * message and no log.
 *
 * Keys of all tenants but `default` carry a prefix inside hbmesh, which their users neither see nor can write: 16
 * hexadecimal digits of XXH64 (seed 0) of the tenant's name in UTF-8, then the byte 0x1f. "key" of the tenant `a` is
 * "d24ec4f1a98c6e5b\x1fkey".
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { HbmeshError, StatusCode } from "./errors.js";
import { hash64 } from "./hash64.js";

/** The tenant whose keys have no prefix; the only one where no file is configured. */
export const DEFAULT_TENANT = "default";

export interface Tenants {
  /** How many different tenants there are. */
  readonly count: number;
  /** Undefined for a token that nobody has. */
  tenantOf(token: string): string | undefined;
}

/** Reads the file; throws INVALID naming it, the line and what is wrong, but never what stands there. */
export function loadTenants(path: string): Tenants {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    const message = `the tenants file ${path} can't be read: ${(cause as Error).message}; each line of it is: token tenant`;
    throw new HbmeshError(StatusCode.INVALID, message, { cause });
  }
  return parseTenants(text, path);
}

export function parseTenants(text: string, name: string): Tenants {
  const byDigest = new Map<string, string>();
  const byPrefix = new Map<string, string>();
  const refuse = (line: number, what: string): never => {
    throw new HbmeshError(
      StatusCode.INVALID,
      `line ${line} of the tenants file ${name} ${what}; it must be: token tenant`,
    );
  };
  for (const [index, line] of text.split("\n").entries()) {
    const fields = line.trim().split(/\s+/);
    if (fields[0] === "" || fields[0]?.startsWith("#")) {
      continue;
    }
    const [token = "", tenant = ""] = fields;
    if (fields.length !== 2) {
      refuse(index + 1, `has ${fields.length} fields`);
    }
    const digest = digestOf(token);
    if (byDigest.has(digest)) {
      refuse(index + 1, "repeats the token of another line");
    }
    const prefix = prefixOf(tenant);
    if ((byPrefix.get(prefix) ?? tenant) !== tenant) {
      refuse(index + 1, "has a tenant whose keys can't be told from those of another one: rename it");
    }
    byDigest.set(digest, tenant);
    byPrefix.set(prefix, tenant);
  }
  if (byDigest.size === 0) {
    throw new HbmeshError(
      StatusCode.INVALID,
      `the tenants file ${name} names nobody; each line of it is: token tenant`,
    );
  }
  return { count: byPrefix.size, tenantOf: (token) => byDigest.get(digestOf(token)) };
}

/** Keys as hbmesh has them inside. */
export function scopeKeys(tenant: string, keys: readonly string[]): readonly string[] {
  const prefix = prefixOf(tenant);
  return prefix === "" ? keys : keys.map((key) => prefix + key);
}

function prefixOf(tenant: string): string {
  return tenant === DEFAULT_TENANT ? "" : `${hash64(Buffer.from(tenant, "utf8")).toString(16).padStart(16, "0")}\x1f`;
}

/** Looked up by digest, so that how long a look takes tells nothing of the tokens. */
function digestOf(token: string): string {
  return createHash("sha256").update(token, "utf8").digest("hex");
}
