/**
 * Free ports for workers that are started later. Below those that the system hands out by itself (from 32,768 on):
 * there an outgoing connection of anybody may have the port before the worker listens.
 */
import { randomInt } from "node:crypto";
import { createServer, type Server } from "node:net";

const FIRST_PORT = 10_000;
const LAST_PORT = 32_000;
const TRIES_MAX = 200;

/**
 * So many ports of 127.0.0.1 that nobody listens at, all different. Rejects with the system's error when none is to be
 * found.
 */
export async function findFreePorts(count: number): Promise<number[]> {
  const held: { server: Server; port: number }[] = [];
  try {
    while (held.length < count) {
      held.push(await holdOne());
    }
    return held.map(({ port }) => port);
  } finally {
    await Promise.all(held.map(({ server }) => new Promise((resolve) => server.close(resolve))));
  }
}

async function holdOne(): Promise<{ server: Server; port: number }> {
  for (let tries = 1; ; tries += 1) {
    const port = randomInt(FIRST_PORT, LAST_PORT);
    const server = createServer();
    try {
      await new Promise<void>((resolve, reject) => {
        server.once("error", reject);
        server.listen(port, "127.0.0.1", resolve);
      });
      return { server, port };
    } catch (reason) {
      if (tries === TRIES_MAX) {
        throw reason;
      }
    }
  }
}
