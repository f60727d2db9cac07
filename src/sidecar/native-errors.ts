/** Errors of native code become HbmeshErrors here: `code` is a StatusCode number, the message is kept. */
import { HbmeshError, type HbmeshErrorFields, StatusCode } from "../base/errors.js";

/** Keeps an HbmeshError as it is. An error without a known code becomes RUNTIME_ERROR. */
export function fromNativeError(reason: unknown, fields: Omit<HbmeshErrorFields, "cause"> = {}): HbmeshError {
  if (reason instanceof HbmeshError) {
    return reason;
  }
  const message = reason instanceof Error ? reason.message : String(reason);
  const code = reason instanceof Error && "code" in reason ? reason.code : undefined;
  const known = typeof code === "number" && StatusCode[code] !== undefined;
  return new HbmeshError(known ? code : StatusCode.RUNTIME_ERROR, message, { ...fields, cause: reason });
}
