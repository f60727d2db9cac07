/**
 * Goal: workers of this host are found by any way of writing their address, and by names that lead to it. Method: names
 * looked up by a resolver that the test gives, command lines of processes that the test starts.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { describe, expect, it } from "vitest";
import { StatusCode } from "../../../src/base/errors.js";
import { logName } from "../../../src/cli/worker-log.js";
import { addressesOf, findKeepers, findSidecars, findWorkers } from "../../../src/cli/worker-processes.js";

const leads =
  (...hosts: string[]) =>
  async (): Promise<{ address: string }[]> =>
    hosts.map((address) => ({ address }));

describe("the addresses that a text names", () => {
  it.each([
    ["127.0.0.1:5", leads(), ["127.0.0.1:5"]],
    ["[0:0:0:0:0:0:0:1]:5", leads(), ["[::1]:5"]],
    ["localhost:5", leads("::1", "127.0.0.1"), ["[::1]:5", "127.0.0.1:5"]],
    ["node7:5", leads("fd00:0::7"), ["[fd00::7]:5"]],
    ["node7:5", leads("::ffff:10.0.0.7", "10.0.0.7"), ["10.0.0.7:5"]],
  ])("%s", async (named, lookUp, addresses) => {
    expect(await addressesOf(named, lookUp)).toEqual(addresses);
  });

  it("are none for a name that leads nowhere, and for what is no address", async () => {
    const nowhere = (): Promise<never> => Promise.reject(new Error("getaddrinfo ENOTFOUND node7"));
    await expect(addressesOf("node7:5", nowhere)).rejects.toMatchObject({
      code: StatusCode.NO_AVAILABLE_WORKER,
      message: "the name node7 leads to no address (getaddrinfo ENOTFOUND node7): check it, or give the IP",
      node: "node7:5",
    });
    await expect(addressesOf("bogus", leads())).rejects.toMatchObject({ code: StatusCode.INVALID });
  });
});

describe("the log of a worker", () => {
  it("has a name that no other address gives", () => {
    const addresses = ["127.0.0.1:31501", "[::1]:31501", "[1::]:31501", "[fd00::7]:31501"];
    expect(addresses.map(logName)).toEqual([
      "worker-127.0.0.1_31501.log",
      "worker---1_31501.log",
      "worker-1--_31501.log",
      "worker-fd00--7_31501.log",
    ]);
  });
});

describe("processes of a worker", () => {
  /** A process that waits for the end of its input, with this command line. */
  async function pretend(...args: string[]) {
    return await pretendAs(undefined, ...args);
  }

  async function pretendAs(uid: number | undefined, ...args: string[]) {
    const [name = "", ...rest] = args;
    const child = spawn(process.execPath, ["-e", "process.stdin.resume(); console.log('up')", "--", ...rest], {
      argv0: name,
      cwd: "/",
      ...(uid === undefined ? {} : { uid }),
      stdio: ["pipe", "pipe", "ignore"],
    });
    await once(child.stdout, "data");
    return child;
  }

  it("are found however their address was typed", async () => {
    const long = "[0:0:0:0:0:0:0:1]:1";
    const sidecar = await pretend("hbmesh-sidecar", "--devices=1", `--worker_address=${long}`);
    const worker = await pretend("node", "/x/cli/main.js", "worker", "--worker-address", long);
    try {
      const pids = (found: { pid: number; workerAddress: string }[]) =>
        found.map(({ pid, workerAddress }) => ({ pid, workerAddress }));
      expect(pids(findSidecars(["[::1]:1"]))).toEqual([{ pid: sidecar.pid, workerAddress: "[::1]:1" }]);
      expect(pids(findWorkers(["127.0.0.1:1", "[::1]:1"]))).toEqual([{ pid: worker.pid, workerAddress: "[::1]:1" }]);
      expect(findWorkers(["127.0.0.1:1"])).toEqual([]);
      expect(findKeepers(["[::1]:1"])).toEqual([]);
    } finally {
      for (const child of [sidecar, worker]) {
        child.stdin.end();
        await once(child, "exit");
      }
    }
  });

  const line = ["node", "/x/cli/main.js", "worker", "--worker_address", "127.0.0.1:2"];
  const files = ["--cluster_token_file", "token", "--tls_ca=/ca", "--tls_cert=/cert", "--tls_key=/key"];

  it("say by their command line what they ask for", async () => {
    const worker = await pretend(...line, ...files);
    expect(findWorkers(["127.0.0.1:2"]).map(({ access }) => access)).toEqual([
      { token_file: "/token", tls_ca: "/ca", tls_cert: "/cert", tls_key: "/key" },
    ]);
    worker.stdin.end();
    await once(worker, "exit");
  });

  it.skipIf(process.getuid?.() !== 0)("of another user have us read no file", async () => {
    const worker = await pretendAs(65_533, ...line, ...files);
    expect(findWorkers(["127.0.0.1:2"]).map(({ access }) => access)).toEqual([{}]);
    worker.stdin.end();
    await once(worker, "exit");
  });
});
