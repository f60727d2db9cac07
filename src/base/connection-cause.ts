/**
 * Why a connection could not be made, or ended: the sentence that stands in a message. Libraries wrap the socket's
 * error in their own, whose text may be empty (all addresses of a name were tried) or say nothing ("Last error:
 * undefined").
 */

const CAUSES_MAX = 5;
const NOTHING = /^(|undefined|null|.*Last error: (undefined|null)\b.*)$/s;

/** Never empty. The outermost text that says something, with each failure of several addresses. */
export function causeOf(reason: unknown): string {
  let cause = reason;
  let code: string | undefined;
  for (let depth = 0; depth < CAUSES_MAX && cause instanceof Error; depth++) {
    if (cause instanceof AggregateError && cause.errors.length > 0) {
      return [...new Set(cause.errors.map(causeOf))].join(", ");
    }
    if (!NOTHING.test(cause.message)) {
      return plain(cause.message);
    }
    code ??= (cause as NodeJS.ErrnoException).code;
    cause = cause.cause;
  }
  const text = typeof cause === "string" && cause !== "" ? cause : code;
  return text === undefined ? "the connection failed without a reason" : String(text);
}

/** What a socket says that was written to after its end has no words in it. */
function plain(text: string): string {
  return /^(write )?EPIPE$/.test(text) ? "the other side closed the connection (EPIPE)" : text;
}
