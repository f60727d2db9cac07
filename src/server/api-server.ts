/**
 * The Connect API of a worker over HTTP/1.1: for people, tools and other languages. JSON works with curl:
 *
 *   curl -H 'content-type: application/json' -d '{"keys":["k"]}' http://127.0.0.1:31501/hbmesh.v1.ObjectService/Exist
 *
 * Where tenants or a cluster token are configured, it asks for `authorization: Bearer <token>`; without a good one the
 * answer is 401, and the log says who asked. With TLS files it is HTTPS, and asks for a certificate of the cluster's.
 *
 * What changes nothing can be asked with GET too (plain-get.ts), and so can /healthz and /readyz (probes.ts).
 *
 * Errors have Connect's code, our number in the header `hbmesh-code` and in a KeyStatus detail, and the key in
 * `hbmesh-key`.
 */
import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerOptions,
  type ServerResponse,
} from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo } from "node:net";
import type { ConnectRouter, Interceptor } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { formatAddress, parseAddress } from "../base/address.js";
import { createSystemClock } from "../base/clock.js";
import type { ClusterToken, Credentials } from "../base/credentials.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { Logger } from "../base/log.js";
import { type LimitedWarn, limitedWarn } from "../base/log-limit.js";
import type { ControlProcess } from "../control/index.js";
import { ClusterService, StoreService } from "../gen/hbmesh/v1/cluster_pb.js";
import { ObjectService } from "../gen/hbmesh/v1/objects_pb.js";
import { createStoreService, type Store } from "../metadata/index.js";
import { badTlsFiles, closerOf, toConnectError } from "../rpc/index.js";
import { limitBodies } from "./body-limit.js";
import { listen } from "./listen.js";
import { createClusterService, createObjectService } from "./object-service.js";
import { completePlainGet } from "./plain-get.js";
import { createProbes } from "./probes.js";
import { tellTlsRefusals } from "./tls-refusals.js";

export interface ApiServerOptions {
  /** IP:PORT to listen at; port 0 takes a free one. */
  address: string;
  log: Logger;
  /** Serves ObjectService and ClusterService. */
  control?: ControlProcess | undefined;
  /** Its certificates, for HTTPS that asks for one in turn. Default: HTTP. Tokens are checked by what `control` has. */
  credentials?: Credentials | undefined;
  /** What the worker's own user on its host shows to have it leave. Default: the cluster's token alone is good. */
  operator?: ClusterToken | undefined;
  /** Connections at once; further ones are closed. Default 1,024. */
  connectionsMax?: number | undefined;
  /** How long a request may take to arrive, and its head a part of it. Default 60,000 and at most 10,000. */
  requestTimeoutMs?: number | undefined;
  /** Serves StoreService: this process hosts the embedded store. */
  store?: Store | undefined;
  /** Largest request. Default 64 MiB: 100,000 keys of 255 bytes as JSON, with room. */
  requestBytesMax?: number | undefined;
  /** Of all requests under way together; above, the connection that brought the most is closed. Default 256 MiB. */
  bodiesBytesMax?: number | undefined;
}

export interface ApiServer {
  /** With the real port. */
  readonly address: string;
  /** Ends open requests and watches, and all connections: idle ones at once, others when they are answered or late. */
  close(): Promise<void>;
}

/** How long a request may take to end after the server was told to: it has been aborted, so it is short. */
const END_MS = 1_000;

type Fallback = NonNullable<Parameters<typeof connectNodeAdapter>[0]["fallback"]>;

const answerUnknownPath: Fallback = (request, response) => {
  const message = `there is nothing at ${request.url ?? "/"}; call POST /hbmesh.v1.ObjectService/Exist, GetMetaInfo, Delete or Explain, or /hbmesh.v1.ClusterService/Health or ListMembers, or GET /healthz or /readyz`;
  response.writeHead(404, { "content-type": "application/json" });
  response.end(`${JSON.stringify({ code: "not_found", message })}\n`);
};

