/**
 * Writing frames to a socket: frames of one turn of the event loop leave in one system call.
 */
import type { Socket } from "node:net";

/** The returned function queues a frame; what is queued is flushed when the current turn's callbacks are done. */
export function openFrameWriter(socket: Socket): (frame: Buffer) => void {
  let corked = false;
  const flush = (): void => {
    corked = false;
    socket.uncork();
  };
  return (frame) => {
    if (socket.destroyed) {
      return;
    }
    if (!corked) {
      corked = true;
      socket.cork();
      // After the promises of this turn, which may answer further requests that came in the same chunk.
      setImmediate(flush);
    }
    socket.write(frame);
  };
}
