/**
 * The check that every batch of keys passes where it enters the control process, whoever sent it: in Wasm, by the cluster's rule.
 */
import { HbmeshError, StatusCode } from "../base/errors.js";
import { type Decisions, describeKeyFault, faultyKey, type KeyBatch, type KeyRule } from "../decision/index.js";

export type KeyCheck = (keys: KeyBatch, keysMax: number) => void;

/** The returned function throws INVALID, with the key. */
export function createKeyCheck(decisions: Decisions, rule: KeyRule): KeyCheck {
  return (keys, keysMax) => {
    const fault = decisions.validateKeys(keys, rule, keysMax);
    if (fault !== undefined) {
      const key = faultyKey(fault, keys);
      const message = describeKeyFault(fault, keys, rule);
      throw new HbmeshError(StatusCode.INVALID, message, key === undefined ? {} : { key });
    }
  };
}
