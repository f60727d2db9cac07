/**
 * Families of keys: host object, published, device cache (Family in native/queue/layout.h). The directory keeps them
 * apart; here are the checks of what comes in, and the sentences for who mixed them.
 */
import { HbmeshError, StatusCode } from "../base/errors.js";
import { FAMILY_ANY, type Family } from "../decision/index.js";

export const FAMILY_HOST: Family = 0;
export const FAMILY_PUBLISHED: Family = 1;
export const FAMILY_DEVICE_CACHE: Family = 2;
export const FAMILY_NAMES = ["host", "published", "device cache"] as const;

/** What the caller wanted to do with the key. */
export type FamilyUse = "read" | "write" | "remove";

const REMEDIES: Record<FamilyUse, readonly [string, string, string]> = {
  read: ["use mGetH2D", "use devSubscribe", "use devMGet"],
  write: ["delete it first, or use another key", "use another key", "devDelete it first, or use another key"],
  remove: ["use delete", "it goes when its receiver has it, or its publisher cancels", "use devDelete"],
};
const ORIGINS = ["was set with mSetD2H", "was published with devPublish", "was set with devMSet"] as const;

/** `key` as its user knows it, `found` the family that it is there under. */
export function describeOtherFamily(key: string, found: number, use: FamilyUse): string {
  const origin = ORIGINS[found] ?? `is of family ${found}`;
  return `key ${JSON.stringify(key)} ${origin}; ${REMEDIES[use][found as Family] ?? "use another key"}`;
}

/** Throws INVALID for a number that is no family. */
export function checkFamily(value: number): Family {
  if (value !== 0 && value !== 1 && value !== 2) {
    throw new HbmeshError(StatusCode.INVALID, `family ${value} is none of 0 (host), 1 (published), 2 (device cache)`);
  }
  return value;
}

/** As checkFamily, but a lookup may also ask for keys of all families. */
export function checkLookupFamily(value: number): Family | typeof FAMILY_ANY {
  return value === FAMILY_ANY ? FAMILY_ANY : checkFamily(value);
}
