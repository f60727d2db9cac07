// LruLists: slots in order of their last use, in several lists; a slot is in one of them or in none. All operations
// take constant time. Private memory. Thread rule: one thread.
#pragma once

#include <array>
#include <cstdint>

#include "base/check.h"
#include "base/growing_array.h"

namespace hbmesh {

class LruLists {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  // By how soon they are evicted; hard pins, held and unfinished objects are in none.
  enum List : uint8_t { kReplicas, kUnpinned, kSoftPinned, kSpilled, kSpilledSoftPinned, kLists, kNoList = 255 };

  explicit LruLists(uint32_t slotsMax) : links_(slotsMax) {}

  // Before slots below `slots` are used.
  void GrowTo(uint32_t slots) { links_.GrowTo(slots); }
  // Memory for the slots so far.
  [[nodiscard]] uint64_t memoryBytes() const { return links_.bytes(); }

  [[nodiscard]] List listOf(uint32_t slot) const { return static_cast<List>(links_[slot].list); }
  [[nodiscard]] uint32_t oldest(List list) const { return ends_[list].oldest; }
  // The next younger one of the same list.
  [[nodiscard]] uint32_t after(uint32_t slot) const { return links_[slot].newer; }
  // Sum of what was given when the slots were put in.
  [[nodiscard]] uint64_t bytes(List list) const { return ends_[list].bytes; }

  // REQUIRES: in no list.
  void PutNewest(List list, uint32_t slot, uint64_t bytes) {
    Ends& ends = Enter(list, slot, bytes);
    links_[slot].older = ends.newest;
    (ends.newest == kNone ? ends.oldest : links_[ends.newest].newer) = slot;
    ends.newest = slot;
  }
  void PutOldest(List list, uint32_t slot, uint64_t bytes) {
    Ends& ends = Enter(list, slot, bytes);
    links_[slot].newer = ends.oldest;
    (ends.oldest == kNone ? ends.newest : links_[ends.oldest].older) = slot;
    ends.oldest = slot;
  }
  // REQUIRES: in a list.
  void Remove(uint32_t slot) {
    Link& link = links_[slot];
    HBMESH_CHECK(link.list != kNoList, "the slot is in a list");
    Ends& ends = ends_[link.list];
    ends.bytes -= link.bytes;
    (link.older == kNone ? ends.oldest : links_[link.older].newer) = link.newer;
    (link.newer == kNone ? ends.newest : links_[link.newer].older) = link.older;
    link = {};
  }

 private:
  struct Link {
    uint32_t older = kNone;
    uint32_t newer = kNone;
    uint64_t bytes : 56 = 0;
    uint64_t list : 8 = kNoList;
  };
  static_assert(sizeof(Link) == 16);
  struct Ends {
    uint32_t oldest = kNone;
    uint32_t newest = kNone;
    uint64_t bytes = 0;
  };

  Ends& Enter(List list, uint32_t slot, uint64_t bytes) {
    HBMESH_CHECK(links_[slot].list == kNoList, "a slot is in one list at most");
    links_[slot].list = list;
    links_[slot].bytes = bytes & ((1ULL << 56) - 1);
    ends_[list].bytes += bytes;
    return ends_[list];
  }

  GrowingArray<Link> links_;  // by slot
  std::array<Ends, kLists> ends_;
};

}  // namespace hbmesh
