/**
 * What members of a cluster show to each other, and what is asked of those who use the API: a token that all members
 * have, and certificates for mutual TLS. Both come from files, and stand in no message, no log and on no command line.
 *
 * The token never travels on the control link and between sidecars: both ends prove that they have it, by HMAC-SHA256
 * over a text that says which end it is, and a random number of each end.
 */
import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";
import { HbmeshError, StatusCode } from "./errors.js";

/** As tls.createServer and tls.connect take them; PEM. */
export interface TlsMaterial {
  readonly cert: Buffer;
  readonly key: Buffer;
  /** Who signs the certificates of all members. */
  readonly ca: Buffer;
}

export interface Credentials {
  /** Undefined: nobody is asked for one. */
  readonly token: ClusterToken | undefined;
  /** Undefined: no TLS. */
  readonly tls: TlsMaterial | undefined;
}

export interface CredentialFiles {
  clusterTokenFile?: string | undefined;
  tlsCert?: string | undefined;
  tlsKey?: string | undefined;
  tlsCa?: string | undefined;
}

export const NO_CREDENTIALS: Credentials = { token: undefined, tls: undefined };

export const PROOF_BYTES = 32;
export const NONCE_BYTES = 32;
/** Shorter ones could be guessed from a proof that somebody has heard. */
export const TOKEN_LENGTH_MIN = 16;
export const TOKEN_LENGTH_MAX = 512;

/** Keeps the token to itself. */
export class ClusterToken {
  readonly #token: Buffer;
  readonly #digest: Buffer;

  /** Throws INVALID naming `where` it comes from, never what it is. */
  constructor(text: string, where: string) {
    const token = text.trim();
    if (!/^[\x21-\x7e]+$/.test(token) || token.length < TOKEN_LENGTH_MIN || token.length > TOKEN_LENGTH_MAX) {
      const rule = `${TOKEN_LENGTH_MIN} to ${TOKEN_LENGTH_MAX} characters without blanks, and nothing else`;
      throw new HbmeshError(
        StatusCode.INVALID,
        `${where} must have one token of ${rule}; make one: openssl rand -hex 32`,
      );
    }
    this.#token = Buffer.from(token, "latin1");
    this.#digest = digestOf(this.#token);
  }

  /** Is this the token? Takes the same time for every wrong one. */
  matches(text: string): boolean {
    return timingSafeEqual(digestOf(Buffer.from(text, "utf8")), this.#digest);
  }

  /** What the end called `role` shows; both random numbers are part of it, so that no proof is good twice. */
  proof(role: string, clientNonce: Uint8Array, serverNonce: Uint8Array): Buffer {
    return createHmac("sha256", this.#token).update(`${role}\0`).update(clientNonce).update(serverNonce).digest();
  }

  /** Is `proof` what that end would show? In constant time. */
  accepts(proof: Uint8Array, role: string, clientNonce: Uint8Array, serverNonce: Uint8Array): boolean {
    return proof.byteLength === PROOF_BYTES && timingSafeEqual(proof, this.proof(role, clientNonce, serverNonce));
  }
}

/**
 * What a cluster's store keeps of its token, to tell a worker that has another one: nothing that could be shown instead
 * of it.
 */
export function markOf({ token }: Credentials, clusterName: string): string {
  const nothing = Buffer.alloc(0);
  return token === undefined ? "none" : token.proof(`hbmesh cluster ${clusterName}`, nothing, nothing).toString("hex");
}

function digestOf(token: Uint8Array): Buffer {
  return createHash("sha256").update(token).digest();
}

/** Reads the files. Throws INVALID naming the option and the file. */
export function loadCredentials(files: CredentialFiles): Credentials {
  const { clusterTokenFile, tlsCert, tlsKey, tlsCa } = files;
  const token =
    clusterTokenFile === undefined
      ? undefined
      : new ClusterToken(
          read("--cluster_token_file", clusterTokenFile).toString("utf8"),
          `--cluster_token_file ${clusterTokenFile}`,
        );
  if (tlsCert === undefined && tlsKey === undefined && tlsCa === undefined) {
    return { token, tls: undefined };
  }
  if (tlsCert === undefined || tlsKey === undefined || tlsCa === undefined) {
    const message = "mutual TLS takes --tls_cert, --tls_key and --tls_ca, all three";
    throw new HbmeshError(StatusCode.INVALID, message);
  }
  return {
    token,
    tls: {
      cert: read("--tls_cert", tlsCert),
      key: read("--tls_key", tlsKey),
      ca: read("--tls_ca", tlsCa),
    },
  };
}

function read(option: string, file: string): Buffer {
  try {
    return readFileSync(file);
  } catch (cause) {
    throw new HbmeshError(StatusCode.INVALID, `${option} ${file} can't be read: ${(cause as Error).message}`, {
      cause,
    });
  }
}
