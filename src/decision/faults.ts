/** Sentences for people: which key is refused, why, and what to do about it. */
import type { KeyBatch, KeyFault, KeyRule } from "./decisions.js";
import { decodeKey, splitTenant } from "./layout.js";

/** Text of a key in a message is cut after so many characters. */
const KEY_SHOWN_MAX = 64;

const RULE_TEXT: Record<KeyRule, string> = {
  strict: "letters, digits and - _ ! @ # % ^ * ( ) + = : ;",
  extended: "letters, digits and . - _ ! @ # % ^ * ( ) + = : ;",
};
const RULE_BYTES_MAX: Record<KeyRule, number> = { strict: 255, extended: 1024 };

/** The faulty key as its user knows it, without tenant, or undefined where the fault is the batch's. */
export function faultyKey(fault: KeyFault, keys: readonly string[] | KeyBatch): string | undefined {
  return fault.index < 0 ? undefined : keyAt(keys, fault.index);
}

/** A sentence with key, cause and remedy. `keys` is what was validated, as text or as a batch. */
export function describeKeyFault(fault: KeyFault, keys: readonly string[] | KeyBatch, rule: KeyRule): string {
  const name = fault.index < 0 ? "" : `Key ${quote(keyAt(keys, fault.index))} (number ${fault.index + 1} of the call)`;
  switch (fault.reason) {
    case "malformed-batch":
      return "The key batch is damaged: its counts, ends and length do not fit together. Check that all processes run the same version of hbmesh.";
    case "too-many":
      return `The call has ${fault.detail} keys, more than one call may have. Split it into smaller calls.`;
    case "none":
      return "The call has no keys. Give at least one.";
    case "empty":
      return `Key number ${fault.index + 1} of the call is empty. A key has at least 1 byte.`;
    case "too-long":
      return `${name} has ${fault.detail} bytes. The key rule "${rule}" allows at most ${RULE_BYTES_MAX[rule]}: shorten the key${hintForLength(fault, rule)}.`;
    case "forbidden-byte":
      return `${name} contains ${describeByte(fault.detail)}. The key rule "${rule}" allows ${RULE_TEXT[rule]}${hintForByte(fault, rule)}.`;
    case "duplicate":
      return `${name} is the same as key number ${fault.detail + 1}. Name each key once in a call.`;
    default:
      return fault.reason satisfies never;
  }
}

function hintForLength(fault: KeyFault, rule: KeyRule): string {
  return rule === "strict" && fault.detail <= RULE_BYTES_MAX.extended
    ? ', or start the cluster with the key rule "extended", which allows 1024'
    : "";
}

function hintForByte(fault: KeyFault, rule: KeyRule): string {
  return rule === "strict" && fault.detail === 0x2e
    ? '. To use ".", start the cluster with the key rule "extended"'
    : ". Replace or encode it";
}

function describeByte(byte: number): string {
  const hex = `0x${byte.toString(16).padStart(2, "0")}`;
  if (byte === 0x20) {
    return `a space (byte ${hex})`;
  }
  if (byte > 0x20 && byte < 0x7f) {
    return `"${String.fromCharCode(byte)}" (byte ${hex})`;
  }
  return byte < 0x80 ? `the control byte ${hex}` : `the byte ${hex}, which is not ASCII`;
}

/** Without the tenant: neither does its user know that, nor should others. */
function keyAt(keys: readonly string[] | KeyBatch, index: number): string {
  return splitTenant(keys instanceof Uint8Array ? decodeKey(keys, index) : (keys[index] ?? "")).key;
}

/** JSON's quoting, so that control characters are visible. */
function quote(key: string): string {
  return JSON.stringify(key.length > KEY_SHOWN_MAX ? `${key.slice(0, KEY_SHOWN_MAX)}...` : key);
}
