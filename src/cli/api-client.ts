/** The Connect API of a worker, as the commands for people use it: clients, and its errors as HbmeshError. */
import { readFileSync } from "node:fs";
import { createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { type Command, Option } from "commander";
import { createDirectAgent } from "../base/direct-agent.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { ClusterService } from "../gen/hbmesh/v1/cluster_pb.js";
import { ObjectService } from "../gen/hbmesh/v1/objects_pb.js";
import { fromConnectError } from "../rpc/index.js";
import { accessFailure } from "./access-failures.js";
import { address, usageError, wholeNumber } from "./options.js";

/** What a worker asks of those who ask it. */
export interface AccessOptions {
  token_file?: string;
  tls_ca?: string;
  tls_cert?: string;
  tls_key?: string;
  /** Shown instead of what is in token_file; never an option. */
  token?: string | undefined;
}

/** What every command that asks a worker takes. */
export interface ApiOptions extends AccessOptions {
  worker: string;
  timeout_ms: number;
  json?: boolean;
}

/** Adds --worker, --timeout_ms, --json and the access options. */
export function withApiOptions(command: Command): Command {
  command
    .addOption(
      new Option("--worker <HOST:PORT>", "the worker to ask")
        .argParser(address)
        .env("DS_WORKER_ADDR")
        .default("127.0.0.1:31501"),
    )
    .option("--timeout_ms <N>", "how long to wait for its answer", wholeNumber(1, 3_600_000), 9_000)
    .option("--json", "print one JSON document instead of a table");
  return withAccessOptions(command);
}

/**
 * Adds --token_file and --tls_ca, --tls_cert, --tls_key. A token is never an argument: everyone on the machine sees
 * those.
 */
export function withAccessOptions(command: Command): Command {
  return command
    .option("--token_file <FILE>", "file with the token to show: a tenant's, or the cluster's (default: $HBMESH_TOKEN)")
    .option("--tls_ca <FILE>", "certificate of who signs the workers' (PEM): ask over TLS")
    .option("--tls_cert <FILE>", "own certificate to show to the worker (PEM)")
    .option("--tls_key <FILE>", "its key (PEM)");
}

/** Undefined where none is given. Throws a usage error naming the file, never what is in it. */
export function tokenOf(options: Pick<ApiOptions, "token_file">): string | undefined {
  const { token_file: file } = options;
  let text = process.env.HBMESH_TOKEN;
  if (file !== undefined) {
    try {
      text = readFileSync(file, "utf8");
    } catch (reason) {
      throw usageError(`--token_file ${file} can't be read: ${(reason as Error).message}`);
    }
  }
  const token = text?.trim();
  if (file === undefined && (token === undefined || token === "")) {
    return undefined;
  }
  if (token === undefined || !/^[\x21-\x7e]+$/.test(token)) {
    const where = file === undefined ? "HBMESH_TOKEN" : `--token_file ${file}`;
    throw usageError(`${where} must have one token, without blanks, and nothing else`);
  }
  return token;
}

function connectTo(options: Omit<ApiOptions, "json">) {
  const token = options.token ?? tokenOf(options);
  const authorize: Interceptor = (next) => (request) => {
    if (token !== undefined) {
      request.header.set("authorization", `Bearer ${token}`);
    }
    return next(request);
  };
  return createConnectTransport({
    interceptors: [authorize],
    baseUrl: `${options.tls_ca === undefined ? "http" : "https"}://${options.worker}`,
    httpVersion: "1.1",
    nodeOptions: { ...tlsOf(options), agent: createDirectAgent(options.tls_ca !== undefined) },
    defaultTimeoutMs: options.timeout_ms,
  });
}

function tlsOf({ tls_ca, tls_cert, tls_key }: AccessOptions): { ca?: Buffer; cert?: Buffer; key?: Buffer } {
  if ((tls_cert === undefined) !== (tls_key === undefined) || (tls_cert !== undefined && tls_ca === undefined)) {
    throw usageError("--tls_cert and --tls_key go together, with --tls_ca");
  }
  const read = (name: string, file: string): Buffer => {
    try {
      return readFileSync(file);
    } catch (reason) {
      throw usageError(`--${name} ${file} can't be read: ${(reason as Error).message}`);
    }
  };
  return {
    ...(tls_ca === undefined ? {} : { ca: read("tls_ca", tls_ca) }),
    ...(tls_cert === undefined ? {} : { cert: read("tls_cert", tls_cert) }),
    ...(tls_key === undefined ? {} : { key: read("tls_key", tls_key) }),
  };
}

export function objectClient(options: Omit<ApiOptions, "json">) {
  return createClient(ObjectService, connectTo(options));
}

export function clusterClient(options: Omit<ApiOptions, "json">) {
  return createClient(ClusterService, connectTo(options));
}

/** What Connect threw as an HbmeshError, which says what to give to a worker that did not let us in. */
export function failureOf(options: AccessOptions & { worker: string }, error: unknown): HbmeshError {
  const failure = fromConnectError(error, options.worker);
  const hasToken = (options.token ?? tokenOf(options)) !== undefined;
  const asked = { worker: options.worker, access: options, hasToken };
  return accessFailure(failure, asked) ?? failure;
}

/** Awaits an answer. What Connect throws becomes an HbmeshError that names the worker and what to do. */
export async function answerOf<Answer>(options: ApiOptions, asked: Promise<Answer>): Promise<Answer> {
  try {
    return await asked;
  } catch (error) {
    const node = options.worker;
    const failure = failureOf(options, error);
    if (
      failure.code !== StatusCode.NOT_AUTHORIZED &&
      /ECONNREFUSED|ECONNRESET|EHOSTUNREACH|ENETUNREACH|ENOTFOUND|EAI_AGAIN/.test(failure.message)
    ) {
      const message = `no worker answers at ${node} (${failure.message}); check the address, or start one with hbmesh worker`;
      throw new HbmeshError(StatusCode.NO_AVAILABLE_WORKER, message, { node, cause: error });
    }
    if (failure.code === StatusCode.RPC_DEADLINE_EXCEEDED) {
      const message = `the worker at ${node} did not answer in ${options.timeout_ms} ms; raise --timeout_ms or look at its log`;
      throw new HbmeshError(failure.code, message, { node, cause: error });
    }
    throw failure;
  }
}
