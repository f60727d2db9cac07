/**
 * Goal: docs/OPERATIONS.md is true of this product: the commands, options and environment that it names exist, the log
 * lines and messages that it quotes are in the sources, the unit is one that systemd takes, and its links lead
 * somewhere. Method: taken out of the document and looked up; the unit by systemd-analyze, where there is one.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import { filesWith, read, root } from "./sources.js";

const document = read("docs/OPERATIONS.md");
/** Why the unit can't be checked here, for the name of the test; "": it can. */
const systemdMissing =
  spawnSync("systemd-analyze", ["--version"]).status === 0
    ? ""
    : " (systemd-analyze is not there: apt-get install systemd)";
const sources = ["src", "native"]
  .flatMap((folder) => filesWith(folder, ".ts", ".cc", ".h"))
  .filter((path) => !/(_test\.cc|\.d\.ts)$/.test(path))
  .map(read)
  .join("\n");
/** Texts that are split over several literals, as one. */
const joined = sources.replaceAll(/["`']\s*\+?\s*\n?\s*["`']/g, "");

function blocks(language: string): string[] {
  return [...document.matchAll(new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\``, "gm"))].map(
    ([, text]) => text ?? "",
  );
}

/** Of a text that the product printed, what does not depend on the occasion: no addresses, numbers, paths and names. */
function fixedParts(text: string): string[] {
  const parts = text.split(
    /"[^"]*"|\([^)]*\)|\/[\w./]+|\[[^\]]*\]|[\w.]*\d[\w.:]*|\b(?:strict|extended|ops|watching|writing|making)\b|`|[:;] /,
  );
  return parts.map((part) => part.trim().replace(/^[.,:;]+\s*|[.,:;]+$/g, "")).filter((part) => part.length >= 12);
}

describe("docs/OPERATIONS.md", () => {
  it("names only options and environment variables that exist", () => {
    const foreign = new Set([
      ...["--network", "--ipc", "--ulimit", "--device", "--prefix", "--hardware", "--client-cert-auth", "--endpoints"],
    ]);
    const named = new Set([...document.matchAll(/(?<![\w-])--[a-z][a-z0-9_-]+/g)].map(([option]) => option));
    const unknown = [...named].filter(
      (option) => !foreign.has(option) && !new RegExp(`"${option}[ ",<]`).test(sources),
    );
    expect(named.size).toBeGreaterThan(25);
    expect(unknown).toEqual([]);
    for (const [, name = ""] of document.matchAll(/\b(HBMESH_[A-Z_]+)\b/g)) {
      expect(sources, name).toContain(name);
    }
  });

  it("names only commands that exist", () => {
    const named = new Set([...document.matchAll(/(?:`|^|env )hbmesh ([a-z]+)/gm)].map(([, command]) => command ?? ""));
    expect(named.size).toBeGreaterThanOrEqual(6);
    const cli = filesWith("src/cli", ".ts").map(read).join("\n");
    expect(
      [...named].filter((command) => !new RegExp(`(command\\(|add\\w*\\()"${command}[ "]|"${command}"`).test(cli)),
    ).toEqual([]);
  });

  it("quotes log lines and messages that are in the sources", () => {
    const logged = blocks("log").flatMap((block) => block.split("\n").filter((line) => line !== ""));
    const texts = logged.flatMap((line) => {
      const { msg, cause } = JSON.parse(line) as { msg: string; cause?: string };
      return cause === undefined ? [msg] : [msg, cause];
    });
    const table = document.slice(
      document.indexOf("### A worker does not start"),
      document.indexOf("### Errors that clients"),
    );
    const said = [...table.matchAll(/^\| (`[^|]*`) \|/gm)].map(([, text]) => text ?? "");
    expect(texts.length).toBeGreaterThan(10);
    expect(said.length).toBeGreaterThan(10);
    // What etcd's client and the system say.
    const others = /UNAVAILABLE|No connection established|address not available|No such file|listen EADDRNOTAVAIL/;
    const parts = [...texts, ...said].flatMap(fixedParts).filter((part) => !others.test(part));
    expect(parts.length).toBeGreaterThan(25);
    expect(parts.filter((part) => !joined.includes(part))).toEqual([]);
  });

  it("has states and codes as the product calls them", () => {
    for (const state of ["ready", "not ready", "no answer", "sidecar only", "not here"]) {
      expect(document).toContain(`\`${state}\``);
      expect(read("src/cli/status.ts"), state).toContain(state);
    }
    const codes = read("proto/hbmesh/v1/status.proto");
    for (const [, row = ""] of document.matchAll(/^\| ([A-Z_]+(?:, [A-Z_]+)*) \|/gm)) {
      for (const code of row.split(", ")) {
        expect(codes, code).toContain(code);
      }
    }
  });

  it("links to what is there", () => {
    for (const [, target = ""] of document.matchAll(/\]\(([^)#]+)(?:#[^)]*)?\)/g)) {
      expect(existsSync(join(root, dirname("docs/OPERATIONS.md"), target)), target).toBe(true);
    }
    expect(read("README.md")).toContain("docs/OPERATIONS.md");
  });

  it.skipIf(systemdMissing !== "")(`has a unit that systemd takes${systemdMissing}`, () => {
    const folder = mkdtempSync(join(tmpdir(), "hbmesh-unit-"));
    try {
      const path = join(folder, "hbmesh.service");
      writeFileSync(path, blocks("systemd").join("\n"));
      const { stderr } = spawnSync("systemd-analyze", ["verify", "--man=no", path], { encoding: "utf8" });
      expect(stderr.split("\n").filter((line) => line.includes("hbmesh.service"))).toEqual([]);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});
