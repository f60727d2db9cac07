/**
 * Logging: one interface, passed in. The real one is pino, configured in this one place; its level comes from
 * HBMESH_LOG (silent, error, warn, info, debug, trace; default info) and its lines are JSON on standard error, so that
 * standard output stays with the command's result.
 */
import { pino } from "pino";
import { LogWriter } from "./log-writer.js";

/** Fields of one line: plain values only. */
export type LogFields = Record<string, unknown>;

export interface Logger {
  error(fields: LogFields, message: string): void;
  warn(fields: LogFields, message: string): void;
  info(fields: LogFields, message: string): void;
  debug(fields: LogFields, message: string): void;
  /** A logger that adds these fields to every line. */
  child(fields: LogFields): Logger;
}

const LEVELS = ["silent", "error", "warn", "info", "debug", "trace"];

/** `name` is the part of hbmesh that speaks: "worker", "dev". */
export function createLogger(name: string, level = process.env["HBMESH_LOG"]): Logger {
  const chosen = level !== undefined && LEVELS.includes(level) ? level : "info";
  const logger = pino(
    {
      name,
      level: chosen,
      formatters: { level: (label) => ({ level: label }) },
      // 64-bit ids and sizes are bigints, which JSON can't write.
      serializers: { epoch: String, generation: String, bytes: String },
    },
    new LogWriter(2),
  );
  if (level !== undefined && level !== chosen) {
    logger.warn({ level }, `HBMESH_LOG is none of ${LEVELS.join(", ")}; using info`);
  }
  return logger;
}

/** Says nothing. For tests and for libraries in a user's process. */
export function createSilentLogger(): Logger {
  const none = (): void => {};
  const logger: Logger = { error: none, warn: none, info: none, debug: none, child: () => logger };
  return logger;
}
