#include "store/arena_allocator.h"

#include <algorithm>
#include <bit>

#include "base/align.h"
#include "base/check.h"

namespace hbmesh {
namespace {

// Blocks of the wanted size's own bin may be too small by a little. The first ones are tried, since objects of one size
// are common and leave gaps of exactly that size; more of them only when there is nothing larger.
constexpr uint32_t kTriesFirst = 4;
constexpr uint32_t kTriesLast = 1024;

// Costs of up to 2^32 blocks are added up.
__extension__ using Cost = unsigned __int128;

// A node for each block of the least size, as far as handles go.
uint64_t NodesMax(uint64_t arenaBytes) {
  return std::min<uint64_t>(arenaBytes / ArenaAllocator::kAlignment + 2, ArenaAllocator::kNone);
}

}  // namespace

ArenaAllocator::ArenaAllocator(uint64_t bytes) : arenaBytes_(AlignDown(bytes, kAlignment)), nodes_(NodesMax(bytes)) {
  bins_.fill(kNone);
  if (arenaBytes_ > 0) {
    last_ = NewNode();
    nodes_[last_].bytes = arenaBytes_;
    PushFree(last_);
  }
}

std::vector<ArenaAllocator::Handle> ArenaAllocator::Adopt(std::span<const Extent> taken) {
  HBMESH_CHECK(usedBytes_ == 0, "adopts before it allocates");
  std::vector<Handle> handles;
  handles.reserve(taken.size());
  for (const Extent& extent : taken) {
    Handle rest = last_;
    HBMESH_CHECK(rest != kNone && nodes_[rest].isFree && extent.bytes > 0 && extent.offset >= nodes_[rest].offset &&
                     RangeInside(extent.offset - nodes_[rest].offset, extent.bytes, nodes_[rest].bytes),
                 "extents are sorted, inside of the arena, and don't overlap");
    if (extent.offset > nodes_[rest].offset) {
      PopFree(rest);
      SplitOff(rest, extent.offset - nodes_[rest].offset);
      PushFree(rest);
      rest = last_;
    }
    PopFree(rest);
    if (extent.bytes < nodes_[rest].bytes) {
      SplitOff(rest, extent.bytes);
    }
    usedBytes_ += extent.bytes;
    handles.push_back(rest);
  }
  return handles;
}

ArenaAllocator::Handle ArenaAllocator::Allocate(uint64_t bytes) {
  if (bytes == 0 || bytes > arenaBytes_) {
    return kNone;
  }
  const uint64_t wanted = AlignUp(bytes, kAlignment);
  const Handle found = FindFree(wanted);
  if (found == kNone) {
    return kNone;
  }
  PopFree(found);
  if (nodes_[found].bytes > wanted) {
    SplitOff(found, wanted);
  }
  usedBytes_ += wanted;
  return found;
}

ArenaAllocator::Handle ArenaAllocator::AllocateAligned(uint64_t bytes, uint64_t alignment) {
  if (bytes == 0 || bytes > arenaBytes_) {
    return kNone;
  }
  const uint64_t wanted = AlignUp(bytes, kAlignment);
  const auto fits = [&](Handle at) {
    return at != kNone && AlignUp(nodes_[at].offset, alignment) - nodes_[at].offset + wanted <= nodes_[at].bytes;
  };
  // Where all have this alignment, what is large enough is aligned; else a block with room to spare is wanted.
  Handle found = FindFree(wanted);
  found = fits(found) ? found : FindFree(wanted + alignment - kAlignment);
  // A block that is aligned by itself may lie behind one that isn't.
  const uint32_t lastBin = BinOf((wanted + alignment - kAlignment) / kAlignment);
  for (uint32_t bin = BinOf(wanted / kAlignment); !fits(found) && bin <= lastBin; bin++) {
    found = bins_[bin];
    for (uint32_t tries = kTriesLast; tries > 0 && found != kNone && !fits(found); tries--) {
      found = nodes_[found].next;
    }
  }
  if (!fits(found)) {
    return kNone;
  }
  PopFree(found);
  const uint64_t skipped = AlignUp(nodes_[found].offset, alignment) - nodes_[found].offset;
  if (skipped > 0) {
    SplitOff(found, skipped);
    const Handle aligned = nodes_[found].after;
    PopFree(aligned);
    PushFree(found);
    found = aligned;
  }
  if (nodes_[found].bytes > wanted) {
    SplitOff(found, wanted);
  }
  usedBytes_ += wanted;
  return found;
}

bool ArenaAllocator::HasFree(uint64_t bytes) const {
  return bytes == 0 || (bytes <= arenaBytes_ && FindFree(AlignUp(bytes, kAlignment)) != kNone);
}

bool ArenaAllocator::BringForward(uint64_t bytes) {
  if (bytes == 0 || bytes > arenaBytes_) {
    return false;
  }
  const uint64_t wanted = AlignUp(bytes, kAlignment);
  const Handle found = FindInBin(BinOf(wanted / kAlignment), wanted, UINT32_MAX);
  if (found != kNone) {
    PopFree(found);
    PushFree(found);
  }
  return HasFree(bytes);
}

void ArenaAllocator::Free(Handle handle) {
  HBMESH_CHECK(handle < nodesMade_ && !nodes_[handle].isFree && nodes_[handle].bytes > 0, "frees what it allocated");
  usedBytes_ -= nodes_[handle].bytes;
  nodes_[handle].owner = kNone;
  const Handle before = nodes_[handle].before;
  if (before != kNone && nodes_[before].isFree) {
    PopFree(before);
    nodes_[before].bytes += nodes_[handle].bytes;
    nodes_[before].after = nodes_[handle].after;
    DeleteNode(handle);
    handle = before;
  }
  const Handle after = nodes_[handle].after;
  if (after != kNone && nodes_[after].isFree) {
    PopFree(after);
    nodes_[handle].bytes += nodes_[after].bytes;
    nodes_[handle].after = nodes_[after].after;
    DeleteNode(after);
  }
  if (nodes_[handle].after == kNone) {
    last_ = handle;
  } else {
    nodes_[nodes_[handle].after].before = handle;
  }
  PushFree(handle);
}

ArenaAllocator::Extent ArenaAllocator::Piece(Handle handle) const {
  const Node& node = nodes_[handle];
  Extent piece{node.offset, node.bytes};
  if (node.before != kNone && nodes_[node.before].isFree) {
    piece.offset = nodes_[node.before].offset;
    piece.bytes += nodes_[node.before].bytes;
  }
  if (node.after != kNone && nodes_[node.after].isFree) {
    piece.bytes += nodes_[node.after].bytes;
  }
  return piece;
}

std::vector<ArenaAllocator::Handle> ArenaAllocator::TakeFreeOf(std::span<const Handle> run, uint64_t bytes,
                                                               Extent* range) {
  HBMESH_CHECK(!run.empty(), "there is something in the way");
  const auto byOffset = [&](Handle a, Handle b) { return nodes_[a].offset < nodes_[b].offset; };
  Handle at = *std::min_element(run.begin(), run.end(), byOffset);
  if (nodes_[at].before != kNone && nodes_[nodes_[at].before].isFree) {
    at = nodes_[at].before;
  }
  const uint64_t end = nodes_[at].offset + AlignUp(bytes, kAlignment);
  *range = {nodes_[at].offset, end - nodes_[at].offset};
  std::vector<Handle> taken;
  for (; at != kNone && nodes_[at].offset < end; at = nodes_[at].after) {
    if (!nodes_[at].isFree) {
      continue;
    }
    PopFree(at);
    if (nodes_[at].offset + nodes_[at].bytes > end) {
      SplitOff(at, end - nodes_[at].offset);
    }
    usedBytes_ += nodes_[at].bytes;
    taken.push_back(at);
  }
  return taken;
}

uint64_t ArenaAllocator::largestFreeBytes() const {
  if (summary_ == 0) {
    return 0;
  }
  const auto word = static_cast<uint32_t>(63 - std::countl_zero(summary_));
  const auto bin = static_cast<uint32_t>(word * 64 + 63 - std::countl_zero(bitmap_[word]));
  uint64_t largest = 0;
  for (Handle at = bins_[bin]; at != kNone; at = nodes_[at].next) {
    largest = std::max(largest, nodes_[at].bytes);
  }
  return largest;
}

bool ArenaAllocator::CheapestRun(uint64_t bytes, const std::function<uint64_t(Handle)>& costOf,
                                 std::vector<Handle>* taken, Handle near) const {
  if (blocks_ > kWalkMax && near != kNone) {
    // A run may lie on both sides of the block, so the walk begins above it.
    uint64_t above = 0;
    Handle high = near;
    for (uint64_t i = 0; i < kWalkMax / 2 && above < bytes && nodes_[high].after != kNone; i++) {
      high = nodes_[high].after;
      above += nodes_[high].bytes;
    }
    if (RunFrom(high, kWalkMax, bytes, costOf, taken)) {
      return true;
    }
  }
  return RunFrom(last_, blocks_ > kWalkMax ? kWalkMax : blocks_, bytes, costOf, taken) ||
         (blocks_ > kWalkMax && RunFrom(last_, blocks_, bytes, costOf, taken));
}

// Among `walkMax` blocks from `high` down.
bool ArenaAllocator::RunFrom(Handle high, uint64_t walkMax, uint64_t bytes,
                             const std::function<uint64_t(Handle)>& costOf, std::vector<Handle>* taken) const {
  // A window [low, high] slides towards the arena's start; it is shortened at its end as far as it stays enough.
  const auto cost = [&](Handle at) { return nodes_[at].isFree ? 0 : costOf(at); };
  Handle bestLow = kNone;
  Handle bestHigh = kNone;
  uint64_t windowBytes = 0;
  Cost windowCost = 0;
  Cost bestCost = ~Cost{0};
  uint64_t walked = 0;
  for (Handle low = high; low != kNone && walked < walkMax; low = nodes_[low].before, walked++) {
    const uint64_t costHere = cost(low);
    if (costHere == kBlocked) {
      windowBytes = 0;
      windowCost = 0;
      high = nodes_[low].before;
      continue;
    }
    windowBytes += nodes_[low].bytes;
    windowCost += costHere;
    while (windowBytes - nodes_[high].bytes >= bytes) {
      windowBytes -= nodes_[high].bytes;
      windowCost -= cost(high);
      high = nodes_[high].before;
    }
    if (windowBytes >= bytes && windowCost < bestCost) {
      bestCost = windowCost;
      bestLow = low;
      bestHigh = high;
    }
  }
  taken->clear();
  if (bestLow == kNone) {
    return false;
  }
  for (Handle at = bestHigh;; at = nodes_[at].before) {
    if (!nodes_[at].isFree) {
      taken->push_back(at);
    }
    if (at == bestLow) {
      return true;
    }
  }
}

std::string ArenaAllocator::CheckInvariants() const {
  Handle first = last_;
  while (first != kNone && nodes_[first].before != kNone) {
    first = nodes_[first].before;
  }
  uint64_t offset = 0;
  uint64_t used = 0;
  uint64_t freeBlocks = 0;
  bool freeBefore = false;
  for (Handle at = first; at != kNone; at = nodes_[at].after) {
    const Node& node = nodes_[at];
    if (node.offset != offset || node.bytes == 0 || !IsAligned(node.bytes, kAlignment)) {
      return "block at " + std::to_string(node.offset) + " should begin at " + std::to_string(offset);
    }
    if (node.isFree && freeBefore) {
      return "two free neighbours at " + std::to_string(offset);
    }
    freeBefore = node.isFree;
    freeBlocks += node.isFree ? 1 : 0;
    used += node.isFree ? 0 : node.bytes;
    offset += node.bytes;
  }
  uint64_t binned = 0;
  for (uint32_t bin = 0; bin < kBins; bin++) {
    const bool marked = (bitmap_[bin / 64] >> (bin % 64) & 1) != 0;
    if (marked != (bins_[bin] != kNone) || (bitmap_[bin / 64] != 0) != ((summary_ >> (bin / 64) & 1) != 0)) {
      return "bitmap is wrong at bin " + std::to_string(bin);
    }
    for (Handle at = bins_[bin]; at != kNone; at = nodes_[at].next, binned++) {
      if (!nodes_[at].isFree || BinOf(nodes_[at].bytes / kAlignment) != bin) {
        return "a block is in the wrong bin " + std::to_string(bin);
      }
    }
  }
  if (offset != arenaBytes_ || used != usedBytes_ || binned != freeBlocks) {
    return "sums differ: " + std::to_string(offset) + " of " + std::to_string(arenaBytes_) + ", used " +
           std::to_string(used) + " of " + std::to_string(usedBytes_) + ", free blocks " + std::to_string(freeBlocks) +
           " of " + std::to_string(binned);
  }
  return "";
}

// Sizes below 2^kSubBits units have a bin each; above, the bin is the power of two and the kSubBits bits that follow.
uint32_t ArenaAllocator::BinOf(uint64_t units) {
  const auto power = static_cast<uint32_t>(std::bit_width(units | 1)) - 1;
  if (power < kSubBits) {
    return static_cast<uint32_t>(units);
  }
  const auto sub = static_cast<uint32_t>(units >> (power - kSubBits)) & ((1U << kSubBits) - 1);
  return ((power - kSubBits + 1) << kSubBits) + sub;
}

ArenaAllocator::Handle ArenaAllocator::NewNode() {
  blocks_++;
  if (unusedNodes_ == kNone) {
    nodes_.GrowTo(uint64_t{nodesMade_} + 1);
    return nodesMade_++;
  }
  const Handle handle = unusedNodes_;
  unusedNodes_ = nodes_[handle].next;
  nodes_[handle] = Node{};
  return handle;
}

void ArenaAllocator::DeleteNode(Handle handle) {
  blocks_--;
  nodes_[handle] = Node{};
  nodes_[handle].next = unusedNodes_;
  unusedNodes_ = handle;
}

void ArenaAllocator::PushFree(Handle handle) {
  Node& node = nodes_[handle];
  const uint32_t bin = BinOf(node.bytes / kAlignment);
  node.isFree = true;
  node.previous = kNone;
  node.next = bins_[bin];
  if (node.next != kNone) {
    nodes_[node.next].previous = handle;
  }
  bins_[bin] = handle;
  bitmap_[bin / 64] |= 1ULL << (bin % 64);
  summary_ |= 1ULL << (bin / 64);
}

void ArenaAllocator::PopFree(Handle handle) {
  Node& node = nodes_[handle];
  const uint32_t bin = BinOf(node.bytes / kAlignment);
  if (node.previous != kNone) {
    nodes_[node.previous].next = node.next;
  } else {
    bins_[bin] = node.next;
  }
  if (node.next != kNone) {
    nodes_[node.next].previous = node.previous;
  }
  if (bins_[bin] == kNone) {
    bitmap_[bin / 64] &= ~(1ULL << (bin % 64));
    if (bitmap_[bin / 64] == 0) {
      summary_ &= ~(1ULL << (bin / 64));
    }
  }
  node.isFree = false;
  node.previous = kNone;
  node.next = kNone;
}

ArenaAllocator::Handle ArenaAllocator::FindFree(uint64_t bytes) const {
  const uint32_t own = BinOf(bytes / kAlignment);
  Handle found = FindInBin(own, bytes, kTriesFirst);
  if (found == kNone) {
    found = FindInBinsFrom(own + 1);  // every block of a higher bin is large enough
  }
  if (found == kNone) {
    found = FindInBin(own, bytes, kTriesLast);
  }
  return found;
}

ArenaAllocator::Handle ArenaAllocator::FindInBin(uint32_t bin, uint64_t bytes, uint32_t tries) const {
  for (Handle at = bins_[bin]; at != kNone && tries > 0; at = nodes_[at].next, tries--) {
    if (nodes_[at].bytes >= bytes) {
      return at;
    }
  }
  return kNone;
}

ArenaAllocator::Handle ArenaAllocator::FindInBinsFrom(uint32_t bin) const {
  if (bin >= kBins) {
    return kNone;
  }
  uint32_t word = bin / 64;
  uint64_t bits = bitmap_[word] & (~0ULL << (bin % 64));
  if (bits == 0) {
    const uint64_t words = word + 1 < 64 ? summary_ & (~0ULL << (word + 1)) : 0;
    if (words == 0) {
      return kNone;
    }
    word = static_cast<uint32_t>(std::countr_zero(words));
    bits = bitmap_[word];
  }
  return bins_[word * 64 + static_cast<uint32_t>(std::countr_zero(bits))];
}

// Cuts a block that is in no bin to `bytes`, and makes a free block of the rest. REQUIRES: it is longer.
void ArenaAllocator::SplitOff(Handle handle, uint64_t bytes) {
  const Handle rest = NewNode();
  Node& node = nodes_[handle];
  Node& tail = nodes_[rest];
  tail.offset = node.offset + bytes;
  tail.bytes = node.bytes - bytes;
  tail.before = handle;
  tail.after = node.after;
  node.bytes = bytes;
  node.after = rest;
  if (tail.after == kNone) {
    last_ = rest;
  } else {
    nodes_[tail.after].before = rest;
  }
  PushFree(rest);
}

}  // namespace hbmesh
