/**
 * The greeting of the lean link, both halves of it: who is at the other end, and does it belong to this cluster?
 * Layouts are drawn in link-frame.ts.
 *
 * An end that has a cluster token talks only to one that proves to have it too. One without a token can't be told apart
 * from a stranger by its peers, and is refused by those that have one.
 */
import { randomBytes } from "node:crypto";
import { type Credentials, NONCE_BYTES, PROOF_BYTES } from "../base/credentials.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import {
  decodeHello,
  decodeWelcome,
  encodeFrame,
  encodeHello,
  encodeWelcome,
  FrameType,
  type Hello,
} from "./link-frame.js";

const CLIENT_ROLE = "hbmesh link client";
const SERVER_ROLE = "hbmesh link server";
const REMEDY = "start all workers of a cluster with the same --cluster_token_file";

/** The serving end: answers hello, then looks at the proof. */
export class ServerGreeting {
  readonly #token: Credentials["token"];
  readonly #nonce = randomBytes(NONCE_BYTES);
  #client: Hello | undefined;

  constructor(credentials: Credentials) {
    this.#token = credentials.token;
  }

  get hasGreeted(): boolean {
    return this.#client !== undefined;
  }

  /**
   * `write` gets the welcome in any case, so that the peer can name what is different. True: the peer may ask now;
   * false: its proof is missing. Throws what the connection is to be closed for.
   */
  greet(payload: Uint8Array, methods: readonly string[], write: (frame: Buffer) => void): boolean {
    const hello = tryDecode(payload);
    const token = this.#token;
    const proof =
      token === undefined || hello === undefined
        ? Buffer.alloc(PROOF_BYTES)
        : token.proof(SERVER_ROLE, hello.nonce, this.#nonce);
    const welcome = { hasToken: token !== undefined, nonce: this.#nonce, proof, methods: [...methods] };
    write(encodeFrame(FrameType.welcome, 0, 0, 0, encodeWelcome(welcome)));
    this.#client = hello ?? decodeHello(payload);
    if (token !== undefined && !this.#client.hasToken) {
      throw new HbmeshError(StatusCode.NOT_AUTHORIZED, "the peer has no cluster token");
    }
    return token === undefined;
  }

  /** Throws NOT_AUTHORIZED for another token, and DATA_INCONSISTENCY for a proof that nobody asked for. */
  checkProof(proof: Uint8Array): void {
    if (this.#token === undefined || this.#client === undefined) {
      throw new HbmeshError(StatusCode.DATA_INCONSISTENCY, "the peer sent a proof that it was not asked for");
    }
    if (!this.#token.accepts(proof, CLIENT_ROLE, this.#client.nonce, this.#nonce)) {
      throw new HbmeshError(StatusCode.NOT_AUTHORIZED, "the peer has another cluster token");
    }
  }
}

function tryDecode(payload: Uint8Array): Hello | undefined {
  try {
    return decodeHello(payload);
  } catch {
    return undefined;
  }
}

/** The asking end: says hello, checks the welcome, and proves what it was asked to. */
export class ClientGreeting {
  readonly #token: Credentials["token"];
  readonly #nonce = randomBytes(NONCE_BYTES);

  constructor(credentials: Credentials) {
    this.#token = credentials.token;
  }

  hello(): Buffer {
    return encodeFrame(
      FrameType.hello,
      0,
      0,
      0,
      encodeHello({ hasToken: this.#token !== undefined, nonce: this.#nonce }),
    );
  }

  /**
   * The methods that the server has. Throws NOT_AUTHORIZED, with the remedy, for a server of another cluster; nothing
   * was proved to it then.
   */
  welcome(payload: Uint8Array, write: (frame: Buffer) => void): ReadonlyMap<string, number> {
    const { hasToken, nonce, proof, methods } = decodeWelcome(payload);
    const token = this.#token;
    if (token === undefined && hasToken) {
      throw new HbmeshError(
        StatusCode.NOT_AUTHORIZED,
        `it asks for a cluster token, and this process has none; ${REMEDY}`,
      );
    }
    if (token !== undefined) {
      if (!hasToken) {
        throw new HbmeshError(
          StatusCode.NOT_AUTHORIZED,
          `it has no cluster token, and this process has one; ${REMEDY}`,
        );
      }
      if (!token.accepts(proof, SERVER_ROLE, this.#nonce, nonce)) {
        throw new HbmeshError(StatusCode.NOT_AUTHORIZED, `it has another cluster token than this process; ${REMEDY}`);
      }
      write(encodeFrame(FrameType.proof, 0, 0, 0, token.proof(CLIENT_ROLE, this.#nonce, nonce)));
    }
    return new Map(methods.map((name, index) => [name, index]));
  }
}
