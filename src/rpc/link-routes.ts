/**
 * Services behind a link: the same implementations that Connect's router takes, called by number with encoded messages. Knows nothing of
 * sockets, so that links in memory use it too.
 */
import {
  create,
  type DescMethod,
  type DescMethodUnary,
  type DescService,
  fromBinary,
  toBinary,
} from "@bufbuild/protobuf";
import { createContextValues, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import { HbmeshError, StatusCode } from "../base/errors.js";

export interface LinkCallContext {
  /** Aborts when the caller gave up or is gone. */
  signal: AbortSignal;
  timeoutMs: number | undefined;
}

export interface LinkRoutes {
  /** Adds a service. Methods that stream, or that `implementation` lacks, answer NOT_SUPPORTED. */
  service<S extends DescService>(service: S, implementation: Partial<ServiceImpl<S>>): LinkRoutes;
  /** Full names, as methodName() gives them; the position is the number. */
  readonly methods: readonly string[];
  /** Rejects with what the implementation threw, or INVALID for a message that can't be read. */
  call(method: number, input: Uint8Array, context: LinkCallContext): Promise<Uint8Array>;
}

/** "hbmesh.v1.DirectoryService/Lookup" */
export function methodName(method: DescMethod): string {
  return `${method.parent.typeName}/${method.name}`;
}

type UnaryHandler = (request: unknown, context: HandlerContext) => unknown;

interface Route {
  method: DescMethodUnary;
  handler: UnaryHandler;
}

export function createLinkRoutes(): LinkRoutes {
  const methods: string[] = [];
  const table: (Route | undefined)[] = [];
  const routes: LinkRoutes = {
    methods,
    service(service, implementation) {
      for (const method of service.methods) {
        const found = (implementation as Record<string, UnaryHandler | undefined>)[method.localName];
        methods.push(methodName(method));
        table.push(
          found === undefined || method.methodKind !== "unary"
            ? undefined
            : { method: method as DescMethodUnary, handler: found.bind(implementation) },
        );
      }
      return routes;
    },
    async call(index, input, context) {
      const route = table[index];
      if (route === undefined) {
        const name = methods[index] ?? `method ${index}`;
        throw new HbmeshError(StatusCode.NOT_SUPPORTED, `${name} can't be called over the control link`);
      }
      const { method, handler } = route;
      const reply = await handler(decode(method, input), createContext(method, context));
      return toBinary(method.output, create(method.output, reply as Record<string, unknown>));
    },
  };
  return routes;
}

function decode(method: DescMethodUnary, input: Uint8Array): unknown {
  try {
    return fromBinary(method.input, input);
  } catch (cause) {
    throw new HbmeshError(StatusCode.INVALID, `the request for ${methodName(method)} can't be read`, { cause });
  }
}

/** Headers are made only for handlers that look at them: making them costs more than the rest of a call. */
function createContext(method: DescMethodUnary, context: LinkCallContext): HandlerContext {
  let requestHeader: Headers | undefined;
  let responseHeader: Headers | undefined;
  let responseTrailer: Headers | undefined;
  return {
    method,
    service: method.parent,
    signal: context.signal,
    timeoutMs: () => context.timeoutMs,
    requestMethod: "POST",
    get requestHeader() {
      requestHeader ??= new Headers();
      return requestHeader;
    },
    get responseHeader() {
      responseHeader ??= new Headers();
      return responseHeader;
    },
    get responseTrailer() {
      responseTrailer ??= new Headers();
      return responseTrailer;
    },
    protocolName: "hbmesh-link",
    get values() {
      return createContextValues();
    },
    url: `hbmesh-link:///${methodName(method)}`,
  };
}
