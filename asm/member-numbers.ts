/**
 * Numbers the members that a call meets, in the order in which it meets them: 0, 1, 2, ... One numbering at a time, in
 * scratch, as large as the call needs: the cost of a small batch must not depend on how many members there may be.
 */
import { MEMBER_ID_MAX } from "./layout";
import { allocateScratch } from "./memory";

// Open addressing at half load at most. An entry is member + 1, number; 0 is free.
let table: usize = 0;
let mask: u32 = 0;
export let memberCount: u32 = 0;

/** Begins anew with room for `expected` members. False if there is no memory. */
export function beginNumbers(expected: u32): bool {
  const most = max(1, min(expected, MEMBER_ID_MAX + 1));
  const slots: u32 = 2 << (32 - clz<u32>(most - 1));
  table = allocateScratch(<u64>slots << 3);
  if (table == 0) return false;
  memory.fill(table, 0, <usize>slots << 3);
  mask = slots - 1;
  memberCount = 0;
  return true;
}

/** The member's number; the next one if it is new. REQUIRES: no more different members than expected. */
// @ts-ignore: decorator
@inline
export function numberOf(member: u32): u32 {
  // Ids are small and dense: multiplying spreads them.
  let slot = ((member * 0x9e3779b1) >> 8) & mask;
  let at = table + (<usize>slot << 3);
  let entry = load<u32>(at);
  while (entry != 0) {
    if (entry == member + 1) return load<u32>(at, 4);
    slot = (slot + 1) & mask;
    at = table + (<usize>slot << 3);
    entry = load<u32>(at);
  }
  store<u32>(at, member + 1);
  store<u32>(at, memberCount, 4);
  memberCount += 1;
  return memberCount - 1;
}
