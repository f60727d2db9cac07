/**
 * Goal: `hbmesh explain` prints what is known of a key, as a table and as JSON; the commands show a token from a file
 * or HBMESH_TOKEN, and never tell it. Method: the command line in this process, against a control process with tenants
 * and its API server.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { resolveWorkerConfig } from "../../../src/base/config.js";
import { createSilentLogger } from "../../../src/base/log.js";
import { main } from "../../../src/cli/main.js";
import { type ControlProcess, startControlProcess } from "../../../src/control/index.js";
import { type ApiServer, startApiServer } from "../../../src/server/index.js";

const TOKEN = "secret-token-of-a";

describe("hbmesh explain and tokens", () => {
  let folder: string;
  let control: ControlProcess;
  let server: ApiServer;
  let output: string;
  let errors: string;

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), "hbmesh-cli-"));
    writeFileSync(join(folder, "tenants"), `${TOKEN} a\n`);
    writeFileSync(join(folder, "token"), `${TOKEN}\n`);
    const log = createSilentLogger();
    const tenantsFile = join(folder, "tenants");
    control = await startControlProcess(resolveWorkerConfig({ workerAddress: "127.0.0.1:29002", tenantsFile }), {
      log,
    });
    await control.whenReady({ timeoutMs: 10_000 });
    server = await startApiServer({ address: "127.0.0.1:0", log, control });
  });

  afterEach(async () => {
    vi.unstubAllEnvs();
    await server.close();
    await control.close();
    rmSync(folder, { recursive: true });
  });

  const run = async (...args: string[]): Promise<number> => {
    output = "";
    errors = "";
    const out = vi.spyOn(process.stdout, "write").mockImplementation((text) => {
      output += String(text);
      return true;
    });
    const err = vi.spyOn(process.stderr, "write").mockImplementation((text) => {
      errors += String(text);
      return true;
    });
    try {
      return await main(args);
    } finally {
      out.mockRestore();
      err.mockRestore();
    }
  };

  it("explains a key with a token from a file, as a table and as JSON", async () => {
    const asked = ["--worker", server.address, "--token_file", join(folder, "token")];
    expect(await run("explain", ...asked, "layer-0")).toBe(0);
    expect(output).toMatch(/status +NOT_FOUND/);
    expect(output).toContain("as far as its owner remembers, it was never set");
    expect(output).toMatch(/owner +127\.0\.0\.1:29002/);
    expect(await run("explain", "--json", ...asked, "layer-0")).toBe(0);
    expect(JSON.parse(output)).toMatchObject({
      key: "layer-0",
      status: "NOT_FOUND",
      owner: "127.0.0.1:29002",
      complete: true,
      missing: [],
      locations: [],
    });
  });

  it.each([
    ["exist", "k"],
    ["meta", "k"],
    ["delete", "k"],
    ["explain", "k"],
  ])("%s takes HBMESH_TOKEN, and fails without a token", async (...command) => {
    expect(await run(...command, "--worker", server.address)).toBe(1);
    expect(errors).toContain("the request has no token");
    vi.stubEnv("HBMESH_TOKEN", TOKEN);
    expect(await run(...command, "--worker", server.address)).toBe(0);
    expect(output + errors).not.toContain(TOKEN);
  });

  it("members and health take a token file too", async () => {
    const asked = ["--worker", server.address, "--token_file", join(folder, "token")];
    expect(await run("members", ...asked)).toBe(0);
    expect(await run("health", ...asked)).toBe(0);
  });

  it("a file that is missing, empty, or has more than a token: exit code 2, naming it and not what is in it", async () => {
    const file = join(folder, "bad");
    const asked = ["exist", "--worker", server.address, "--token_file", file, "k"];
    expect(await run(...asked)).toBe(2);
    expect(errors).toContain(`--token_file ${file} can't be read`);
    for (const text of ["", `${TOKEN} a`]) {
      writeFileSync(file, text);
      expect(await run(...asked)).toBe(2);
      expect(errors).toContain(`--token_file ${file} must have one token`);
      expect(errors).not.toContain(TOKEN);
    }
  });
});
