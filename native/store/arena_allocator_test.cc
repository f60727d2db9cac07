// Goal: blocks never overlap, nothing is lost, and a request fails only when no gap is large enough.
// Method: random operations against a map of what is taken; then how full an arena gets, and how long an allocation
// takes (printed, not judged).
#include "store/arena_allocator.h"

#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <random>

#include "base/align.h"
#include "base/test_support.h"

namespace hbmesh {
namespace {

using Handle = ArenaAllocator::Handle;

// The taken ranges by offset, and what can be said from them.
struct Model {
  uint64_t arenaBytes;
  std::map<uint64_t, std::pair<uint64_t, Handle>> taken;  // offset -> bytes, handle

  [[nodiscard]] bool Overlaps(uint64_t offset, uint64_t bytes) const {
    const auto next = taken.lower_bound(offset);
    if (next != taken.end() && next->first < offset + bytes) {
      return true;
    }
    return next != taken.begin() && std::prev(next)->first + std::prev(next)->second.first > offset;
  }
  [[nodiscard]] uint64_t LargestGap() const {
    uint64_t largest = 0;
    uint64_t end = 0;
    for (const auto& [offset, block] : taken) {
      largest = std::max(largest, offset - end);
      end = offset + block.first;
    }
    return std::max(largest, arenaBytes - end);
  }
};

TEST(ArenaAllocator, AgreesWithAModelOfRanges) {
  std::mt19937_64 random(testing_support::Seed());
  for (const uint64_t sizeMax : {uint64_t{300}, uint64_t{20'000}, uint64_t{400'000}}) {
    Model model{1 << 20, {}};
    ArenaAllocator arena(model.arenaBytes);
    uint64_t used = 0;
    for (int step = 0; step < 20'000; step++) {
      if (random() % 100 < 55) {
        const uint64_t bytes = 1 + random() % sizeMax;
        const uint64_t taken = AlignUp(bytes, ArenaAllocator::kAlignment);
        const Handle handle = arena.Allocate(bytes);
        if (handle == ArenaAllocator::kNone) {
          ASSERT_LT(model.LargestGap(), taken) << "a gap was overlooked, step " << step;
          continue;
        }
        const auto extent = arena.extent(handle);
        ASSERT_EQ(extent.bytes, taken);
        ASSERT_TRUE(IsAligned(extent.offset, ArenaAllocator::kAlignment));
        ASSERT_LE(extent.offset + extent.bytes, model.arenaBytes);
        ASSERT_FALSE(model.Overlaps(extent.offset, extent.bytes)) << "step " << step;
        model.taken[extent.offset] = {extent.bytes, handle};
        used += taken;
      } else if (!model.taken.empty()) {
        auto chosen = model.taken.lower_bound(random() % model.arenaBytes);
        chosen = chosen == model.taken.end() ? model.taken.begin() : chosen;
        arena.Free(chosen->second.second);
        used -= chosen->second.first;
        model.taken.erase(chosen);
      }
      ASSERT_EQ(arena.usedBytes(), used);
      if (step % 500 == 0) {
        ASSERT_EQ(arena.CheckInvariants(), "");
        ASSERT_EQ(arena.largestFreeBytes(), model.LargestGap());
      }
    }
    // Rebuilt from its extents, it is the same; freed again, it is one piece.
    std::vector<ArenaAllocator::Extent> extents;
    for (const auto& [offset, block] : model.taken) {
      extents.push_back({offset, block.first});
    }
    ArenaAllocator rebuilt(model.arenaBytes);
    const std::vector<Handle> handles = rebuilt.Adopt(extents);
    ASSERT_EQ(handles.size(), extents.size());
    ASSERT_EQ(rebuilt.CheckInvariants(), "");
    EXPECT_EQ(rebuilt.usedBytes(), used);
    for (size_t i = 0; i < handles.size(); i++) {
      EXPECT_EQ(rebuilt.extent(handles[i]).offset, extents[i].offset);
      EXPECT_EQ(rebuilt.extent(handles[i]).bytes, extents[i].bytes);
      rebuilt.Free(handles[i]);
    }
    EXPECT_EQ(rebuilt.CheckInvariants(), "");
    EXPECT_EQ(rebuilt.largestFreeBytes(), model.arenaBytes);
  }
}

TEST(ArenaAllocator, AtItsLimits) {
  ArenaAllocator arena(1000);  // 960 of it
  EXPECT_EQ(arena.arenaBytes(), 960U);
  EXPECT_EQ(arena.Allocate(961), ArenaAllocator::kNone);
  EXPECT_EQ(arena.Allocate(UINT64_MAX), ArenaAllocator::kNone);
  EXPECT_EQ(arena.Allocate(0), ArenaAllocator::kNone);
  const Handle all = arena.Allocate(960);
  ASSERT_NE(all, ArenaAllocator::kNone);
  EXPECT_EQ(arena.largestFreeBytes(), 0U);
  EXPECT_EQ(arena.Allocate(1), ArenaAllocator::kNone);
  arena.Free(all);
  EXPECT_NE(arena.Allocate(1), ArenaAllocator::kNone);
  EXPECT_EQ(arena.usedBytes(), 64U);
  EXPECT_EQ(ArenaAllocator(63).Allocate(1), ArenaAllocator::kNone);
  // 2^56 bytes: the largest sizes have bins too.
  ArenaAllocator vast(1ULL << 56);
  EXPECT_NE(vast.Allocate(1ULL << 56), ArenaAllocator::kNone);
}

TEST(ArenaAllocator, AlignsWhatWantsIt) {
  std::mt19937_64 random(testing_support::Seed());
  ArenaAllocator arena(1 << 20);
  std::vector<Handle> taken;
  for (int step = 0; step < 5'000; step++) {
    const bool aligned = random() % 2 == 0;
    const uint64_t bytes = 1 + random() % 20'000;
    const Handle handle = aligned ? arena.AllocateAligned(bytes, 4096) : arena.Allocate(bytes);
    if (handle != ArenaAllocator::kNone) {
      ASSERT_EQ(arena.extent(handle).bytes, AlignUp(bytes, ArenaAllocator::kAlignment));
      ASSERT_TRUE(!aligned || IsAligned(arena.extent(handle).offset, 4096));
      taken.push_back(handle);
    }
    if (handle == ArenaAllocator::kNone || random() % 3 == 0) {
      const size_t victim = random() % taken.size();
      arena.Free(taken[victim]);
      taken[victim] = taken.back();
      taken.pop_back();
    }
  }
  EXPECT_EQ(arena.CheckInvariants(), "");
  for (const Handle handle : taken) arena.Free(handle);
  EXPECT_EQ(arena.usedBytes(), 0U);
  // All of one size and alignment leave nothing between them.
  for (int i = 0; i < 16; i++) EXPECT_NE(arena.AllocateAligned(64 << 10, 4096), ArenaAllocator::kNone) << i;
  EXPECT_FALSE(arena.HasFree(1));
}

// Of very many blocks only those near the one that is named are walked over, unless there is no run among them.
TEST(ArenaAllocator, LooksForARunNearby) {
  constexpr uint32_t kBlocks = 4 * ArenaAllocator::kWalkMax;
  ArenaAllocator arena(uint64_t{kBlocks} * 64);
  std::vector<Handle> taken;
  for (uint32_t i = 0; i < kBlocks; i++) taken.push_back(arena.Allocate(64));
  uint64_t asked = 0;
  uint64_t cheapFrom = 0;
  const auto cost = [&](Handle at) -> uint64_t {
    asked++;
    const uint64_t offset = arena.extent(at).offset;
    if (offset < cheapFrom) return ArenaAllocator::kBlocked;
    return offset % 640 == 0 ? 1 : 100;
  };
  std::vector<Handle> run;
  ASSERT_TRUE(arena.CheapestRun(128, cost, &run, taken[kBlocks / 2]));
  EXPECT_EQ(run.size(), 2U);
  EXPECT_LE(asked, 2 * ArenaAllocator::kWalkMax) << "not all of them";
  const uint64_t place = arena.extent(run.front()).offset / 64;
  EXPECT_LE(place, kBlocks / 2 + 2);
  EXPECT_GE(place, kBlocks / 2 - ArenaAllocator::kWalkMax);
  // None nearby, and none among the last ones: it is found all the same.
  std::vector<Handle> other;
  const auto oneLeft = [&](Handle at) -> uint64_t {
    return arena.extent(at).offset < 128 ? 1 : ArenaAllocator::kBlocked;
  };
  ASSERT_TRUE(arena.CheapestRun(128, oneLeft, &other, taken[kBlocks - 1]));
  EXPECT_EQ(arena.extent(other.back()).offset, 0U);
}

TEST(ArenaAllocator, PrintsUtilisationAndTime) {
  std::mt19937_64 random(testing_support::Seed());
  struct Load {
    const char* name;
    uint64_t least;
    uint64_t most;
  };
  for (const Load load : {Load{"4 KiB to 64 KiB", 4 << 10, 64 << 10}, Load{"64 KiB to 1 MiB", 64 << 10, 1 << 20},
                          Load{"72 KiB only", 72 << 10, 72 << 10}, Load{"1 MiB to 16 MiB", 1 << 20, 16 << 20}}) {
    ArenaAllocator arena(1000 * load.most);
    std::vector<Handle> taken;
    uint64_t operations = 0;
    double utilisation = 0;
    uint64_t failures = 0;
    const auto start = std::chrono::steady_clock::now();
    // Full, then one freed at random for each that is wanted: the state of a cache that evicts.
    while (operations < 400'000) {
      const uint64_t bytes = load.least + random() % (load.most - load.least + 1);
      const Handle handle = arena.Allocate(bytes);
      operations++;
      if (handle != ArenaAllocator::kNone) {
        taken.push_back(handle);
        continue;
      }
      utilisation += static_cast<double>(arena.usedBytes()) / static_cast<double>(arena.arenaBytes());
      failures++;
      const size_t victim = random() % taken.size();
      arena.Free(taken[victim]);
      operations++;
      taken[victim] = taken.back();
      taken.pop_back();
    }
    const std::chrono::duration<double, std::nano> passed = std::chrono::steady_clock::now() - start;
    std::printf("%-16s %5.1f%% used when full, %4.0f ns an operation\n", load.name,
                100.0 * utilisation / static_cast<double>(failures), passed.count() / static_cast<double>(operations));
    EXPECT_EQ(arena.CheckInvariants(), "");
  }
}

}  // namespace
}  // namespace hbmesh
