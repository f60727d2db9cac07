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
    KeyIndex index(kSlots);
    std::map<uint32_t, uint64_t> model;  // slot -> hash
    for (int step = 0; step < 20'000; step++) {
      const auto slot = static_cast<uint32_t>(random() % kSlots);
      const auto known = model.find(slot);
      if (known == model.end()) {
        // Also near the end of the table, so that probes wrap.
        const uint64_t hash = 254 + random() % hashes;
        index.Insert(hash, slot);
        model[slot] = hash;
      } else {
        index.Remove(known->second, slot);
        model.erase(known);
      }
      const auto asked = static_cast<uint32_t>(random() % kSlots);
      const auto expected = model.find(asked);
      const uint64_t hash = expected == model.end() ? 254 + random() % hashes : expected->second;
      const uint32_t found = index.Find(hash, [&](uint32_t candidate) { return candidate == asked; });
      ASSERT_EQ(found, expected == model.end() ? KeyIndex::kNone : asked) << "step " << step;
    }
  }
}

TEST(KeyIndex, PrintsTheTimeOfALoadThatDeletesMuch) {
  std::mt19937_64 random(testing_support::Seed());
  constexpr uint32_t kSlots = 1 << 16;
  KeyIndex index(kSlots);
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
