/**
 * Writing frames to a socket: frames that are written at a time leave in one system call.
 */
import type { Socket } from "node:net";

/** The returned function queues a frame; what is queued is flushed when the callback that runs is done. */
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
      // Further requests of the same chunk, or of the same turn of the sidecar's queue, are mostly answered or sent on
      // at once, too.
      process.nextTick(flush);
    }
    socket.write(frame);
  };
}
