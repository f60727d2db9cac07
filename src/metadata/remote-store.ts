/**
 * A Store that another process hosts: StoreService over Connect and HTTP/1.1.
 */
import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { createDirectAgent } from "../base/direct-agent.js";
import { HbmeshError, StatusCode } from "../base/errors.js";
import { StoreService } from "../gen/hbmesh/v1/cluster_pb.js";
import { fromConnectError } from "../rpc/connect-errors.js";
import { checkEntrySize, checkTtl } from "./memory-store.js";
import { STORE_TIMEOUT_MS, type Store, type StoreCallOptions, type WatchBatch, type WatchEvent } from "./store.js";

/** `address` is the HOST:PORT of the hosting process. Connects at first use. */
export function createRemoteStore(address: string): Store {
  const nodeOptions = { agent: createDirectAgent(false) };
  const transport = createConnectTransport({ baseUrl: `http://${address}`, httpVersion: "1.1", nodeOptions });
  const client = createClient(StoreService, transport);
  const closing = new AbortController();

  /** Adds the deadline and the end at close() to a call, and our errors. */
  const call = async <T>(
    options: StoreCallOptions | undefined,
    work: (options: { signal: AbortSignal; timeoutMs: number }) => Promise<T>,
  ): Promise<T> => {
    const signals = options?.signal === undefined ? [closing.signal] : [closing.signal, options.signal];
    try {
      closing.signal.throwIfAborted();
      return await work({ signal: AbortSignal.any(signals), timeoutMs: wholeMs(options?.timeoutMs) });
    } catch (reason) {
      throw closing.signal.aborted ? closedError() : unreachable(reason, address);
    }
  };

  return {
    get: (key, options) => call(options, async (with_) => (await client.get({ key }, with_)).entries[0]),
    getPrefix: (prefix, options) => call(options, (with_) => client.get({ key: prefix, prefix: true }, with_)),
    put: (key, value, options = {}) =>
      call(options, (with_) => {
        checkEntrySize(key, value);
        const { leaseId = 0n, expectedRevision } = options;
        return client.put(
          { key, value, leaseId, ...(expectedRevision === undefined ? {} : { expectedRevision }) },
          with_,
        );
      }),
    delete: (key, options) => call(options, async (with_) => (await client.delete({ key }, with_)).existed),
    grantLease: (ttlMs, options) =>
      call(options, async (with_) => {
        checkTtl(ttlMs);
        return (await client.grantLease({ ttlMs }, with_)).leaseId;
      }),
    keepAlive: (leaseId, options) => call(options, async (with_) => (await client.keepAlive({ leaseId }, with_)).alive),
    revokeLease: (leaseId, options) =>
      call(options, async (with_) => void (await client.revokeLease({ leaseId }, with_))),
    async *watch(prefix, options): AsyncGenerator<WatchBatch> {
      const signal = AbortSignal.any([closing.signal, options.signal]);
      if (options.signal.aborted) {
        return;
      }
      try {
        for await (const response of client.watch({ prefix }, { signal })) {
          const events: WatchEvent[] = response.events.flatMap(({ entry, deleted }) =>
            entry === undefined ? [] : [{ entry, deleted }],
          );
          yield { snapshot: response.snapshot, revision: response.revision, events };
        }
      } catch (reason) {
        if (options.signal.aborted) {
          return;
        }
        throw closing.signal.aborted ? closedError() : unreachable(reason, address);
      }
      if (!options.signal.aborted) {
        const message = `the store at ${address} ended the watch; it is shutting down`;
        throw new HbmeshError(StatusCode.RPC_UNAVAILABLE, message, { node: address });
      }
    },
    async close() {
      closing.abort();
    },
  };
}

/** Connect refuses a timeout that is no whole number. */
function wholeMs(timeoutMs: number | undefined): number {
  return Math.ceil(timeoutMs ?? STORE_TIMEOUT_MS);
}

function closedError(): HbmeshError {
  return new HbmeshError(StatusCode.SHUTTING_DOWN, "the store was closed");
}

/**
 * A deadline that passed and a server that shuts down mean the same as a refused connection: the store can't be
 * reached.
 */
const UNREACHABLE_CODES: readonly StatusCode[] = [
  StatusCode.RPC_UNAVAILABLE,
  StatusCode.RPC_DEADLINE_EXCEEDED,
  StatusCode.SHUTTING_DOWN,
];

function unreachable(reason: unknown, address: string): HbmeshError {
  const error = fromConnectError(reason, address);
  if (!UNREACHABLE_CODES.includes(error.code)) {
    return error;
  }
  const message = `the store at ${address} can't be reached (${error.message}); check that the process that hosts it runs`;
  return new HbmeshError(StatusCode.RPC_UNAVAILABLE, message, { node: address, cause: reason });
}