/** Rejects with NOT_READY naming the address when it can't be listened at. */
export async function startApiServer(options: ApiServerOptions): Promise<ApiServer> {
  const { host } = parseAddress(options.address, "the API address");
  const ending = new AbortController();
  const handler = connectNodeAdapter({
    routes: (router) => addServices(router, options),
    interceptors: [translateErrors(options.log)],
    readMaxBytes: options.requestBytesMax ?? 64 * 2 ** 20,
    shutdownSignal: ending.signal,
    fallback: answerUnknownPath,
  });
  const probe = createProbes(options.control);
  const refused = limitedWarn(options.log);
  const served: RequestListener = (request, response) => {
    if (probe(request, response)) {
      return;
    }
    completePlainGet(request);
    logRefusal(request, response, refused);
    handler(request, response);
  };
  const bounded = limitBodies(served, options.bodiesBytesMax ?? 256 * 2 ** 20, (bytes) =>
    options.log.warn({ bytes }, "closing an API connection: requests under way are over their limit of bytes"),
  );
  let underWay = 0;
  const server = createListener(options, (request, response) => {
    underWay++;
    response.once("close", () => underWay--);
    bounded(request, response);
  });
  server.maxConnections = options.connectionsMax ?? 1_024;
  const close = closerOf(server);
  await listen(server, options.address);
  const bound = server.address() as AddressInfo;
  return {
    address: formatAddress({ host, port: bound.port }),
    async close() {
      ending.abort(toConnectError(new HbmeshError(StatusCode.SHUTTING_DOWN, "the worker is shutting down")));
      await close({
        clock: createSystemClock(),
        graceMs: END_MS,
        isBusy: () => underWay > 0,
        endIdle: () => server.closeIdleConnections(),
      });
    },
  };
}

/** Throws INVALID for TLS files that don't fit together. */
function createListener(
  { address, credentials, log, requestTimeoutMs = 60_000 }: ApiServerOptions,
  handler: RequestListener,
): Server {
  const limits: ServerOptions = {
    keepAliveTimeout: 60_000,
    requestTimeout: requestTimeoutMs,
    headersTimeout: Math.min(10_000, requestTimeoutMs),
    // How often requests that don't arrive are looked for.
    connectionsCheckingInterval: Math.min(2_000, requestTimeoutMs),
  };
  const tls = credentials?.tls;
  if (tls === undefined) {
    return createServer(limits, handler);
  }
  try {
    const asked = { requestCert: true, rejectUnauthorized: true, minVersion: "TLSv1.3" } as const;
    const server = createTlsServer({ ...limits, ...tls, ...asked, handshakeTimeout: 10_000 }, handler);
    tellTlsRefusals(server, address, limitedWarn(log));
    return server;
  } catch (cause) {
    throw badTlsFiles(cause);
  }
}

/** Of a request that showed no token, or one that is nobody's. */
function logRefusal(request: IncomingMessage, response: ServerResponse, warn: LimitedWarn): void {
  const { remoteAddress: peer } = request.socket;
  response.once("finish", () => {
    if (response.statusCode === 401) {
      const cause = request.headers.authorization === undefined ? "it has no token" : "its token is not good for this";
      warn({ peer, path: request.url, cause }, "refused an API request");
    }
  });
}

function addServices(router: ConnectRouter, { control, operator, store }: ApiServerOptions): void {
  if (control !== undefined) {
    router.service(ObjectService, createObjectService(control));
    router.service(ClusterService, createClusterService(control, operator));
  }
  if (store !== undefined) {
    router.service(StoreService, createStoreService(store));
  }
}

/** Ours become Connect's, and faults of our own are logged, in this one place. */
function translateErrors(log: Logger): Interceptor {
  const translate = (reason: unknown, method: string): Error => {
    const error = toConnectError(reason);
    if (error.cause instanceof HbmeshError && error.cause.code === StatusCode.RUNTIME_ERROR) {
      log.error(
        { method, cause: String((reason as Error).stack ?? reason) },
        "a request failed for a reason of our own",
      );
    }
    return error;
  };
  return (next) => async (request) => {
    try {
      const response = await next(request);
      if (!response.stream) {
        return response;
      }
      return {
        ...response,
        message: translateStream(response.message, (reason) => translate(reason, request.method.name)),
      };
    } catch (reason) {
      throw translate(reason, request.method.name);
    }
  };
}

async function* translateStream<T>(
  messages: AsyncIterable<T>,
  translate: (reason: unknown) => Error,
): AsyncGenerator<T> {
  try {
    yield* messages;
  } catch (reason) {
    throw translate(reason);
  }
}
