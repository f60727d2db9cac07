/**
 * How much of all requests' bodies a server keeps at once. Each request has its own limit, but a thousand of them that
 * arrive slowly, or are never read, would still be too much: above the sum the connection that keeps the most is
 * closed, so that small requests go on.
 */
import type { IncomingMessage, RequestListener } from "node:http";

interface Body {
  readonly request: IncomingMessage;
  bytes: number;
}

/** `onClosed` is told how many bytes the request had that was given up. */
export function limitBodies(
  handler: RequestListener,
  bytesMax: number,
  onClosed: (bytes: number) => void,
): RequestListener {
  const bodies = new Set<Body>();
  let sum = 0;
  const end = (body: Body): void => {
    if (bodies.delete(body)) {
      sum -= body.bytes;
    }
  };
  const add = (body: Body, bytes: number): void => {
    if (!bodies.has(body)) {
      return;
    }
    body.bytes += bytes;
    sum += bytes;
    while (sum > bytesMax) {
      const largest = [...bodies].reduce((most, each) => (each.bytes > most.bytes ? each : most));
      end(largest);
      onClosed(largest.bytes);
      largest.request.socket.destroy();
    }
  };
  return (request, response) => {
    const body: Body = { request, bytes: 0 };
    bodies.add(body);
    response.once("close", () => end(body));
    // What Node's parser hands over. A listener for `data` would make it flow before the handler is ready.
    const push = request.push.bind(request);
    request.push = (chunk: Uint8Array | null, encoding?: BufferEncoding): boolean => {
      add(body, chunk?.byteLength ?? 0);
      return push(chunk, encoding);
    };
    handler(request, response);
  };
}
