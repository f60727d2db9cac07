/**
 * Options that a command doesn't have are refused by the name that the user typed, with the nearest one that there is.
 * Done before commander reads the line, which would name a missing option first, and a suggestion only when it is very
 * near.
 */
import type { Command, Option } from "commander";
import { editDistance } from "../base/nearest-name.js";
import { usageError } from "./options.js";

/** Throws a usage error for the first unknown option. What follows `=` is never repeated. */
export function refuseUnknownOptions(program: Command, args: readonly string[]): void {
  let command = program;
  let hasOperand = false;
  for (let index = 0; index < args.length; index += 1) {
    const arg = args[index] ?? "";
    if (arg === "--") {
      return;
    }
    if (!arg.startsWith("-") || arg === "-") {
      const sub: Command | undefined = hasOperand ? undefined : command.commands.find((each) => each.name() === arg);
      command = sub ?? command;
      hasOperand = sub === undefined;
      continue;
    }
    const [name = ""] = arg.split("=", 1);
    const option = optionOf(command, name);
    if (option === undefined && !isBuiltIn(name)) {
      const nearest = nearestOption(command, name);
      throw usageError(`unknown option '${name}'${nearest === undefined ? "" : `\n(Did you mean ${nearest}?)`}`);
    }
    // The next one is its value, whatever it looks like.
    const hasValue = name.startsWith("--") ? arg.includes("=") : arg.length > 2;
    if (option?.required === true && !hasValue) {
      index += 1;
    }
  }
}

/** -h and -V of every command. */
function isBuiltIn(name: string): boolean {
  return name === "-h" || name === "--help" || name === "-V" || name === "--version";
}

function optionOf(command: Command, name: string): Option | undefined {
  // -p31501 is -p with its value.
  const isShort = !name.startsWith("--");
  for (let each: Command | null = command; each !== null; each = each.parent) {
    const found = each.options.find((option) => (isShort ? option.short === name.slice(0, 2) : option.long === name));
    if (found !== undefined) {
      return found;
    }
  }
  return undefined;
}

/** Undefined for a command without options. */
export function nearestOption(command: Command, name: string): string | undefined {
  const plain = (text: string): string => text.replace(/^-+/, "").replaceAll("_", "-").toLowerCase();
  const wanted = plain(name);
  let nearest: string | undefined;
  let smallest = Number.POSITIVE_INFINITY;
  for (const option of command.options) {
    const { long } = option;
    if (long === undefined || long === null || option.hidden) {
      continue;
    }
    const distance = distanceOf(wanted, plain(long));
    if (distance < smallest) {
      smallest = distance;
      nearest = long;
    }
  }
  return nearest;
}

/** Letters that differ, as a share of the longer name, less what they have in common in whole words and parts. */
function distanceOf(wanted: string, known: string): number {
  const words = new Set(known.split("-"));
  const common = new Set(wanted.split("-").filter((word) => words.has(word))).size;
  const isPart = wanted.length >= 3 && known.includes(wanted);
  return editDistance(wanted, known) / Math.max(wanted.length, known.length) - 0.3 * common - (isPart ? 0.5 : 0);
}
