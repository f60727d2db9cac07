// Goal: of small objects too bytes are the limit, in memory and on the SSD tier, and what the arena has of each object
// on the tier leaves room for others. Method: an arena of 256 KiB and tiers that hold more or fewer objects than that;
// far more objects than either holds, with room asked for before each as the sidecar does.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <mutex>

#include "base/test_support.h"
#include "store/spiller.h"

namespace hbmesh {
namespace {

using testing_support::Pattern;

constexpr uint64_t kArena = 256 << 10;

class SpillerSmallTest : public ::testing::Test {
 protected:
  SpillerSmallTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "hbmesh-small-XXXXXX").string();
    directory_ = ::mkdtemp(pattern.data());
  }
  ~SpillerSmallTest() override {
    spiller_.reset();
    std::filesystem::remove_all(directory_);
  }
  void Open(uint64_t tierBytes) {
    ASSERT_TRUE(ObjectStore::Create({.arenaBytes = kArena}, &store_).ok());
    store_->SetClock(&clock_);
    const auto wake = [this] {
      const std::lock_guard lock(mutex_);
      signalled_ = true;
      changed_.notify_all();
    };
    ASSERT_TRUE(Spiller::Open({.directory = directory_, .bytesMax = tierBytes}, *store_, {}, wake, &spiller_).ok());
  }
  void RunAll() {
    while (!spiller_->idle()) {
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return signalled_; });
        signalled_ = false;
      }
      spiller_->Poll();
    }
  }
  void PutMany(int count, uint64_t bytes) {
    for (int i = 0; i < count; i++) {
      spiller_->MakeRoom(bytes + 1'024, 0, [] {});
      RunAll();
      ObjectView view;
      const uint64_t sizes[] = {bytes};
      ASSERT_TRUE(store_->Allocate("key" + std::to_string(i), sizes, &view).ok());
      const auto pattern = Pattern(++generation_, bytes);
      std::memcpy(view.payload, pattern.data(), bytes);
      store_->MarkWritten(view.slot, generation_);
      store_->Seal(view.slot, clock_.NowMs());
      indexMax_ = std::max(indexMax_, store_->usage().spilledIndexBytes);
    }
  }
  void PushOut() {
    spiller_->MakeRoom(kArena, 0, [] {});
    RunAll();
  }
  // In memory or from the tier, with its bytes.
  void ExpectWhole(const std::string& key) {
    const auto found = store_->FindSealed(key);
    ASSERT_TRUE(found.has_value()) << key << ": " << store_->Explain(key).reason;
    bool told = false;
    spiller_->BringBack(found->slot, found->generation, [&](const Status& status, const ObjectView* object) {
      ASSERT_TRUE(status.ok()) << status.ToString();
      const auto bytes = Pattern(object->generation, object->payloadBytes);
      EXPECT_EQ(std::memcmp(object->payload, bytes.data(), bytes.size()), 0) << key;
      told = true;
    });
    RunAll();
    EXPECT_TRUE(told) << key;
  }

  std::string directory_;
  ManualClock clock_{1'000'000'000};
  std::mutex mutex_;
  std::condition_variable changed_;
  bool signalled_ = false;
  uint64_t generation_ = 0;
  uint64_t indexMax_ = 0;
  std::unique_ptr<ObjectStore> store_;
  std::unique_ptr<Spiller> spiller_;
};

// Issue 11: the number of objects was the limit, and 1 KiB took 4 KiB of the SSD.
TEST_F(SpillerSmallTest, BytesAreTheLimit) {
  Open(256 << 10);
  PutMany(600, 1'024);
  EXPECT_GE(spiller_->usage().usedBytes, (256U << 10) - 2 * 4096);
  EXPECT_GE(store_->usage().spilledBytes, spiller_->usage().usedBytes * 9 / 10);
  EXPECT_EQ(store_->usage().evictedBy[static_cast<uint32_t>(EvictCause::kTableFull)], 0U);
  EXPECT_EQ(store_->usage().evictedBy[static_cast<uint32_t>(EvictCause::kMemoryFull)], 0U);
  EXPECT_EQ(store_->Explain("key0").lastEnding->cause, EvictCause::kTierFull);
  ExpectWhole("key599");
  ExpectWhole("key300");
}

TEST_F(SpillerSmallTest, TheIndexOfTheTierTakesHalfOfMemoryAtMost) {
  Open(4 << 20);
  PutMany(4'000, 256);
  const uint64_t slack = 64 * 64;  // of what was being written when the limit was reached
  EXPECT_LE(indexMax_, kArena / 2 + slack);
  EXPECT_GE(indexMax_, kArena / 2 - slack) << "and that much";
  const Explanation gone = store_->Explain("key0");
  ASSERT_TRUE(gone.lastEnding.has_value());
  EXPECT_EQ(gone.lastEnding->cause, EvictCause::kTierIndexFull);
  EXPECT_NE(gone.reason.find("took half of it; start the worker with a larger arena"), std::string::npos)
      << gone.reason;
  ExpectWhole("key3999");
  ExpectWhole("key3000");
}

// Packed records end at multiples of 64, and a large one begins at a multiple of 4,096: the place that is made for it
// must reach, also where the one before it left a free piece that is long enough, but not aligned.
TEST_F(SpillerSmallTest, LargeObjectsFindPlaceAmongSmallOnes) {
  constexpr uint64_t kLarge = 70 << 10;
  Open(512 << 10);
  PutMany(800, 1'024);
  PushOut();
  ASSERT_GE(spiller_->usage().usedBytes, (512U << 10) - 2 * 4096) << "it is full";
  for (const std::string key : {"large0", "large1", "large2"}) {
    const uint64_t sizes[] = {kLarge};
    const uint64_t extentBytes = ObjectStore::ExtentBytes(key, sizes);
    spiller_->MakeRoom(extentBytes, extentBytes, [] {});
    RunAll();
    ObjectView view;
    ASSERT_TRUE(store_->Allocate(key, sizes, &view).ok());
    const auto pattern = Pattern(++generation_, kLarge);
    std::memcpy(view.payload, pattern.data(), kLarge);
    store_->MarkWritten(view.slot, generation_);
    store_->Seal(view.slot, clock_.NowMs());
    PushOut();
    const auto found = store_->FindSealed(key);
    ASSERT_TRUE(found.has_value()) << key << ": " << store_->Explain(key).reason;
    EXPECT_EQ(found->state, SlotState::kSpilled) << key;
  }
  for (const char* key : {"large0", "large1", "large2"}) ExpectWhole(key);
}

}  // namespace
}  // namespace hbmesh
