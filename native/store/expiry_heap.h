// ExpiryHeap: which slot's time is over first. A binary heap that knows the place of each slot, so that a slot can be
// taken out before its time: no dead entries pile up. O(log n). Private memory. Thread rule: one thread.
#pragma once

#include <cstdint>

#include "base/check.h"
#include "base/growing_array.h"

namespace hbmesh {

class ExpiryHeap {
 public:
  struct Entry {
    uint64_t atMs;
    uint32_t slot;
  };

  explicit ExpiryHeap(uint32_t slotsMax) : entries_(slotsMax), placeOf_(slotsMax) {}

  [[nodiscard]] bool empty() const { return count_ == 0; }
  [[nodiscard]] const Entry& first() const { return entries_[0]; }
  [[nodiscard]] bool contains(uint32_t slot) const { return PlaceOf(slot) != kNone; }
  // Memory so far. What no object with a time to live ever needed takes none.
  [[nodiscard]] uint64_t memoryBytes() const { return entries_.bytes() + placeOf_.bytes(); }

  // REQUIRES: the slot is not in.
  void Insert(uint32_t slot, uint64_t atMs) {
    HBMESH_CHECK(!contains(slot), "a slot expires once");
    placeOf_.GrowTo(uint64_t{slot} + 1);
    entries_.GrowTo(uint64_t{count_} + 1);
    Put(count_++, {atMs, slot});
    Rise(count_ - 1);
  }
  // Nothing if the slot is not in.
  void Remove(uint32_t slot) {
    const uint32_t hole = PlaceOf(slot);
    if (hole == kNone) {
      return;
    }
    placeOf_[slot] = {};
    const Entry last = entries_[--count_];
    if (hole < count_) {
      Put(hole, last);
      Rise(hole);
      Sink(PlaceOf(last.slot));
    }
  }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  struct Place {
    uint32_t place = kNone;
  };

  [[nodiscard]] uint32_t PlaceOf(uint32_t slot) const { return slot < placeOf_.size() ? placeOf_[slot].place : kNone; }
  void Put(uint32_t place, const Entry& entry) {
    entries_[place] = entry;
    placeOf_[entry.slot].place = place;
  }
  void Swap(uint32_t a, uint32_t b) {
    const Entry moved = entries_[a];
    Put(a, entries_[b]);
    Put(b, moved);
  }
  void Rise(uint32_t place) {
    while (place > 0 && entries_[place].atMs < entries_[(place - 1) / 2].atMs) {
      Swap(place, (place - 1) / 2);
      place = (place - 1) / 2;
    }
  }
  void Sink(uint32_t place) {
    while (true) {
      uint32_t least = place;
      for (uint32_t child = 2 * place + 1; child <= 2 * place + 2 && child < count_; child++) {
        least = entries_[child].atMs < entries_[least].atMs ? child : least;
      }
      if (least == place) {
        return;
      }
      Swap(place, least);
      place = least;
    }
  }

  GrowingArray<Entry> entries_;
  GrowingArray<Place> placeOf_;  // by slot
  uint32_t count_ = 0;
};

}  // namespace hbmesh
