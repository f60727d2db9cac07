/** What a directory forgets when the members change: who is gone, and keys that this owner does not own any more. */
import { LOCATIONS_MAX } from "./layout";
import { forgetKey } from "./directory";
import { dropLocation, keyHashOf, locationOf, recordAt, recordEnd } from "./directory-table";
import { ownerOfHash } from "./hash-ring";

export function forgetMember(member: u32): u32 {
  let lost: u32 = 0;
  for (let number: u32 = 1; number < recordEnd; number += 1) {
    const record = recordAt(number);
    if (record.keyBytes == 0) continue;
    let at = locationOf(record, member);
    if (at == LOCATIONS_MAX) continue;
    for (; at != LOCATIONS_MAX; at = locationOf(record, member)) dropLocation(record, at);
    if (record.locationCount != 0) continue;
    forgetKey(number);
    lost += 1;
  }
  return lost;
}

export function forgetForeign(self: u32): u32 {
  let removed: u32 = 0;
  for (let number: u32 = 1; number < recordEnd; number += 1) {
    const record = recordAt(number);
    if (record.keyBytes == 0 || ownerOfHash(keyHashOf(record)) == self) continue;
    forgetKey(number);
    removed += 1;
  }
  return removed;
}
