/**
 * What the commands share about arguments: both spellings of an option, numbers with limits, addresses, sizes and
 * shapes. A value that can't be read is refused with the option's name, the value, and what would be right.
 */
import { resolve } from "node:path";
import { type Command, InvalidArgumentError } from "commander";
import { formatAddress, parseAddress, parseHost } from "../base/address.js";
import { parseOwnAddress } from "../base/config.js";
import { HbmeshError } from "../base/errors.js";

/** Ends the process with this code and, if it isn't empty, this message. */
export class ExitError extends Error {
  readonly exitCode: number;

  constructor(exitCode: number, message = "") {
    super(message);
    this.exitCode = exitCode;
  }
}

/** A usage error that commander itself could not see: exit code 2. */
export function usageError(message: string): ExitError {
  return new ExitError(2, message);
}

/** The commands below this one, and those below them. */
export function commandsOf(program: Command): Command[] {
  return program.commands.flatMap((command) => [command, ...commandsOf(command)]);
}

/** A worker's address has two names, so that nobody needs to remember which command has which. */
const ADDRESS_NAMES = ["--worker", "--worker_address"];

/**
 * Rewrites options to the spelling with which they are declared: `--worker-address` to `--worker_address` and the other
 * way round, and of a worker's address the name that the command has. What is not an option of any command stays, so
 * that commander refuses it under the name the user typed.
 */
export function unifySpelling(program: Command, args: readonly string[]): string[] {
  const declared = new Map<string, string>();
  for (const command of [program, ...commandsOf(program)]) {
    for (const option of command.options) {
      if (option.long !== undefined && option.long !== null) {
        declared.set(option.long.replaceAll("_", "-"), option.long);
      }
    }
  }
  const addressName = addressNameOf(commandNamed(program, args));
  const end = args.indexOf("--");
  return args.map((arg, index) => {
    if (!arg.startsWith("--") || arg === "--" || (end >= 0 && index > end)) {
      return arg;
    }
    const equals = arg.indexOf("=");
    const name = equals < 0 ? arg : arg.slice(0, equals);
    const known = declared.get(name.replaceAll("_", "-"));
    if (known === undefined) {
      return arg;
    }
    const value = equals < 0 ? "" : arg.slice(equals);
    const isAddress = ADDRESS_NAMES.includes(known) && (value !== "" || args[index + 1]?.startsWith("-") === false);
    return (isAddress ? (addressName ?? known) : known) + value;
  });
}

/** The command that a line is for, as far as it names one. */
function commandNamed(program: Command, args: readonly string[]): Command {
  let command = program;
  for (const arg of args.filter((each) => !each.startsWith("-"))) {
    const sub = command.commands.find((each) => each.name() === arg);
    if (sub === undefined) {
      break;
    }
    command = sub;
  }
  return command;
}

/** Of the option that takes a worker's address here, if there is one. */
function addressNameOf(command: Command): string | undefined {
  return (
    command.options.find((option) => option.required && ADDRESS_NAMES.includes(option.long ?? ""))?.long ?? undefined
  );
}

/** A whole number between two limits, for commander's argument parsers. */
export function wholeNumber(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < min || value > max) {
      throw new InvalidArgumentError(`Give a whole number from ${min} to ${max}.`);
    }
    return value;
  };
}

/** HOST:PORT of a worker that is asked, as addresses are written everywhere. */
export function address(text: string): string {
  const parsed = argument(() => parseAddress(text, "The address"));
  if (parsed.port === 0) {
    throw new InvalidArgumentError("There is no worker at port 0: give its port, usually 31501.");
  }
  return formatAddress(parsed);
}

/** IP:PORT of a worker's own, as addresses are written everywhere. */
export function ownAddress(text: string): string {
  return formatAddress(argument(() => parseOwnAddress(text, "The address")));
}

/** A host alone: IPv6 with brackets or without. */
export function host(text: string): string {
  return argument(() => parseHost(text, "The host"));
}

function argument<T>(read: () => T): T {
  try {
    return read();
  } catch (reason) {
    throw new InvalidArgumentError(`${HbmeshError.from(reason).message}.`);
  }
}

/** Absolute, so that a worker in the background, which runs elsewhere, finds it too. */
function pathOf(what: string): (text: string) => string {
  return (text) => {
    if (text === "") {
      throw new InvalidArgumentError(`Give the path of a ${what}.`);
    }
    return resolve(text);
  };
}

export const filePath = pathOf("file");
export const directoryPath = pathOf("directory");

/** "true", "false", and what people write instead. */
export function yesOrNo(text: string): boolean {
  if (["true", "1", "yes", "on"].includes(text)) {
    return true;
  }
  if (["false", "0", "no", "off"].includes(text)) {
    return false;
  }
  throw new InvalidArgumentError("Give true or false.");
}

const sizeUnits: Record<string, number> = { "": 1, B: 1, K: 1024, M: 1024 ** 2, G: 1024 ** 3 };

/** "72KB", "1MiB", "4096": bytes. K, M and G are powers of 1,024, as in the names of the benchmark cases. */
export function parseSize(text: string): number {
  const match = /^(\d+)\s*([KMG]?)(?:i?B)?$/i.exec(text.trim());
  const bytes = Number(match?.[1] ?? 0) * (sizeUnits[(match?.[2] ?? "").toUpperCase()] ?? 0);
  if (match === null || !Number.isSafeInteger(bytes) || bytes <= 0) {
    throw new InvalidArgumentError("Give a size above 0, as in 72KB, 1MiB or 4096.");
  }
  return bytes;
}

/** How an object is split: `blobs` pieces of `blobBytes`. */
export interface Shape {
  blobs: number;
  blobBytes: number;
}

/** "61x72KB". */
export function parseShape(text: string): Shape {
  const [count, size, ...rest] = text.split("x");
  if (count === undefined || size === undefined || rest.length > 0 || !/^[1-9]\d{0,6}$/.test(count)) {
    throw new InvalidArgumentError("Give BLOBSxSIZE, as in 61x72KB.");
  }
  return { blobs: Number(count), blobBytes: parseSize(size) };
}
