/**
 * Goal: close() lets go of device memory first, without holding up the process, and a process may end with calls under
 * way. Method: a get that waits for a key nobody sets; then close, close with the sidecar stopped by SIGSTOP, and an
 * exit of a process of its own.
 */
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { StatusCode } from "../../src/base/errors.js";
import { run } from "./commands.js";
import { DeviceObject, type Fixture, failureOf, startFixture } from "./fixture.js";

let fixture: Fixture;

beforeAll(async () => {
  fixture = await startFixture();
}, 60_000);

afterAll(async () => {
  await fixture.close();
});

describe("close() with a get under way", () => {
  it("resolves once the sidecar has ended the get", async () => {
    const client = await fixture.client(0);
    const target = new DeviceObject(0, [4096]);
    await client.preRegisterDeviceMemory([target.list.blobs[0]?.pointer ?? 0n], [4096n]);
    const failure = failureOf(client.mGetH2D([client.generateKey()], [target.list], { timeoutMs: 60_000 }));
    let ended = false;
    const get = failure.then(() => {
      ended = true;
    });
    await client.close();
    await new Promise(setImmediate); // the get's own promise takes a few steps more
    expect(ended).toBe(true);
    await get;
    expect(await failure).toMatchObject({
      code: StatusCode.SHUTTING_DOWN,
      message: expect.stringMatching(/was closed$/),
    });
    target.free();
  });

  it("gives up on a sidecar that says nothing, tells so, and lets other work go on meanwhile", async () => {
    const client = await fixture.client(0);
    const target = new DeviceObject(0, [4096]);
    await client.preRegisterDeviceMemory([target.list.blobs[0]?.pointer ?? 0n], [4096n]);
    const failure = failureOf(client.mGetH2D([client.generateKey()], [target.list], { timeoutMs: 60_000 }));
    const { sidecarPid } = fixture.cluster.workers[0]?.ready ?? {};
    expect(sidecarPid).toBeTypeOf("number");
    process.kill(sidecarPid as number, "SIGSTOP");
    try {
      let turns = 0;
      const timer = setInterval(() => {
        turns += 1;
      }, 10);
      await client.close();
      clearInterval(timer);
      expect(turns).toBeGreaterThan(0);
      expect(await failure).toMatchObject({
        code: StatusCode.SHUTTING_DOWN,
        message: expect.stringMatching(/did not confirm within 2000 ms.*device memory may still be read or written/),
      });
    } finally {
      process.kill(sidecarPid as number, "SIGCONT");
    }
  });
});

describe("a process with calls under way", () => {
  it("may exit", async () => {
    const [host, port] = (fixture.addresses[0] ?? "").split(":");
    const script = `
      const { Blob, DeviceBlobList, HeteroClient, SimDevice } = await import(process.argv[1]);
      const client = new HeteroClient({ host: process.argv[2], port: Number(process.argv[3]) });
      await client.init();
      const list = new DeviceBlobList(0, [new Blob(new SimDevice(0).allocate(4096), 4096n)]);
      client.mGetH2D([client.generateKey()], [list], { timeoutMs: 60_000 }).catch(() => {});
      await client.exist(["after-it"]);
      process.exit(7);`;
    const module = fileURLToPath(new URL("../../dist/client/index.js", import.meta.url));
    const result = await run(process.execPath, ["--input-type=module", "-e", script, module, host ?? "", port ?? ""]);
    expect(result).toEqual({ code: 7, stdout: "", stderr: "" });
  });
});
