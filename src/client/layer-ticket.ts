/** Device memory that waits for layers, as the decode side of a layer-by-layer transfer holds it. */
import { HbmeshError, StatusCode } from "../base/errors.js";
import type { KeyedRequest } from "./keyed-request.js";
import { FUTURE_TIMEOUT_MS_MAX } from "./options.js";
import type { TransferFuture, Transferred } from "./transfer-future.js";

/**
 * A reservation. `text` goes to the prefill side, which pushes layers with it, from any node; whoever knows it can
 * write into the reserved memory, so treat it as a secret. Made by HeteroClient.reserveLayers.
 */
export class LayerTicket {
  readonly text: string;
  readonly #request: KeyedRequest;

  constructor(request: KeyedRequest) {
    this.#request = request;
    this.text = request.note;
  }

  /** How many layers it has. */
  get layerCount(): number {
    return this.#request.futures.length;
  }

  /**
   * Resolves when layer `index` (from 0) is in its device memory, all of it.
   *
   * Rejects, in this order, with OUT_OF_RANGE (no such layer), INVALID (`timeoutMs` not from 0 to 1,800,000),
   * RPC_PEER_DEAD (the pusher ended within a layer: the whole ticket is over), FUTURE_TIMEOUT (the ticket expired, or
   * this wait ended, which leaves the layer waiting), RPC_CANCELLED, CLIENT_WORKER_DISCONNECT, SHUTTING_DOWN.
   */
  async layer(index: number, timeoutMs: number = FUTURE_TIMEOUT_MS_MAX): Promise<Transferred> {
    return await this.future(index).get(timeoutMs);
  }

  /** The future of a layer. Throws OUT_OF_RANGE. */
  future(index: number): TransferFuture {
    const future = this.#request.futures[index];
    if (future === undefined) {
      throw new HbmeshError(
        StatusCode.OUT_OF_RANGE,
        `there is no layer ${String(index)}: the ticket has layers 0 to ${this.layerCount - 1}`,
      );
    }
    return future;
  }

  /** Resolves when every layer is there; rejects with the first one's failure, as layer(). */
  async all(timeoutMs: number = FUTURE_TIMEOUT_MS_MAX): Promise<readonly Transferred[]> {
    return await Promise.all(this.#request.futures.map((future) => future.get(timeoutMs)));
  }

  /**
   * Ends the reservation: layers that aren't there end with RPC_CANCELLED, pushers are refused. The memory may be in
   * use until each layer's future is done.
   */
  cancel(): void {
    this.#request.stop(
      new HbmeshError(StatusCode.RPC_CANCELLED, `${this.#request.what} was cancelled by its caller`, {
        node: this.#request.node,
      }),
    );
  }
}
