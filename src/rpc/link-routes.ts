/**
 * Services behind a link: handlers by method, called by number with encoded messages. Knows nothing of sockets, so that
 * links in memory use it too.
 */
import type { DescMethod, DescMethodUnary, DescService, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import type { CancelSignal } from "../base/cancel.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { codecOf, type MessageCodec } from "./link-codec.js";

export interface LinkCallContext {
  /** Aborts when the caller gave up or is gone. */
  signal: CancelSignal;
  timeoutMs: number | undefined;
}

/**
 * What takes a service's calls: as Connect's ServiceImpl, for the methods that don't stream, and told only what a link
 * knows. An answer that is there at once needs no promise.
 */
export type LinkServiceImpl<S extends DescService> = {
  [K in keyof S["method"]]: S["method"][K] extends DescMethodUnary<infer I, infer O>
    ? (request: MessageShape<I>, context: LinkCallContext) => MessageInitShape<O> | Promise<MessageInitShape<O>>
    : never;
};

export interface LinkRoutes {
  /** Adds a service. Methods that stream, or that `implementation` lacks, answer NOT_SUPPORTED. */
  service<S extends DescService>(service: S, implementation: Partial<LinkServiceImpl<S>>): LinkRoutes;
  /** Full names, as methodName() gives them; the position is the number. */
  readonly methods: readonly string[];
  /** Throws, or rejects, with what the implementation threw, or INVALID for a message that can't be read. */
  call(method: number, input: Uint8Array, context: LinkCallContext): Uint8Array | Promise<Uint8Array>;
}

const names = new Map<DescMethod, string>();

/** "hbmesh.v1.DirectoryService/Lookup" */
export function methodName(method: DescMethod): string {
  let name = names.get(method);
  if (name === undefined) {
    name = `${method.parent.typeName}/${method.name}`;
    names.set(method, name);
  }
  return name;
}

type UnaryHandler = (request: unknown, context: LinkCallContext) => unknown;

interface Route {
  name: string;
  input: MessageCodec;
  output: MessageCodec;
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
        const name = methodName(method);
        methods.push(name);
        table.push(
          found === undefined || method.methodKind !== "unary"
            ? undefined
            : {
                name,
                input: codecOf(method.input),
                output: codecOf(method.output),
                handler: found.bind(implementation),
              },
        );
      }
      return routes;
    },
    call(index, input, context) {
      const route = table[index];
      if (route === undefined) {
        const name = methods[index] ?? `method ${index}`;
        throw new HbmeshError(StatusCode.NOT_SUPPORTED, `${name} can't be called over the control link`);
      }
      const { output, handler } = route;
      const reply = handler(decode(route, input), context);
      return reply instanceof Promise ? reply.then(output.encode) : output.encode(reply);
    },
  };
  return routes;
}

function decode({ name, input: codec }: Route, input: Uint8Array): unknown {
  try {
    return codec.decode(input);
  } catch (cause) {
    throw new HbmeshError(StatusCode.INVALID, `the request for ${name} can't be read`, { cause });
  }
}
