/**
 * The Connect API of a worker over HTTP/1.1: for people, tools and other languages. JSON works with curl:
 *
 *   curl -H 'content-type: application/json' -d '{"keys":["k"]}' http://127.0.0.1:31501/hbmesh.v1.ObjectService/Exist
 *
 * Where tenants or a cluster token are configured, it asks for `authorization: Bearer <token>`; without a good one the
 * answer is 401. With TLS files it is HTTPS, and asks for a certificate of the cluster's.
 *
 * Errors have Connect's code, our number in the header `hbmesh-code` and in a KeyStatus detail, and the key in
 * `hbmesh-key`.
 */
import { createServer, type RequestListener, type Server, type ServerOptions } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo } from "node:net";
import type { ConnectRouter, Interceptor } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { formatAddress, parseAddress } from "../base/address.js";
import type { Credentials } from "../base/credentials.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { listenFault } from "../base/listen-fault.js";
import type { Logger } from "../base/log.js";
import type { ControlProcess } from "../control/index.js";
import { ClusterService, StoreService } from "../gen/hbmesh/v1/cluster_pb.js";
import { ObjectService } from "../gen/hbmesh/v1/objects_pb.js";
import { createStoreService, type Store } from "../metadata/index.js";
import { badTlsFiles, toConnectError } from "../rpc/index.js";
import { limitBodies } from "./body-limit.js";
import { createClusterService, createObjectService } from "./object-service.js";

export interface ApiServerOptions {
  /** IP:PORT to listen at; port 0 takes a free one. */
  address: string;
  log: Logger;
  /** Serves ObjectService and ClusterService. */
  control?: ControlProcess | undefined;
  /** Its certificates, for HTTPS that asks for one in turn. Default: HTTP. Tokens are checked by what `control` has. */
  credentials?: Credentials | undefined;
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
  /** Ends open requests and watches. */
  close(): Promise<void>;
}

type Fallback = NonNullable<Parameters<typeof connectNodeAdapter>[0]["fallback"]>;

const answerUnknownPath: Fallback = (request, response) => {
  const message = `there is nothing at ${request.url ?? "/"}; call POST /hbmesh.v1.ObjectService/Exist, GetMetaInfo, Delete or Explain, or /hbmesh.v1.ClusterService/Health or ListMembers`;
  response.writeHead(404, { "content-type": "application/json" });
  response.end(`${JSON.stringify({ code: "not_found", message })}\n`);
};

/** Rejects with NOT_READY naming the address when it can't be listened at. */
export async function startApiServer(options: ApiServerOptions): Promise<ApiServer> {
  const { host, port } = parseAddress(options.address, "the API address");
  const ending = new AbortController();
  const handler = connectNodeAdapter({
    routes: (router) => addServices(router, options),
    interceptors: [translateErrors(options.log)],
    readMaxBytes: options.requestBytesMax ?? 64 * 2 ** 20,
    shutdownSignal: ending.signal,
    fallback: answerUnknownPath,
  });
  const bounded = limitBodies(handler, options.bodiesBytesMax ?? 256 * 2 ** 20, (bytes) =>
    options.log.warn({ bytes }, "closing an API connection: requests under way are over their limit of bytes"),
  );
  const server = createListener(options, bounded);
  server.maxConnections = options.connectionsMax ?? 1_024;
  await listen(server, host, port, options.address);
  const bound = server.address() as AddressInfo;
  return {
    address: formatAddress({ host, port: bound.port }),
    async close() {
      ending.abort(toConnectError(new HbmeshError(StatusCode.SHUTTING_DOWN, "the worker is shutting down")));
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeIdleConnections();
      // Streams that were just told get one turn to end in order.
      await new Promise<void>((resolve) => setImmediate(resolve));
      server.closeAllConnections();
      await closed;
    },
  };
}

/** Throws INVALID for TLS files that don't fit together. */
function createListener(
  { credentials, requestTimeoutMs = 60_000 }: ApiServerOptions,
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
    return createTlsServer({ ...limits, ...tls, ...asked, handshakeTimeout: 10_000 }, handler);
  } catch (cause) {
    throw badTlsFiles(cause);
  }
}

function addServices(router: ConnectRouter, { control, store }: ApiServerOptions): void {
  if (control !== undefined) {
    router.service(ObjectService, createObjectService(control));
    router.service(ClusterService, createClusterService(control));
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

function listen(server: Server, host: string, port: number, address: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const onError = (cause: NodeJS.ErrnoException): void => {
      const message = `can't listen at ${address}: ${listenFault(cause)}`;
      reject(new HbmeshError(StatusCode.NOT_READY, message, { node: address, cause }));
    };
    server.once("error", onError);
    server.listen({ host, port }, () => {
      server.off("error", onError);
      resolve();
    });
  });
}
