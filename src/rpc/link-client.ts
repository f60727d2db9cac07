/**
 * A service of a peer as functions: Connect's Client, for the methods that don't stream, which takes any CancelSignal.
 */
import type { DescMessage, DescMethodUnary, DescService, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import type { CancelSignal } from "../base/cancel.js";

export interface LinkCallOptions {
  timeoutMs?: number | undefined;
  signal?: CancelSignal | undefined;
}

export type LinkClient<S extends DescService> = {
  [K in keyof S["method"]]: S["method"][K] extends DescMethodUnary<infer I, infer O>
    ? (request: MessageInitShape<I>, options?: LinkCallOptions) => Promise<MessageShape<O>>
    : never;
};

/** What is needed of a Transport; Connect's are ones. */
interface UnaryTransport {
  unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    signal: CancelSignal | undefined,
    timeoutMs: number | undefined,
    header: undefined,
    input: MessageInitShape<I>,
  ): Promise<{ message: MessageShape<O> }>;
}

type AnyCall = (request: MessageInitShape<DescMessage>, options?: LinkCallOptions) => Promise<unknown>;

export function createLinkClient<S extends DescService>(service: S, transport: UnaryTransport): LinkClient<S> {
  const calls: Record<string, AnyCall> = {};
  for (const method of service.methods) {
    if (method.methodKind === "unary") {
      calls[method.localName] = async (request, { signal, timeoutMs } = {}) =>
        (await transport.unary(method as DescMethodUnary, signal, timeoutMs, undefined, request)).message;
    }
  }
  return calls as LinkClient<S>;
}
