/**
 * Goal: `hbmesh bench link` measures each transport between two processes, in both directions, and ends both sides;
 * flags are perftest's; what goes wrong is named.
 * Method: start the waiting side on a free port as a user would, and the measuring side against it. No figure is
 * judged.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { describe, expect, it } from "vitest";
import { hbmesh, mainPath, until } from "./commands.js";
import { freePort } from "./etcd.js";

interface Waiting {
  port: string;
  process: ChildProcess;
  output: () => string;
  ended: Promise<number | null>;
}

function start(...args: string[]): Omit<Waiting, "port"> {
  const child = spawn(process.execPath, [mainPath, "bench", "link", ...args], { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text: string) => {
      output += text;
    });
  }
  const ended = new Promise<number | null>((resolve) => {
    child.once("close", (code) => resolve(code));
  });
  return { process: child, output: () => output, ended };
}

async function waitingSide(...args: string[]): Promise<Waiting> {
  const port = String(await freePort());
  const started = start("-p", port, ...args);
  await until("the waiting side listens", () => started.output().includes(`client to connect on port ${port}`));
  return { port, ...started };
}

interface LinkJson {
  test: string;
  rows: { bytes: number; iterations: number; lanes: number; average: number; peak: number; typical: number }[];
  limit: { against: string; lanes: number; average: number };
}

describe("hbmesh bench link", () => {
  it("prints a row of every size as perftest does, and the limit, with flags that both sides are given", async () => {
    const flags = ["-a", "-n", "20", "-q", "2"];
    const other = await waitingSide(...flags);
    const result = await hbmesh("bench", "link", "127.0.0.1", "-p", other.port, ...flags);
    expect(result.code, result.stderr).toBe(0);
    expect(await other.ended).toBe(0);
    const rows = result.stdout.split("\n").filter((line) => /^ \d/.test(line));
    expect(rows.map((line) => line.trim().split(/\s+/)[0])).toEqual(
      Array.from({ length: 23 }, (_, power) => String(2 ** (power + 1))),
    );
    expect(rows.every((line) => line.trim().split(/\s+/).length === 5)).toBe(true);
    expect(result.stdout).toMatch(/limit: raw sockets, 2: [\d.]+ MB\/sec; \d+ bytes reach \d+%/);
  });

  it.each(["::1", "[::1]", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1", "localhost"])(
    "measures over tcp to %s",
    async (host) => {
      const other = await waitingSide();
      const result = await hbmesh("bench", "link", host, "-p", other.port, "-s", "64K", "-n", "16", "--json");
      expect(result.code, result.stderr).toBe(0);
      expect(await other.ended).toBe(0);
      const { rows, limit } = JSON.parse(result.stdout) as LinkJson;
      expect(rows).toEqual([expect.objectContaining({ bytes: 65_536, iterations: 16 })]);
      expect(limit).toMatchObject({ against: "raw sockets" });
    },
  );

  it.each([
    { transport: "tcp", read: true, against: "raw sockets" },
    { transport: "shm", read: false, against: "one copy" },
    { transport: "shm", read: true, against: "one copy" },
  ])("measures $transport, reading: $read", async ({ transport, read, against }) => {
    const other = await waitingSide();
    const args = [
      "-p",
      other.port,
      "--transport",
      transport,
      ...(read ? ["--read"] : []),
      "-s",
      "1M",
      "-n",
      "16",
      "--json",
    ];
    const result = await hbmesh("bench", "link", "127.0.0.1", ...args);
    expect(result.code, result.stderr).toBe(0);
    expect(await other.ended).toBe(0);
    const { rows, limit } = JSON.parse(result.stdout) as LinkJson;
    expect(rows).toEqual([expect.objectContaining({ bytes: 2 ** 20, iterations: 16, lanes: 1 })]);
    expect(rows[0]?.peak).toBeGreaterThanOrEqual(rows[0]?.average ?? Number.NaN);
    expect(limit).toMatchObject({ against, lanes: 1 });
  });

  it("measures latency", async () => {
    const other = await waitingSide();
    const result = await hbmesh("bench", "link", "127.0.0.1", "-p", other.port, "--latency", "-n", "50", "--json");
    expect(result.code, result.stderr).toBe(0);
    expect(await other.ended).toBe(0);
    const { test, rows } = JSON.parse(result.stdout) as LinkJson;
    expect(test).toBe("latency");
    expect(rows).toEqual([expect.objectContaining({ bytes: 2, iterations: 50 })]);
    expect(rows[0]?.typical).toBeGreaterThan(0);
  });

  it("runs until Ctrl-C with --run_infinitely, a row each interval", async () => {
    const other = await waitingSide();
    const running = start("127.0.0.1", "-p", other.port, "--run_infinitely", "-D", "1", "--report_gbits", "-s", "4K");
    await until("two rows are there", () => running.output().split(/^ 4096 /m).length > 2);
    running.process.kill("SIGINT");
    expect(await running.ended).toBe(0);
    expect(await other.ended).toBe(0);
    expect(running.output()).toContain("BW average[Gb/sec]");
  });

  it("says that nobody waits, or that the port is taken", async () => {
    const port = String(await freePort());
    const alone = await hbmesh("bench", "link", "127.0.0.1", "-p", port);
    expect(alone.code).toBe(1);
    expect(alone.stderr).toContain(
      `hbmesh: RPC_UNAVAILABLE: the other side can't be reached (127.0.0.1:${port}: Connection refused); start it first`,
    );
    const first = await waitingSide();
    const second = await hbmesh("bench", "link", "-p", first.port);
    expect(second.code).toBe(1);
    expect(second.stderr).toContain(`listening on port ${first.port}`);
    first.process.kill("SIGINT");
    expect(await first.ended).toBe(130);
  });

  it.each([
    [["127.0.0.1", "-a", "-s", "4"], /give -s SIZE or -a, not both/],
    [["127.0.0.1", "--run_infinitely", "-a"], /--run_infinitely takes one size/],
    [["127.0.0.1", "--run_infinitely", "-n", "9"], /give -n or --run_infinitely, not both/],
    [["127.0.0.1:18515"], /The host "127.0.0.1:18515" is neither an IP address nor a host name; a port goes apart/],
    [["fe80::1%eth0"], /The host "fe80::1%eth0" has a zone/],
    [["127.0.0.1", "-s", "2G"], /Give a size of at most 1G/],
    [["127.0.0.1", "-q", "17"], /Give a whole number from 1 to 16/],
    [["127.0.0.1", "--transport", "rdma"], /Allowed choices are tcp, shm/],
    [["127.0.0.1", "--report_gbit"], /unknown option '--report_gbit'\n\(Did you mean --report_gbits\?\)/],
  ])("refuses %j by name", async (args, message) => {
    const result = await hbmesh("bench", "link", ...args);
    expect(result.code).toBe(2);
    expect(result.stderr).toMatch(message);
  });

  it("--help says how the two sides are started", async () => {
    const result = await hbmesh("bench", "link", "--help");
    expect(result.code).toBe(0);
    expect(result.stdout).toContain("host2$ hbmesh bench link 192.168.0.1");
    expect(result.stdout).toMatch(/Examples:\n[\s\S]*Exit codes:/);
  });
});
