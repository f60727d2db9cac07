/**
 * HbmeshError: the one error type that leaves hbmesh. `code` is from the closed table in proto/hbmesh/v1/status.proto.
 * Foreign errors are translated where they enter, keeping the cause.
 */
import { StatusCode } from "../gen/hbmesh/v1/status_pb.js";

export { StatusCode };

export interface HbmeshErrorFields {
  /** The key concerned, where there is one. */
  key?: string;
  /** The worker address concerned, where there is one. */
  node?: string;
  cause?: unknown;
}

export class HbmeshError extends Error {
  readonly code: StatusCode;
  readonly key: string | undefined;
  readonly node: string | undefined;

  /** `message` names the cause and what to do next. */
  constructor(code: StatusCode, message: string, fields: HbmeshErrorFields = {}) {
    super(message, fields.cause === undefined ? undefined : { cause: fields.cause });
    this.name = "HbmeshError";
    this.code = code;
    this.key = fields.key;
    this.node = fields.node;
  }

  /** "NOT_FOUND": the code's name, or its number if the table doesn't have it. */
  get codeName(): string {
    return StatusCode[this.code] ?? String(this.code);
  }

  /** Keeps an HbmeshError as it is; gives anything else the code `fallback` and keeps it as the cause. */
  static from(reason: unknown, fallback: StatusCode = StatusCode.RUNTIME_ERROR): HbmeshError {
    if (reason instanceof HbmeshError) {
      return reason;
    }
    const message = reason instanceof Error ? reason.message : String(reason);
    return new HbmeshError(fallback, message, { cause: reason });
  }
}
