/**
 * Moves: where the objects of a member that leaves go. The largest is placed first, each with the target that has the
 * most room left then, of equal ones the first: what doesn't fit there fits nowhere. So targets fill up evenly, and an
 * object is left over only if no target has room for it beside those that are larger.
 */
import { CALL_BAD_ARGUMENT, CALL_MALFORMED_RECORDS, CALL_OK, CALL_OUT_OF_MEMORY } from "./layout";
import { allocateScratch } from "./memory";

/** Of one call; more are placed in several. */
export const MOVE_OBJECTS_MAX: u32 = 1 << 20;

export let movesResult: usize = 0;
let sizes: usize = 0;
let rooms: usize = 0;

/**
 * Input: u64 x objects sizes │ u64 x targets rooms. Result: u32 x objects, 1 + the target's position, 0 if it has no
 * place.
 */
export function placeMoves(input: usize, length: u32, objects: u32, targets: u32): u32 {
  if (objects > MOVE_OBJECTS_MAX || targets > MOVE_OBJECTS_MAX) return CALL_BAD_ARGUMENT;
  if ((<u64>objects << 3) + (<u64>targets << 3) != <u64>length) return CALL_MALFORMED_RECORDS;
  movesResult = allocateScratch(<u64>objects << 2);
  const order = allocateScratch(<u64>objects << 2);
  const heap = allocateScratch(<u64>targets << 2);
  rooms = allocateScratch(<u64>targets << 3);
  if (movesResult == 0 || order == 0 || heap == 0 || rooms == 0) return CALL_OUT_OF_MEMORY;
  sizes = input;
  memory.fill(movesResult, 0, <usize>objects << 2);
  memory.copy(rooms, input + (<usize>objects << 3), <usize>targets << 3);
  makeHeap(order, objects, sizes);
  makeHeap(heap, targets, rooms);
  // Of both the greatest is on top.
  for (let left = objects; left > 0 && targets > 0; left -= 1) {
    const object = load<u32>(order);
    store<u32>(order, load<u32>(order + (<usize>(left - 1) << 2)));
    sink(order, left - 1, 0, sizes);
    const target = load<u32>(heap);
    const room = valueOf(rooms, target);
    const size = valueOf(sizes, object);
    if (size > room) continue;
    store<u32>(movesResult + (<usize>object << 2), target + 1);
    store<u64>(rooms + (<usize>target << 3), room - size);
    sink(heap, targets, 0, rooms);
  }
  return CALL_OK;
}

// @ts-ignore: decorator
@inline
function valueOf(values: usize, index: u32): u64 {
  return load<u64>(values + (<usize>index << 3));
}

/** Is `one` to be above `other` in a heap by these values? */
// @ts-ignore: decorator
@inline
function isAbove(one: u32, other: u32, values: usize): bool {
  const first = valueOf(values, one);
  const second = valueOf(values, other);
  return first > second || (first == second && one < other);
}

function makeHeap(heap: usize, count: u32, values: usize): void {
  for (let index: u32 = 0; index < count; index += 1) store<u32>(heap + (<usize>index << 2), index);
  for (let at = count >> 1; at > 0; at -= 1) sink(heap, count, at - 1, values);
}

function sink(heap: usize, count: u32, from: u32, values: usize): void {
  let at = from;
  while (true) {
    let child = (at << 1) + 1;
    if (child >= count) return;
    let top = load<u32>(heap + (<usize>child << 2));
    if (child + 1 < count) {
      const right = load<u32>(heap + (<usize>(child + 1) << 2));
      if (isAbove(right, top, values)) {
        top = right;
        child += 1;
      }
    }
    const moved = load<u32>(heap + (<usize>at << 2));
    if (!isAbove(top, moved, values)) return;
    store<u32>(heap + (<usize>at << 2), top);
    store<u32>(heap + (<usize>child << 2), moved);
    at = child;
  }
}
