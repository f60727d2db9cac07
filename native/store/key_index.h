// KeyIndex: from a hash to the numbers that were inserted with it: from a key to its object's slot, say. Open
// addressing with linear probing; a removal moves later entries back (no tombstones), so that deleting much never slows
// it down.
//
// It grows with its entries. While it does there are two tables, and each insertion or removal moves a few entries
// over, so that no single one waits for millions.
//
// It holds hashes and numbers; the keys themselves are where the caller says. Thread rule: one thread.
#pragma once

#include <bit>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>

#include "base/check.h"

namespace hbmesh {

class KeyIndex {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  KeyIndex() : now_(kEntriesMin) {}

  // The number for which is(number) is true, among those of this hash; or kNone.
  template <typename Is>
  [[nodiscard]] uint32_t Find(uint64_t hash, Is is) const {
    const auto mark = static_cast<uint32_t>(hash);
    const uint32_t found = now_.Find(mark, is);
    return found != kNone || before_.empty() ? found : before_.Find(mark, is);
  }

  // REQUIRES: this number isn't in.
  void Insert(uint64_t hash, uint32_t number) {
    MoveSome();
    if (before_.empty() && (count_ + 1) * kFullOf > now_.entries() * kFullPart) {
      before_ = std::exchange(now_, Table(now_.entries() * 2));
      moved_ = 0;
      MoveSome();
    }
    now_.Insert(static_cast<uint32_t>(hash), number);
    count_++;
  }

  // REQUIRES: the number was inserted with this hash.
  void Remove(uint64_t hash, uint32_t number) {
    const auto mark = static_cast<uint32_t>(hash);
    if (!now_.Remove(mark, number)) {
      HBMESH_CHECK(!before_.empty() && before_.Remove(mark, number), "removes what was inserted");
    }
    count_--;
    MoveSome();
  }

  [[nodiscard]] uint64_t count() const { return count_; }
  // Memory of the tables.
  [[nodiscard]] uint64_t bytes() const { return (now_.entries() + before_.entries()) * sizeof(Entry); }

 private:
  // At most 3/4 full; a table twice as large is 3/8 full at first.
  static constexpr uint64_t kFullPart = 3;
  static constexpr uint64_t kFullOf = 4;
  static constexpr uint64_t kEntriesMin = 1024;
  // Places that each operation empties: the old table is empty long before the new one is full.
  static constexpr uint64_t kMovesPerTurn = 8;

  struct Entry {
    uint32_t hash;           // the low bits; the home is these, masked
    uint32_t numberPlusOne;  // 0: empty
  };

  class Table {
   public:
    Table() = default;
    // The system gives memory as it is touched. REQUIRES: a power of two.
    explicit Table(uint64_t entries)
        : mask_(entries - 1), entries_(static_cast<Entry*>(std::calloc(entries, sizeof(Entry)))) {
      if (entries_ == nullptr) {
        throw std::bad_alloc();
      }
    }
    [[nodiscard]] bool empty() const { return entries_ == nullptr; }
    [[nodiscard]] uint64_t entries() const { return empty() ? 0 : mask_ + 1; }

    template <typename Is>
    [[nodiscard]] uint32_t Find(uint32_t mark, Is is) const {
      for (uint64_t at = mark & mask_; entries_.get()[at].numberPlusOne != 0; at = (at + 1) & mask_) {
        const Entry entry = entries_.get()[at];
        if (entry.hash == mark && is(entry.numberPlusOne - 1)) {
          return entry.numberPlusOne - 1;
        }
      }
      return kNone;
    }
    // REQUIRES: it isn't full.
    void Insert(uint32_t mark, uint32_t number) {
      uint64_t at = mark & mask_;
      while (entries_.get()[at].numberPlusOne != 0) {
        at = (at + 1) & mask_;
      }
      entries_.get()[at] = {mark, number + 1};
    }
    // False: it isn't in.
    bool Remove(uint32_t mark, uint32_t number) {
      const Entry* entries = entries_.get();
      uint64_t at = mark & mask_;
      while (entries[at].numberPlusOne != number + 1) {
        if (entries[at].numberPlusOne == 0) {
          return false;
        }
        at = (at + 1) & mask_;
      }
      RemoveAt(at);
      return true;
    }
    // Takes the entries of this place out, one after the other, until it is empty.
    void MoveTo(Table* target, uint64_t at) {
      while (entries_.get()[at].numberPlusOne != 0) {
        const Entry entry = entries_.get()[at];
        RemoveAt(at);
        target->Insert(entry.hash, entry.numberPlusOne - 1);
      }
    }

   private:
    struct FreeMemory {
      void operator()(Entry* entries) const { std::free(entries); }
    };

    void RemoveAt(uint64_t hole) {
      Entry* entries = entries_.get();
      // An entry may move back into the hole unless that would put it before its home.
      for (uint64_t at = (hole + 1) & mask_; entries[at].numberPlusOne != 0; at = (at + 1) & mask_) {
        const uint64_t fromHome = (at - (entries[at].hash & mask_)) & mask_;
        if (fromHome >= ((at - hole) & mask_)) {
          entries[hole] = entries[at];
          hole = at;
        }
      }
      entries[hole] = {0, 0};
    }

    uint64_t mask_ = 0;
    std::unique_ptr<Entry, FreeMemory> entries_;
  };

  void MoveSome() {
    for (uint64_t i = 0; i < kMovesPerTurn && !before_.empty(); i++) {
      before_.MoveTo(&now_, moved_++);
      if (moved_ == before_.entries()) {
        before_ = Table();
      }
    }
  }

  Table now_;
  Table before_;        // being emptied into now_
  uint64_t moved_ = 0;  // places of it that are empty
  uint64_t count_ = 0;
};

}  // namespace hbmesh
