/**
 * The queue between a simulated control process and its sidecar: in order, without loss, until one of the two is gone.
 */
import type { PortMessage, SidecarPort } from "../sidecar/port.js";
import type { SimProcess } from "./process.js";

export class SimPort implements SidecarPort {
  readonly info: SidecarPort["info"];
  readonly #sidecar: SimProcess;
  readonly #control: SimProcess;
  readonly #receive: (message: PortMessage) => void;
  readonly #takeBack: () => void;
  /** Sent before anyone listened. */
  readonly #early: PortMessage[] = [];
  #handler: ((message: PortMessage) => void) | undefined;
  #onClose: ((reason: Error) => void) | undefined;
  #onEnd: () => void = () => {};
  #ended: Error | undefined;

  /** `receive` gets what the control process sends. */
  constructor(sidecar: SimProcess, control: SimProcess, receive: (message: PortMessage) => void) {
    this.#sidecar = sidecar;
    this.#control = control;
    this.#receive = receive;
    this.info = {
      deviceCount: 8,
      backend: "sim",
      transports: [{ name: "tcp", address: `10.${sidecar.host >> 8}.${sidecar.host & 255}.1:1` }],
    };
    this.#takeBack = control.onDeath(() => this.end("the control process died"));
  }

  send(message: PortMessage): void {
    queueMicrotask(() =>
      this.#sidecar.enter(() => {
        if (this.#ended === undefined) {
          this.#receive(message);
        }
      }),
    );
  }

  onMessage(handler: (message: PortMessage) => void): void {
    this.#handler = handler;
    for (const message of this.#early.splice(0)) {
      handler(message);
    }
  }

  onClose(handler: (reason: Error) => void): void {
    this.#onClose = handler;
    if (this.#ended !== undefined) {
      handler(this.#ended);
    }
  }

  close(): void {
    this.end("the port was closed");
  }

  toControl(message: PortMessage): void {
    const copy = { ...message, payload: new Uint8Array(message.payload) };
    queueMicrotask(() =>
      this.#control.enter(() => {
        if (this.#ended !== undefined) {
          return;
        }
        if (this.#handler === undefined) {
          this.#early.push(copy);
        } else {
          this.#handler(copy);
        }
      }),
    );
  }

  /** Tells both ends; later calls do nothing. */
  end(why: string): void {
    if (this.#ended === undefined) {
      const reason = new Error(why);
      this.#ended = reason;
      this.#takeBack();
      this.#onEnd();
      this.#control.enter(() => this.#onClose?.(reason));
    }
  }

  onEnd(tell: () => void): void {
    this.#onEnd = tell;
  }
}
