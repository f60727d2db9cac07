// KeyIndex: from a key to the slot of its sealed object. Open addressing with linear probing; a removal moves later
// entries back (no tombstones), so that deleting much never slows it down.
//
// It holds hashes and slot numbers; the keys themselves are where the caller says. Thread rule: one thread.
#pragma once

#include <bit>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "base/check.h"

namespace hbmesh {

class KeyIndex {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  // For at most `keysMax` keys, 2^31 at most. Memory is taken from the system as it is touched.
  explicit KeyIndex(uint32_t keysMax)
      : mask_(std::bit_ceil(uint64_t{keysMax} * 2 + 2) - 1),
        entries_(static_cast<Entry*>(std::calloc(mask_ + 1, sizeof(Entry)))) {
    if (entries_ == nullptr) {
      throw std::bad_alloc();
    }
  }

  // The slot for which isKey(slot) is true, among those of this hash; or kNone.
  template <typename IsKey>
  [[nodiscard]] uint32_t Find(uint64_t hash, IsKey isKey) const {
    const auto mark = static_cast<uint32_t>(hash);
    for (uint64_t at = mark & mask_; entries_.get()[at].slotPlusOne != 0; at = (at + 1) & mask_) {
      const Entry entry = entries_.get()[at];
      if (entry.hash == mark && isKey(entry.slotPlusOne - 1)) {
        return entry.slotPlusOne - 1;
      }
    }
    return kNone;
  }

  // REQUIRES: fewer than keysMax keys are in, and this slot isn't.
  void Insert(uint64_t hash, uint32_t slot) {
    const auto mark = static_cast<uint32_t>(hash);
    uint64_t at = mark & mask_;
    while (entries_.get()[at].slotPlusOne != 0) {
      at = (at + 1) & mask_;
    }
    entries_.get()[at] = {mark, slot + 1};
  }

  // REQUIRES: the slot was inserted with this hash.
  void Remove(uint64_t hash, uint32_t slot) {
    Entry* entries = entries_.get();
    uint64_t hole = static_cast<uint32_t>(hash) & mask_;
    while (entries[hole].slotPlusOne != slot + 1) {
      HBMESH_CHECK(entries[hole].slotPlusOne != 0, "removes what was inserted");
      hole = (hole + 1) & mask_;
    }
    // An entry may move back into the hole unless that would put it before its home.
    for (uint64_t at = (hole + 1) & mask_; entries[at].slotPlusOne != 0; at = (at + 1) & mask_) {
      const uint64_t fromHome = (at - (entries[at].hash & mask_)) & mask_;
      if (fromHome >= ((at - hole) & mask_)) {
        entries[hole] = entries[at];
        hole = at;
      }
    }
    entries[hole] = {0, 0};
  }

 private:
  struct Entry {
    uint32_t hash;         // the low bits; the home is these, masked
    uint32_t slotPlusOne;  // 0: empty
  };
  struct FreeMemory {
    void operator()(Entry* entries) const { std::free(entries); }
  };

  uint64_t mask_;
  std::unique_ptr<Entry, FreeMemory> entries_;
};

}  // namespace hbmesh
