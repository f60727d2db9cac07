/**
 * Goal: the habits of the style guide hold without anybody watching: short files and functions, narrow comments, no
 * forgotten notes, no paths of one machine, no call that has a better replacement, a lock file that names no registry.
 * Method: look at every file of the repository; functions are found by the TypeScript compiler, and in C++ by the
 * layout that clang-format guarantees (a body ends at the first line that is its head's indentation and a closing
 * brace).
 */
import ts from "typescript";
import { describe, expect, it } from "vitest";
import { findForgottenPromises } from "../../scripts/lib/promises.mjs";
import { filesWith, read, repositoryFiles, root } from "./sources.js";

const fileLinesMax = 500;
const functionLinesMax = 70;
const columnsMax = 120;
/** Rows of tables can't be wrapped; prose is, at 120. */
const documentColumnsMax = 160;

const codeEndings = [".ts", ".mjs", ".h", ".c", ".cc", ".proto", ".cmake", ".py"];

function codeFiles(): string[] {
  return repositoryFiles().filter((name) => codeEndings.some((ending) => name.endsWith(ending)));
}

/** Functions of TypeScript and JavaScript longer than the limit. A test's describe() is a list, not a function. */
function longScriptFunctions(name: string): string[] {
  const source = ts.createSourceFile(name, read(name), ts.ScriptTarget.ES2023, true);
  const found: string[] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isFunctionLike(node) && "body" in node && node.body !== undefined) {
      const first = source.getLineAndCharacterOfPosition(node.getStart(source)).line;
      const lines = source.getLineAndCharacterOfPosition(node.end).line - first + 1;
      // A describe(), or a suite as a function: a list of tests.
      const isList =
        /^\s+(it|test|describe)(\.each)?\(/m.test(node.body.getText(source)) && /\.test\.ts$|^test\//.test(name);
      if (lines > functionLinesMax && !isList) {
        found.push(`${name}:${first + 1}: ${lines} lines`);
      }
    }
    ts.forEachChild(node, visit);
  };
  visit(source);
  return found;
}

const notFunctions =
  /^\s*(namespace|class|struct|enum|union|extern|if|for|while|switch|else|do|try|catch|return|\}|#|\/\/)/;

