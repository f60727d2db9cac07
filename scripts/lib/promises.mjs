/**
 * Finds promises that nobody waits for. Biome's own rule does not see promises of packages and of Node (it does not
 * read their declarations), so this asks the TypeScript compiler: a statement that is an expression with a `then` is a
 * forgotten promise, unless it is `void`ed on purpose or ends in `.catch(handler)` or `.then(a, b)`; a promise is no
 * condition; an async function is no callback where the caller ignores what it returns.
 */
import { relative } from "node:path";
import ts from "typescript";
import { filesUnder } from "./files.mjs";

/** Returns one line `path:line: what` for each place, under src, test and bench of `root`. */
export function findForgottenPromises(root, extraFiles) {
  const folders = ["src", "test", "bench"]
    .map((name) => `${root}/${name}`)
    .filter((path) => ts.sys.directoryExists(path));
  const files = extraFiles ?? folders.flatMap((folder) => filesUnder(folder, [".ts"]));
  const program = ts.createProgram(files, {
    target: ts.ScriptTarget.ES2023,
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    strict: true,
    noEmit: true,
    skipLibCheck: true,
    types: ["node"],
  });
  const checker = program.getTypeChecker();
  const wanted = new Set(files);
  const found = [];
  for (const source of program.getSourceFiles()) {
    if (wanted.has(source.fileName) && !source.fileName.includes("/gen/")) {
      visit(source, source);
    }
  }
  return found;

  function report(source, node, what) {
    const line = source.getLineAndCharacterOfPosition(node.getStart(source)).line + 1;
    found.push(`${relative(root, source.fileName)}:${line}: ${what}`);
  }

  function isThenable(expression) {
    const type = checker.getTypeAtLocation(expression);
    return (
      checker.getPropertyOfType(checker.getNonNullableType(type), "then") !== undefined &&
      !(type.flags & ts.TypeFlags.Any)
    );
  }

  function visit(source, node) {
    if (ts.isExpressionStatement(node) && isThenable(node.expression) && !isHandled(node.expression)) {
      report(source, node, "nobody waits for this promise: await it, return it, or write void where that is meant");
    } else if (ts.isIfStatement(node) && isThenable(node.expression)) {
      report(source, node, "a promise as a condition is always true: await it");
    } else if (ts.isCallExpression(node) && !isVoided(node)) {
      for (const index of asyncCallbacks(node)) {
        report(source, node.arguments[index], "an async function where its promise is ignored");
      }
    }
    ts.forEachChild(node, (child) => visit(source, child));
  }

  /** Positions of arguments that are async functions while the parameter's function returns nothing. */
  function asyncCallbacks(call) {
    const signature = checker.getResolvedSignature(call);
    return call.arguments.flatMap((argument, index) => {
      const isAsync =
        (ts.isArrowFunction(argument) || ts.isFunctionExpression(argument)) &&
        argument.modifiers?.some((modifier) => modifier.kind === ts.SyntaxKind.AsyncKeyword);
      const expected = isAsync && signature !== undefined ? checker.getContextualType(argument) : undefined;
      const returns = expected?.getCallSignatures().map((each) => each.getReturnType()) ?? [];
      return returns.length > 0 && returns.every((type) => type.flags & ts.TypeFlags.Void) ? [index] : [];
    });
  }
}

function isVoided(node) {
  return ts.isVoidExpression(node.parent);
}

/** `await p`, `void p`, an assignment, `p.catch(handler)`, `p.then(a, b)`. */
function isHandled(expression) {
  if (ts.isAwaitExpression(expression) || ts.isVoidExpression(expression) || ts.isBinaryExpression(expression)) {
    return true;
  }
  if (!ts.isCallExpression(expression) || !ts.isPropertyAccessExpression(expression.expression)) {
    return false;
  }
  const name = expression.expression.name.text;
  return (name === "catch" && expression.arguments.length > 0) || (name === "then" && expression.arguments.length > 1);
}
