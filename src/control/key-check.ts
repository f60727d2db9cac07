/**
 * The check that every batch of keys passes where it enters the control process, whoever sent it: in Wasm, by the
 * cluster's rule.
 */
import { HbmeshError, StatusCode } from "../base/errors.js";
import {
  type Decisions,
  describeKeyFault,
  faultyKey,
  type KeyBatch,
  type KeyOrigin,
  type KeyRule,
} from "../decision/index.js";

/** Keys may begin with a tenant unless a user wrote them (`origin`, default "sidecar"). */
export type KeyCheck = (keys: KeyBatch, keysMax: number, origin?: KeyOrigin) => void;

/** The returned function throws INVALID, with the key. */
export function createKeyCheck(decisions: Decisions, rule: KeyRule): KeyCheck {
  return (keys, keysMax, origin = "sidecar") => {
    const fault = decisions.validateKeys(keys, rule, keysMax, origin);
    if (fault !== undefined) {
      const key = faultyKey(fault, keys);
      const message = describeKeyFault(fault, keys, rule);
      throw new HbmeshError(StatusCode.INVALID, message, key === undefined ? {} : { key });
    }
  };
}
