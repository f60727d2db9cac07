// Goal: the index finds exactly what is in it, also where hashes collide, and deleting much doesn't slow it down.
// Method: against std::map, with few different hashes so that probes are long and wrap; then a long load of insertions
// and removals whose time is printed at its beginning and its end.
#include "store/key_index.h"

#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <random>

#include "base/test_support.h"

namespace hbmesh {
namespace {

TEST(KeyIndex, AgreesWithAMapWhereHashesCollide) {
  std::mt19937_64 random(testing_support::Seed());
  for (const uint64_t hashes : {uint64_t{1}, uint64_t{5}, uint64_t{200}, UINT64_MAX}) {
    constexpr uint32_t kSlots = 100;
    KeyIndex index;
    std::map<uint32_t, uint64_t> model;  // slot -> hash
    for (int step = 0; step < 20'000; step++) {
      const auto slot = static_cast<uint32_t>(random() % kSlots);
      const auto known = model.find(slot);
      if (known == model.end()) {
        // Also near the end of the table, so that probes wrap.
        const uint64_t hash = 1'022 + random() % hashes;
        index.Insert(hash, slot);
        model[slot] = hash;
      } else {
        index.Remove(known->second, slot);
        model.erase(known);
      }
      const auto asked = static_cast<uint32_t>(random() % kSlots);
      const auto expected = model.find(asked);
      const uint64_t hash = expected == model.end() ? 1'022 + random() % hashes : expected->second;
      const uint32_t found = index.Find(hash, [&](uint32_t candidate) { return candidate == asked; });
      ASSERT_EQ(found, expected == model.end() ? KeyIndex::kNone : asked) << "step " << step;
    }
  }
}

// While a table is emptied into the next one, entries are in either.
TEST(KeyIndex, FindsEverythingWhileItGrows) {
  std::mt19937_64 random(testing_support::Seed());
  KeyIndex index;
  std::vector<std::pair<uint32_t, uint64_t>> in;  // number, hash
  const auto find = [&](uint32_t number, uint64_t hash) {
    return index.Find(hash, [&](uint32_t candidate) { return candidate == number; });
  };
  for (uint32_t number = 0; number < 100'000; number++) {
    // Also many of few hashes, and homes at the table's end.
    const uint64_t hash = number % 50 == 0 ? UINT32_MAX - number % 7 : random();
    index.Insert(hash, number);
    in.emplace_back(number, hash);
    if (number % 3 == 0) {
      const size_t at = random() % in.size();
      index.Remove(in[at].second, in[at].first);
      ASSERT_EQ(find(in[at].first, in[at].second), KeyIndex::kNone);
      in[at] = in.back();
      in.pop_back();
    }
    if (!in.empty()) {
      const auto& [asked, itsHash] = in[random() % in.size()];
      ASSERT_EQ(find(asked, itsHash), asked) << "after " << number;
    }
  }
  EXPECT_EQ(index.count(), in.size());
  for (const auto& [number, hash] : in) {
    ASSERT_EQ(find(number, hash), number);
  }
  EXPECT_LE(index.bytes(), 24 * in.size() + 24 * in.size());
}

TEST(KeyIndex, PrintsTheTimeOfALoadThatDeletesMuch) {
  std::mt19937_64 random(testing_support::Seed());
  constexpr uint32_t kSlots = 1 << 16;
  KeyIndex index;
  std::vector<uint64_t> hashes(kSlots);
  for (uint32_t slot = 0; slot < kSlots; slot++) {
    hashes[slot] = random();
    index.Insert(hashes[slot], slot);
  }
  for (int round = 0; round < 8; round++) {
    const auto start = std::chrono::steady_clock::now();
    for (uint32_t slot = 0; slot < kSlots; slot++) {
      index.Remove(hashes[slot], slot);
      ASSERT_EQ(index.Find(hashes[slot], [&](uint32_t found) { return found == slot; }), KeyIndex::kNone);
      hashes[slot] = random();
      index.Insert(hashes[slot], slot);
    }
    const std::chrono::duration<double, std::nano> passed = std::chrono::steady_clock::now() - start;
    if (round == 0 || round == 7) {
      std::printf("round %d: %.0f ns for a removal, a miss and an insertion\n", round, passed.count() / kSlots);
    }
  }
}

}  // namespace
}  // namespace hbmesh
