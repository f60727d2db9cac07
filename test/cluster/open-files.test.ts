/**
 * Goal: a command that may not open enough files says so and what to do, without a stack trace.
 * Method: the program itself, as its name leads to it, under limits below and at what it needs.
 */
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { run } from "./commands.js";

const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const { bin } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { bin: { hbmesh: string } };

async function limited(files: number, ...args: string[]): Promise<Awaited<ReturnType<typeof run>>> {
  const script = `ulimit -n ${files}; exec "$0" "$@"`;
  return await run("bash", ["-c", script, process.execPath, join(root, bin.hbmesh), ...args]);
}

describe("a process that may open few files", () => {
  it.each([
    { files: 64, args: ["status"] },
    { files: 64, args: ["worker", "--worker_address", "127.0.0.1:1"] },
    { files: 255, args: ["--version"] },
  ])("$files, $args: is told the limit and where to raise it", async ({ files, args }) => {
    const { code, stdout, stderr } = await limited(files, ...args);
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
    expect(stderr).toBe(
      `hbmesh: this process may open ${files} files, and needs at least 256: raise the limit, as with ` +
        "`ulimit -n 65536` in the shell, LimitNOFILE= in a systemd unit or --ulimit nofile= of a container\n",
    );
  });

  it("256 are enough", async () => {
    const { code, stdout, stderr } = await limited(256, "--version");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toMatch(/^\d+\.\d+\.\d+/);
  });
});
