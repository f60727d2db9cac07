// ExpiryHeap: which slot's time is over first. A binary heap that knows the place of each slot, so that a slot can be
// taken out before its time: no dead entries pile up. O(log n). Private memory. Thread rule: one thread.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/check.h"

namespace hbmesh {

class ExpiryHeap {
 public:
  struct Entry {
    uint64_t atMs;
    uint32_t slot;
  };

  explicit ExpiryHeap(uint32_t slots) : placeOf_(slots, kNone) {}

  [[nodiscard]] bool empty() const { return entries_.empty(); }
  [[nodiscard]] const Entry& first() const { return entries_.front(); }
  [[nodiscard]] bool contains(uint32_t slot) const { return placeOf_[slot] != kNone; }

  // REQUIRES: the slot is not in.
  void Insert(uint32_t slot, uint64_t atMs) {
    HBMESH_CHECK(!contains(slot), "a slot expires once");
    entries_.push_back({atMs, slot});
    placeOf_[slot] = static_cast<uint32_t>(entries_.size() - 1);
    Rise(placeOf_[slot]);
  }
  // Nothing if the slot is not in.
  void Remove(uint32_t slot) {
    const uint32_t hole = placeOf_[slot];
    if (hole == kNone) {
      return;
    }
    placeOf_[slot] = kNone;
    const Entry last = entries_.back();
    entries_.pop_back();
    if (hole < entries_.size()) {
      Put(hole, last);
      Rise(hole);
      Sink(placeOf_[last.slot]);
    }
  }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;

  void Put(uint32_t place, const Entry& entry) {
    entries_[place] = entry;
    placeOf_[entry.slot] = place;
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
      for (uint32_t child = 2 * place + 1; child <= 2 * place + 2 && child < entries_.size(); child++) {
        least = entries_[child].atMs < entries_[least].atMs ? child : least;
      }
      if (least == place) {
        return;
      }
      Swap(place, least);
      place = least;
    }
  }

  std::vector<Entry> entries_;
  std::vector<uint32_t> placeOf_;  // by slot
};

}  // namespace hbmesh
