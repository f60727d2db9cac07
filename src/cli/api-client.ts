/** The Connect API of a worker, as the commands for people use it: clients, and its errors as HbmeshError. */
import { readFileSync } from "node:fs";
import { createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import type { Command } from "commander";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { ClusterService } from "../gen/hbmesh/v1/cluster_pb.js";
import { ObjectService } from "../gen/hbmesh/v1/objects_pb.js";
import { fromConnectError } from "../rpc/index.js";
import { address, usageError, wholeNumber } from "./options.js";

/** What every command that asks a worker takes. */
export interface ApiOptions {
  worker: string;
  timeout_ms: number;
  token_file?: string;
  json?: boolean;
}

/** Adds --worker, --timeout_ms, --token_file and --json. A token is never an argument: everyone on the machine sees those. */
export function withApiOptions(command: Command): Command {
  return command
    .option("--worker <IP:PORT>", "the worker to ask", address, process.env.DS_WORKER_ADDR ?? "127.0.0.1:31501")
    .option("--timeout_ms <N>", "how long to wait for its answer", wholeNumber(1, 3_600_000), 9_000)
    .option("--token_file <FILE>", "file with the token to show, where tenants are configured (default: $HBMESH_TOKEN)")
    .option("--json", "print one JSON document instead of a table");
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

function connectTo(options: ApiOptions) {
  const token = tokenOf(options);
  const authorize: Interceptor = (next) => (request) => {
    if (token !== undefined) {
      request.header.set("authorization", `Bearer ${token}`);
    }
    return next(request);
  };
  return createConnectTransport({
    interceptors: [authorize],
    baseUrl: `http://${options.worker}`,
    httpVersion: "1.1",
    defaultTimeoutMs: options.timeout_ms,
  });
}

export function objectClient(options: ApiOptions) {
  return createClient(ObjectService, connectTo(options));
}

export function clusterClient(options: ApiOptions) {
  return createClient(ClusterService, connectTo(options));
}

/** Awaits an answer. What Connect throws becomes an HbmeshError that names the worker and what to do. */
export async function answerOf<Answer>(options: ApiOptions, asked: Promise<Answer>): Promise<Answer> {
  try {
    return await asked;
  } catch (error) {
    const node = options.worker;
    const failure = fromConnectError(error, node);
    if (/ECONNREFUSED|ECONNRESET|EHOSTUNREACH|ENOTFOUND/.test(failure.message)) {
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