function longNativeFunctions(name: string): string[] {
  const lines = read(name).split("\n");
  const found: string[] = [];
  for (let index = 0; index < lines.length; index += 1) {
    const head = lines[index] ?? "";
    // A head may be several lines; its last one ends in "{" and holds or follows the parameters' ")".
    if (!/\)[^;]*\{$/.test(head) || notFunctions.test(head)) {
      continue;
    }
    let first = index;
    while (first > 0 && (/[,(]$/.test(lines[first - 1] ?? "") || /^\s*:\s/.test(lines[first] ?? ""))) {
      first -= 1;
    }
    const indent = /^\s*/.exec(lines[first] ?? "")?.[0] ?? "";
    const end = lines.findIndex((line, at) => at > index && line.startsWith(`${indent}}`));
    const length = end - first + 1;
    if (end > 0 && length > functionLinesMax) {
      found.push(`${name}:${first + 1}: ${length} lines`);
    }
    index = Math.max(index, end);
  }
  return found;
}

interface Ban {
  pattern: RegExp;
  instead: string;
  /** In which files. */
  where: (name: string) => boolean;
}

const inSrc = (name: string): boolean => name.startsWith("src/") && !name.startsWith("src/gen/");
const inNative = (name: string): boolean => /^native\/.*\.(h|c|cc)$/.test(name);
const inProduct = (name: string): boolean => (inSrc(name) || inNative(name)) && !name.endsWith("_test.cc");

const bans: Ban[] = [
  { pattern: /\bconsole\.(log|error|warn)\(/, instead: "base/log, or process.stdout in src/cli", where: inSrc },
  {
    pattern: /\bMath\.random\(/,
    instead: "base/random",
    where: (name) => inSrc(name) && name !== "src/base/random.ts",
  },
  { pattern: /\bDate\.now\(/, instead: "base/clock", where: (name) => inSrc(name) && name !== "src/base/clock.ts" },
  {
    pattern: /\bprocess\.exit\(/,
    instead: "an exit code returned by the command",
    where: (name) => inSrc(name) && !name.startsWith("src/cli/"),
  },
  { pattern: /\bexecSync\(/, instead: "spawn with arguments as a list", where: inSrc },
  { pattern: /\b(strcpy|strcat|sprintf|gets|atoi)\(/, instead: "checked lengths", where: inNative },
  { pattern: /\bstd::endl\b/, instead: "'\\n'", where: inNative },
  { pattern: /\b(rand|srand)\(/, instead: "a seeded generator that is passed in", where: inNative },
  { pattern: /\b(usleep|sleep)\(/, instead: "an event or a condition", where: inProduct },
  { pattern: /\bassert\(/, instead: "base/check.h, which also holds in release builds", where: inNative },
];

describe("tidy", () => {
  it(`no file is longer than ${fileLinesMax} lines`, () => {
    const long = codeFiles()
      .map((name) => ({ name, lines: read(name).split("\n").length - 1 }))
      .filter(({ lines }) => lines > fileLinesMax);
    expect(long).toEqual([]);
  });

  it(`no comment is wider than ${columnsMax} columns`, () => {
    // Code is held to it by the formatters, which leave comments alone. A wide comment on a line of code counts too.
    const comment = /^\s*(\*|\/\*|\/\/|#)|\s\/\/\s[^"`]*$|^\s*"""/;
    const wide = codeFiles().flatMap((name) =>
      read(name)
        .split("\n")
        .flatMap((line, index) =>
          [...line].length > columnsMax && comment.test(line) ? [`${name}:${index + 1}`] : [],
        ),
    );
    expect(wide).toEqual([]);
  });

  it(`no function is longer than ${functionLinesMax} lines`, () => {
    const scripts = codeFiles().filter((name) => /\.(ts|mjs)$/.test(name));
    const native = filesWith("native", ".h", ".c", ".cc");
    expect([...scripts.flatMap(longScriptFunctions), ...native.flatMap(longNativeFunctions)]).toEqual([]);
  });

  it(`no line of what users read is wider than ${documentColumnsMax} columns`, () => {
    const documents = repositoryFiles().filter((name) => /^(README|CONTRIBUTING|docs\/(API|[IOP]\w+))\.md$/.test(name));
    expect(documents.length).toBeGreaterThanOrEqual(5);
    const wide = documents.flatMap((name) =>
      read(name)
        .split("\n")
        .flatMap((line, index) => ([...line].length > documentColumnsMax ? [`${name}:${index + 1}`] : [])),
    );
    expect(wide).toEqual([]);
  });

  it("banned calls are not used", () => {
    const found: string[] = [];
    for (const name of codeFiles()) {
      const applying = bans.filter((ban) => ban.where(name));
      if (applying.length === 0) {
        continue;
      }
      for (const [index, line] of read(name).split("\n").entries()) {
        const code = line.replace(/(^|\s)\/\/.*$|^\s*\*.*$/, "");
        for (const ban of applying.filter(({ pattern }) => pattern.test(code))) {
          found.push(`${name}:${index + 1}: ${line.trim()} (use ${ban.instead})`);
        }
      }
    }
    expect(found).toEqual([]);
  });

  it("no promise is forgotten in src, test and bench", () => {
    expect(findForgottenPromises(root.replace(/\/$/, ""))).toEqual([]);
  });

  it("no notes to self and no paths of one machine", () => {
    // Written in pieces, so that this file is not what it looks for.
    const notes = new RegExp(`\\b(${["TO" + "DO", "FIX" + "ME", "XX" + "X"].join("|")})\\b`);
    const paths = new RegExp(`(^|[\\s"'\`=(])/(${["home", "root", "work", "Users"].join("|")})/`);
    const found: string[] = [];
    for (const name of repositoryFiles().filter((each) => !/package-lock\.json|LICENSE$|\.png$/.test(each))) {
      for (const [index, line] of read(name).split("\n").entries()) {
        if (notes.test(line) || paths.test(line)) {
          found.push(`${name}:${index + 1}: ${line.trim()}`);
        }
      }
    }
    expect(found).toEqual([]);
  });

  it("the lock file names no registry", () => {
    const lock = JSON.parse(read("package-lock.json")) as { packages: Record<string, { resolved?: string }> };
    const named = Object.entries(lock.packages).filter(([, entry]) => entry.resolved !== undefined);
    expect(named.map(([name]) => name)).toEqual([]);
  });

  it("the lock file knows the packages of every platform, so that npm ci works where a registry lacks some", () => {
    type Entry = { optionalDependencies?: Record<string, string> };
    const lock = JSON.parse(read("package-lock.json")) as { packages: Record<string, Entry> };
    const optional = Object.values(lock.packages).flatMap((entry) => Object.keys(entry.optionalDependencies ?? {}));
    expect(optional.filter((name) => lock.packages[`node_modules/${name}`] === undefined)).toEqual([]);
  });

  it("every package is used", () => {
    const manifest = JSON.parse(read("package.json")) as { dependencies: Record<string, string> };
    const sources = filesWith("src", ".ts").map(read).join("\n");
    const unused = Object.keys(manifest.dependencies).filter(
      (name) => !new RegExp(`from "${name}["/]`).test(sources) && !sources.includes(`import("${name}`),
    );
    expect(unused).toEqual([]);
  });
});
