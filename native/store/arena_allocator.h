// ArenaAllocator: gives out ranges of an arena that it never touches. Two-level segregated fit: free blocks are kept by
// size in bins, 32 for each power of two, with a bitmap over them, and are merged with their free neighbours at once.
// Allocate and Free take constant time.
//
// All of its memory is private; the owner of the arena records the extents and rebuilds the allocator with Adopt.
// Offsets and sizes are multiples of kAlignment. Thread rule: one thread.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/growing_array.h"

namespace hbmesh {

class ArenaAllocator {
 public:
  static constexpr uint64_t kAlignment = 64;

  // Names a block that is taken. Small numbers, used again after Free.
  using Handle = uint32_t;
  static constexpr Handle kNone = UINT32_MAX;

  struct Extent {
    uint64_t offset;
    uint64_t bytes;
  };

  // An arena of `bytes`, rounded down to the alignment, all free.
  explicit ArenaAllocator(uint64_t bytes);

  // Marks the extents as taken and tells their handles, in the same order.
  // REQUIRES: nothing was allocated; sorted by offset, aligned, inside of the arena, not overlapping, bytes > 0.
  [[nodiscard]] std::vector<Handle> Adopt(std::span<const Extent> taken);

  // Takes `bytes`, rounded up to the alignment. kNone: no free block is large enough. REQUIRES: bytes > 0.
  [[nodiscard]] Handle Allocate(uint64_t bytes);
  // The same at a multiple of `alignment`. REQUIRES: that is a power of two, not below kAlignment.
  [[nodiscard]] Handle AllocateAligned(uint64_t bytes, uint64_t alignment);
  // Whether Allocate would find so much. Constant time, unlike largestFreeBytes: of very many free blocks that are a
  // little smaller only the first ones are looked at.
  [[nodiscard]] bool HasFree(uint64_t bytes) const;
  // The same, but looks at all of them, and what it finds is what Allocate looks at first.
  [[nodiscard]] bool BringForward(uint64_t bytes);
  void Free(Handle handle);

  [[nodiscard]] Extent extent(Handle handle) const { return {nodes_[handle].offset, nodes_[handle].bytes}; }
  // What would be free in one piece if this block were: with the free neighbours.
  [[nodiscard]] Extent Piece(Handle handle) const;
  [[nodiscard]] uint64_t arenaBytes() const { return arenaBytes_; }
  [[nodiscard]] uint64_t usedBytes() const { return usedBytes_; }
  [[nodiscard]] uint64_t freeBytes() const { return arenaBytes_ - usedBytes_; }
  // What lies in a taken block, for CheapestRun: any number of the caller's; kNone until it is set.
  void SetOwner(Handle handle, uint32_t owner) { nodes_[handle].owner = owner; }
  [[nodiscard]] uint32_t owner(Handle handle) const { return nodes_[handle].owner; }
  // Neighbours that together, if they were free, would make a block of `bytes`: of all such runs one with the least sum
  // of costOf over its taken blocks, which are told in *taken. A block that costs kBlocked is never part. False: there
  // is no such run. Empty: a free block is large enough, which Allocate may not have found (HasFree).
  //
  // Up to kWalkMax blocks are walked over. Of more than that it is the cheapest of those around `near` (a taken block,
  // or kNone), and only if there is none among them all are walked over.
  static constexpr uint64_t kBlocked = UINT64_MAX;
  static constexpr uint64_t kWalkMax = 1U << 16;
  [[nodiscard]] bool CheapestRun(uint64_t bytes, const std::function<uint64_t(Handle)>& costOf,
                                 std::vector<Handle>* taken, Handle near = kNone) const;

  // *range is a piece of `bytes` that begins with these neighbours, or the free block before them; takes the free
  // blocks of it, so that nothing else goes there. REQUIRES: a run that CheapestRun told for these bytes, not empty;
  // nothing was freed.
  [[nodiscard]] std::vector<Handle> TakeFreeOf(std::span<const Handle> run, uint64_t bytes, Extent* range);

  // Memory of the allocator's own structures.
  [[nodiscard]] uint64_t memoryBytes() const { return nodes_.bytes(); }
  // Exact; walks the bin of the largest blocks. For messages, not for the hot path.
  [[nodiscard]] uint64_t largestFreeBytes() const;

  // "" or what is wrong with the allocator's own structures. Walks everything; for tests.
  [[nodiscard]] std::string CheckInvariants() const;

 private:
  struct Node {
    uint64_t offset = 0;
    uint64_t bytes = 0;
    Handle before = kNone;  // neighbours in the arena
    Handle after = kNone;
    Handle previous = kNone;  // neighbours in the bin, while free; `next` also chains unused nodes
    Handle next = kNone;
    uint32_t owner = kNone;
    bool isFree = false;
  };

  static constexpr uint32_t kSubBits = 5;  // 32 bins for each power of two: at most 1/32 over the size is searched past
  static constexpr uint32_t kBins = (64 - kSubBits) << kSubBits;
  static constexpr uint32_t kWords = (kBins + 63) / 64;
  static_assert(kWords <= 64, "one summary word covers the bitmap");

  [[nodiscard]] static uint32_t BinOf(uint64_t units);
  [[nodiscard]] bool RunFrom(Handle high, uint64_t walkMax, uint64_t bytes,
                             const std::function<uint64_t(Handle)>& costOf, std::vector<Handle>* taken) const;
  [[nodiscard]] Handle NewNode();
  void DeleteNode(Handle handle);
  void PushFree(Handle handle);
  void PopFree(Handle handle);
  [[nodiscard]] Handle FindFree(uint64_t bytes) const;
  [[nodiscard]] Handle FindInBin(uint32_t bin, uint64_t bytes, uint32_t tries) const;
  [[nodiscard]] Handle FindInBinsFrom(uint32_t bin) const;
  void SplitOff(Handle handle, uint64_t bytes);

  uint64_t arenaBytes_;
  uint64_t usedBytes_ = 0;
  GrowingArray<Node> nodes_;
  Handle nodesMade_ = 0;  // nodes from here on were never used
  Handle unusedNodes_ = kNone;
  uint64_t blocks_ = 0;  // nodes in use
  Handle last_ = kNone;  // the block at the arena's end
  std::array<Handle, kBins> bins_;
  std::array<uint64_t, kWords> bitmap_{};  // bit: the bin has a block
  uint64_t summary_ = 0;                   // bit: the bitmap's word isn't 0
};

}  // namespace hbmesh
