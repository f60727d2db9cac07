// Goal: a full tier makes place for a large object with as little loss as it can, prefers what was not used for
// longest, spares soft pins and what is held, and drops nothing that would not help. Method: a tier of known records,
// all places next to each other in the order of their writing; then one more object is pushed out of memory, and
// what ended is told by key. Objects are used in another order than they lie. Prints its seed.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <random>

#include "base/test_support.h"
#include "store/spiller.h"

namespace hbmesh {
namespace {

using testing_support::Pattern;

constexpr uint64_t kArena = 4 << 20;
constexpr uint64_t kBlocks = 64;  // of the tier, beside its header
constexpr uint64_t kBlock = kSpillBlockBytes;
constexpr uint64_t kPayload = kBlock - sizeof(SpillFooter);  // fills one block

class SpillerPlaceTest : public ::testing::Test {
 protected:
  SpillerPlaceTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "hbmesh-place-XXXXXX").string();
    directory_ = ::mkdtemp(pattern.data());
  }
  ~SpillerPlaceTest() override {
    spiller_.reset();
    std::filesystem::remove_all(directory_);
  }
  void SetUp() override {
    ASSERT_TRUE(ObjectStore::Create({.arenaBytes = kArena, .slots = 4000}, &store_).ok());
    Open();
  }
  void Open() {
    store_->SetClock(&clock_);
    const auto wake = [this] {
      const std::lock_guard lock(mutex_);
      signalled_ = true;
      changed_.notify_all();
    };
    ASSERT_TRUE(
        Spiller::Open({.directory = directory_, .bytesMax = (1 + kBlocks) * kBlock}, *store_, note_, wake, &spiller_)
            .ok());
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
  // A record of as many blocks.
  void Put(const std::string& key, uint64_t blocks, Pin pin = Pin::kNone) {
    ObjectView view;
    const uint64_t sizes[] = {(blocks - 1) * kBlock + kPayload};
    ASSERT_TRUE(store_->Allocate(key, sizes, &view, {.pin = pin}).ok());
    const auto pattern = Pattern(++generation_, sizes[0]);
    std::memcpy(view.payload, pattern.data(), sizes[0]);
    store_->MarkWritten(view.slot, generation_);
    store_->Seal(view.slot, clock_.NowMs());
  }
  // Everything that is in memory and can go, one after the other.
  void PushOut() {
    spiller_->MakeRoom(kArena, 0, [] {});
    RunAll();
  }
  // `count` records of one block, key0 first in the file.
  void Fill(uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
      Put("key" + std::to_string(i), 1);
      PushOut();
    }
    ASSERT_EQ(store_->usage().spilledObjects, count);
    ASSERT_TRUE(ended_.empty());
  }
  ObjectView Find(const std::string& key) { return store_->FindSealed(key).value_or(ObjectView{}); }
  void Use(uint64_t number) { store_->Touch(Find("key" + std::to_string(number)).slot); }
  uint64_t PlaceOf(const std::string& key) { return store_->SlotAt(Find(key).slot).spillOffset / kBlock; }
  void ExpectWhole(const std::string& key) {
    const ObjectView found = Find(key);
    bool told = false;
    spiller_->BringBack(found.slot, found.generation, [&](const Status& status, const ObjectView* object) {
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
  std::vector<std::string> ended_;
  const EndedSink note_ = [this](const EndedObject& ended) {
    EXPECT_EQ(ended.reason, EndReason::kEvicted) << ended.key;
    ended_.emplace_back(ended.key);
  };
  uint64_t generation_ = 0;
  std::unique_ptr<ObjectStore> store_;
  std::unique_ptr<Spiller> spiller_;
};

TEST_F(SpillerPlaceTest, ALargeObjectTakesNeighboursAndNoMoreThanItNeeds) {
  std::mt19937_64 random(testing_support::Seed());
  for (const uint64_t blocks : {1, 2, 15, 16, 63, 64}) {
    SCOPED_TRACE(blocks);
    Fill(kBlocks);
    std::vector<uint64_t> order(kBlocks);
    for (uint64_t i = 0; i < kBlocks; i++) order[i] = i;
    std::shuffle(order.begin(), order.end(), random);
    for (const uint64_t number : order) Use(number);
    Put("large", blocks);
    PushOut();
    EXPECT_EQ(Find("large").state, SlotState::kSpilled);
    EXPECT_EQ(ended_.size(), blocks);
    EXPECT_EQ(spiller_->usage().usedBytes, kBlocks * kBlock);
    if (blocks == 1) {
      EXPECT_EQ(ended_[0], "key" + std::to_string(order[0])) << "one that is enough by itself: the oldest";
    }
    ExpectWhole("large");
    for (uint64_t i = 0; i < kBlocks; i++) {
      const std::string key = "key" + std::to_string(i);
      if (std::find(ended_.begin(), ended_.end(), key) == ended_.end()) ExpectWhole(key);
    }
    for (uint64_t i = 0; i < kBlocks; i++) (void)store_->Drop(Find("key" + std::to_string(i)).slot, 0);
    ASSERT_TRUE(store_->Drop(Find("large").slot, 0).ok());
    ASSERT_EQ(spiller_->usage().usedBytes, 0U);
    ended_.clear();
  }
}

TEST_F(SpillerPlaceTest, OfAllNeighboursTheLeastUsedGo) {
  Fill(kBlocks);
  for (uint64_t i = 0; i < kBlocks; i++) {
    if (i < 20 || i >= 24) Use(i);  // 20 to 23 are the oldest, then 0, 1, ...
  }
  Put("large", 4);
  PushOut();
  std::sort(ended_.begin(), ended_.end());
  EXPECT_EQ(ended_, (std::vector<std::string>{"key20", "key21", "key22", "key23"}));
  EXPECT_EQ(PlaceOf("large"), 21U) << "after the file's header";
}

TEST_F(SpillerPlaceTest, SoftPinsGoOnlyWhereNothingElseMakesThePlace) {
  for (uint64_t i = 0; i < kBlocks; i++) {
    Put("key" + std::to_string(i), 1, i % 8 == 0 ? Pin::kSoft : Pin::kNone);
    PushOut();
  }
  Put("fits", 7);
  PushOut();
  EXPECT_EQ(ended_.size(), 7U);
  for (uint64_t i = 0; i < kBlocks; i += 8) EXPECT_EQ(Find("key" + std::to_string(i)).state, SlotState::kSpilled);
  ended_.clear();
  Put("takes one", 8);
  PushOut();
  EXPECT_EQ(Find("takes one").state, SlotState::kSpilled);
  uint64_t soft = 0;
  for (uint64_t i = 0; i < kBlocks; i += 8) soft += Find("key" + std::to_string(i)).generation != 0 ? 1 : 0;
  EXPECT_EQ(soft, kBlocks / 8 - 1);
}

TEST_F(SpillerPlaceTest, NothingIsDroppedWhereNothingWouldHelp) {
  Fill(kBlocks);
  std::vector<uint32_t> held;
  for (uint64_t i = 7; i < kBlocks; i += 8) {
    held.push_back(Find("key" + std::to_string(i)).slot);
    store_->Hold(held.back());
  }
  Put("large", 8);
  PushOut();
  EXPECT_EQ(ended_, std::vector<std::string>{"large"}) << "eight in a row with none that is held: there are seven";
  Put("fits", 7);
  PushOut();
  EXPECT_EQ(Find("fits").state, SlotState::kSpilled);
  EXPECT_EQ(ended_.size(), 1U + 7U);
  for (const uint32_t slot : held) {
    EXPECT_EQ(store_->SlotAt(slot).state, static_cast<uint32_t>(SlotState::kSpilled));
    store_->Release(slot);
  }
  Put("large", 8);
  PushOut();
  EXPECT_EQ(Find("large").state, SlotState::kSpilled);
  EXPECT_LE(ended_.size(), 1U + 7U + 8U);
}

TEST_F(SpillerPlaceTest, AnAdoptedTierKnowsWhatLiesWhere) {
  Fill(kBlocks);
  spiller_->Keep(true);
  spiller_.reset();
  Fd memory(::fcntl(store_->memoryFd(), F_DUPFD_CLOEXEC, 0));
  ASSERT_TRUE(ObjectStore::Adopt(std::move(memory), &store_).ok());
  Open();
  Put("large", 32);
  PushOut();
  EXPECT_EQ(Find("large").state, SlotState::kSpilled);
  EXPECT_EQ(ended_.size(), 32U);
}

}  // namespace
}  // namespace hbmesh
