/**
 * The module's memory: runs of 64 KiB pages for what lasts, and a scratch area that every call starts anew.
 *
 * Runs that are given back are used again by later runs of the same size or smaller; memory never shrinks. Nothing here
 * is zeroed: who takes a run fills it.
 */

export const PAGE_BYTES: usize = 65536;
/** One page less than 4 GiB, so that the end of memory is still a number of 32 bits. */
const PAGES_LIMIT: u32 = 65535;
/** Memory is grown in steps, since each step makes the host renew its views. */
const GROW_PAGES: u32 = 16;
/** A vector load may read so far past the bytes that it is asked about. */
const SLACK_BYTES: usize = 64;

// A run while it is free.
//  0 next (0: last) │ 4 pages
@unmanaged
class FreeRun {
  next: u32;
  pages: u32;
}

let pagesMax: u32 = PAGES_LIMIT;
let heapTop: usize = 0;
let freeRuns: usize = 0;

/** Most memory that the module takes, in bytes; memory that is there already stays. */
export function limitMemory(bytes: u64): void {
  const pages = bytes / PAGE_BYTES;
  pagesMax = pages < PAGES_LIMIT ? <u32>pages : PAGES_LIMIT;
}

export function pagesFor(bytes: u64): u32 {
  const pages = (bytes + PAGE_BYTES - 1) / PAGE_BYTES;
  return pages > PAGES_LIMIT ? PAGES_LIMIT + 1 : <u32>pages;
}

/** Pointer to `pages` contiguous pages with undefined contents; 0 if there is no memory for them. */
export function allocateRun(pages: u32): usize {
  const reused = takeFreeRun(pages);
  if (reused != 0) return reused;
  if (heapTop == 0) heapTop = (__heap_base + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
  const topPage = <u32>(heapTop / PAGE_BYTES);
  if (pages > pagesMax || topPage > pagesMax - pages) return 0;
  const pagesNow = <u32>memory.size();
  const pagesNeeded = topPage + pages;
  if (pagesNeeded > pagesNow) {
    const step = max(GROW_PAGES, pagesNow / 16);
    const wanted = min(pagesMax, pagesNeeded + step);
    if (memory.grow(wanted - pagesNow) < 0 && memory.grow(pagesNeeded - pagesNow) < 0) return 0;
  }
  const run = heapTop;
  heapTop += <usize>pages * PAGE_BYTES;
  return run;
}

export function freeRun(run: usize, pages: u32): void {
  const free = changetype<FreeRun>(run);
  free.next = <u32>freeRuns;
  free.pages = pages;
  freeRuns = run;
}

/** First fit; the list is short, since only scratch and ring runs are ever given back. */
function takeFreeRun(pages: u32): usize {
  let before: usize = 0;
  let at = freeRuns;
  while (at != 0) {
    const free = changetype<FreeRun>(at);
    if (free.pages >= pages) {
      let rest: u32 = free.next;
      if (free.pages > pages) {
        const remainder = changetype<FreeRun>(at + <usize>pages * PAGE_BYTES);
        remainder.next = free.next;
        remainder.pages = free.pages - pages;
        rest = <u32>changetype<usize>(remainder);
      }
      if (before == 0) freeRuns = rest;
      else changetype<FreeRun>(before).next = rest;
      return at;
    }
    before = at;
    at = free.next;
  }
  return 0;
}

// Scratch. A call's first run may be too small for what the call needs on the way: then a larger run takes its place,
// and the smaller one is given back when the next call begins.
const RETIRED_MAX: u32 = 32;
const retiredRuns = memory.data(256); // RETIRED_MAX x (run u32, pages u32)
let retiredCount: u32 = 0;
let scratchRun: usize = 0;
let scratchPages: u32 = 0;
let scratchTop: usize = 0;

/** Forgets all scratch of the call before and gives `bytes` of it for the input; 0 if there is no memory. */
export function beginScratch(bytes: u32): usize {
  while (retiredCount > 0) {
    retiredCount -= 1;
    const entry = retiredRuns + (<usize>retiredCount << 3);
    freeRun(load<u32>(entry), load<u32>(entry, 4));
  }
  scratchTop = scratchRun;
  return allocateScratch(bytes);
}

/** Aligned to 16 bytes, contents undefined, valid until the next `beginScratch`; 0 if there is no memory. */
export function allocateScratch(bytes: u64): usize {
  const needed = bytes + SLACK_BYTES;
  if (needed > <u64>u32.MAX_VALUE) return 0;
  const end = <u64>scratchRun + <u64>scratchPages * PAGE_BYTES;
  if (scratchRun == 0 || <u64>scratchTop + needed > end) {
    if (retiredCount == RETIRED_MAX) return 0;
    let pages = max(pagesFor(needed), min(scratchPages * 2, PAGES_LIMIT));
    let run = allocateRun(pages);
    if (run == 0) {
      pages = pagesFor(needed);
      run = allocateRun(pages);
    }
    if (run == 0) return 0;
    if (scratchRun != 0) {
      const entry = retiredRuns + (<usize>retiredCount << 3);
      store<u32>(entry, <u32>scratchRun);
      store<u32>(entry, scratchPages, 4);
      retiredCount += 1;
    }
    scratchRun = run;
    scratchPages = pages;
    scratchTop = run;
  }
  const pointer = scratchTop;
  scratchTop += (<usize>bytes + 15) & ~15;
  return pointer;
}
