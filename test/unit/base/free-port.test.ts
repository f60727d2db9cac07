/**
 * Goal: ports for workers that start later are free, different, and out of the range from which the system gives ports
 * to anybody. Method: ask for many; listen at each, and ask again while they are taken.
 */
import { readFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { expect, it } from "vitest";
import { findFreePorts } from "../../../src/base/free-port.js";

it("gives different ports below those of the system, which can be listened at, and are not given while they are taken", async () => {
  const [lowest = 0] = readFileSync("/proc/sys/net/ipv4/ip_local_port_range", "utf8").split(/\s+/).map(Number);
  const ports = await findFreePorts(50);
  expect(new Set(ports).size).toBe(50);
  expect(Math.max(...ports)).toBeLessThan(Math.max(lowest, 32_000));
  expect(Math.min(...ports)).toBeGreaterThanOrEqual(10_000);
  const servers: Server[] = [];
  for (const port of ports) {
    const server = createServer();
    servers.push(server);
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(port, "127.0.0.1", resolve);
    });
  }
  const others = await findFreePorts(50);
  expect(others.filter((port) => ports.includes(port))).toEqual([]);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  expect(await findFreePorts(0)).toEqual([]);
});
