// Goal: objects that left memory are found and come back with their bytes, through replace, delete, expiry, faults and
// a kill; what can't come back is gone with its reason, never other bytes. Method: a store of 256 KiB over a tier, with
// a loop turned by the test; each promise of spiller.h by itself over both kinds of I/O, then random operations, then a
// process that is killed while it works.
#include "store/spiller.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <random>

#include "base/test_support.h"

namespace hbmesh {
namespace {

using testing_support::Pattern;

constexpr uint64_t kArena = 256 << 10;

struct TestDirectory {
  TestDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "hbmesh-spiller-XXXXXX").string();
    path = ::mkdtemp(pattern.data());
  }
  ~TestDirectory() { std::filesystem::remove_all(path); }
  [[nodiscard]] size_t files() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(path), {}));
  }
  std::string path;
};

// Lets the loop wait for the tier's threads.
class Wake {
 public:
  void Signal() {
    const std::lock_guard lock(mutex_);
    signalled_ = true;
    changed_.notify_all();
  }
  void Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return signalled_; });
    signalled_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool signalled_ = false;
};

bool HasPattern(const ObjectView& view, uint64_t id) {
  const auto bytes = Pattern(id, view.payloadBytes);
  return view.payload != nullptr && std::memcmp(view.payload, bytes.data(), bytes.size()) == 0;
}

class SpillerTest : public ::testing::TestWithParam<SpillOptions::Io> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(ObjectStore::Create({.arenaBytes = kArena}, &store_).ok());
    store_->SetClock(&clock_);
  }
  Status Open(uint64_t bytesMax) {
    return Spiller::Open(
        {.directory = directory_.path, .bytesMax = bytesMax, .io = GetParam(), .chunkBytes = 8 << 10, .fault = fault_},
        *store_, note_, [this] { wake_.Signal(); }, &spiller_);
  }
  void OpenOrSkip(uint64_t bytesMax) {
    const Status status = Open(bytesMax);
    if (status.code() == StatusCode::kNotSupported) {
      GTEST_SKIP() << status.ToString();
    }
    ASSERT_TRUE(status.ok()) << status.ToString();
  }
  void RunAll() {
    while (!spiller_->idle()) {
      wake_.Wait();
      spiller_->Poll();
    }
  }
  void Put(const std::string& key, uint64_t bytes, const ObjectAttributes& attributes = {}) {
    ObjectView view;
    const uint64_t sizes[] = {bytes};
    const Status status = store_->Allocate(key, sizes, &view, attributes, &note_);
    ASSERT_TRUE(status.ok()) << status.ToString();
    const auto pattern = Pattern(++generation_, bytes);
    std::memcpy(view.payload, pattern.data(), bytes);
    store_->MarkWritten(view.slot, generation_);
    store_->Seal(view.slot, clock_.NowMs());
  }
  // 24 objects of 10,000 bytes: above the high watermark; the first ones are spilled.
  void FillAndSpill(const ObjectAttributes& attributes = {}) {
    for (int i = 0; i < 24; i++) {
      Put("key" + std::to_string(i), 10'000, attributes);
    }
    spiller_->Balance();
    RunAll();
  }
  ObjectView Find(const std::string& key) { return store_->FindSealed(key).value_or(ObjectView{}); }
  Status BringBack(const std::string& key) {
    const ObjectView found = Find(key);
    Status told(StatusCode::kNotFound, "never called");
    spiller_->BringBack(found.slot, found.generation, [&](const Status& status, const ObjectView* object) {
      told = status;
      EXPECT_EQ(status.ok(), object != nullptr);
      if (object != nullptr) {
        EXPECT_EQ(object->state, SlotState::kSealed);
        EXPECT_TRUE(HasPattern(*object, object->generation));
      }
    });
    RunAll();
    return told;
  }
  size_t EndedBy(EndReason reason) const {
    return static_cast<size_t>(
        std::count_if(ended_.begin(), ended_.end(), [&](const auto& ended) { return ended.second == reason; }));
  }

  TestDirectory directory_;
  ManualClock clock_{1'000'000'000};
  Wake wake_;
  SpillFault fault_;
  std::unique_ptr<ObjectStore> store_;
  std::vector<std::pair<std::string, EndReason>> ended_;
  const EndedSink note_ = [this](const EndedObject& ended) { ended_.emplace_back(ended.key, ended.reason); };
  uint64_t generation_ = 0;
  std::unique_ptr<Spiller> spiller_;
};

TEST_P(SpillerTest, WhatMakesRoomIsFoundAndComesBack) {
  OpenOrSkip(4 << 20);
  if (IsSkipped()) return;
  FillAndSpill({.ttlMs = 500});
  const StoreUsage usage = store_->usage();
  EXPECT_LE(usage.usedBytes, store_->lowWatermark());
  EXPECT_EQ(usage.objects, 24U);
  EXPECT_EQ(usage.spilledObjects, 4U);
  EXPECT_EQ(usage.spilledBytes, 40'000U);
  EXPECT_EQ(usage.heldBytes, 0U);
  EXPECT_TRUE(ended_.empty());
  EXPECT_EQ(spiller_->usage().usedBytes, 4 * SpillRecordBytes(10'000));

  const ObjectView spilled = Find("key0");
  EXPECT_EQ(spilled.state, SlotState::kSpilled);
  EXPECT_EQ(spilled.payload, nullptr);
  EXPECT_EQ(spilled.payloadBytes, 10'000U);
  EXPECT_EQ(spilled.generation, 1U);
  EXPECT_EQ(spilled.expiresAtMs, 1500U);
  ObjectView bySlot;
  EXPECT_EQ(store_->FindSlot(spilled.slot, 1, &bySlot).code(), StatusCode::kNotReady);
  EXPECT_EQ(bySlot.blobSizes[0], 10'000U);
  const Explanation told = store_->Explain("key0");
  EXPECT_EQ(told.where, Explanation::Where::kSpilled);
  EXPECT_EQ(told.lastEnding->reason, EndReason::kSpilled);
  EXPECT_EQ(told.reason, "on the SSD tier: dropped when the tier is full and it is the least recently used there");

  for (int i = 0; i < 4; i++) {
    EXPECT_TRUE(BringBack("key" + std::to_string(i)).ok());
  }
  EXPECT_EQ(Find("key0").slot, spilled.slot) << "its owner's record stays right";
  EXPECT_EQ(Find("key0").expiresAtMs, 1500U);
  EXPECT_EQ(store_->usage().broughtBack, 4U);
  EXPECT_TRUE(BringBack("key23").ok()) << "it was in memory all the time";
}

TEST_P(SpillerTest, ManyMoreThanMemoryAllComeBack) {
  OpenOrSkip(4 << 20);
  if (IsSkipped()) return;
  for (int i = 0; i < 150; i++) {
    bool room = false;
    spiller_->MakeRoom(12'000, 0, [&] { room = true; });
    RunAll();
    ASSERT_TRUE(room);
    Put("key" + std::to_string(i), 10'000);
  }
  EXPECT_TRUE(ended_.empty());
  for (int round = 0; round < 2; round++) {
    for (int i = 0; i < 150; i++) {
      const Status status = BringBack("key" + std::to_string(i));
      ASSERT_TRUE(status.ok()) << status.ToString() << " " << i;
    }
  }
  EXPECT_TRUE(ended_.empty());
  EXPECT_EQ(store_->usage().objects, 150U);
}

TEST_P(SpillerTest, OneReadServesAllWhoAskAndForgettingIsSafe) {
  OpenOrSkip(4 << 20);
  if (IsSkipped()) return;
  FillAndSpill();
  const ObjectView found = Find("key0");
  int calls = 0;
  for (int i = 0; i < 3; i++) {
    spiller_->BringBack(found.slot, found.generation, [&](const Status& status, const ObjectView*) {
      EXPECT_TRUE(status.ok());
      calls++;
    });
  }
  spiller_->Forget(spiller_->BringBack(found.slot, found.generation,
                                       [&](const Status&, const ObjectView*) { ADD_FAILURE() << "it was forgotten"; }));
  RunAll();
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(store_->usage().broughtBack, 1U);
}

TEST_P(SpillerTest, TheTierIsBoundedAndDropsTheLeastRecentlyUsed) {
  OpenOrSkip(10 * 12'288 + 4096);
  if (IsSkipped()) return;
  for (int i = 0; i < 60; i++) {
    spiller_->MakeRoom(12'000, 0, [] {});
    RunAll();
    Put("key" + std::to_string(i), 10'000);
    ASSERT_LE(spiller_->usage().usedBytes, 10U * 12'288);
  }
  ASSERT_FALSE(ended_.empty());
  for (size_t i = 0; i < ended_.size(); i++) {
    EXPECT_EQ(ended_[i], std::pair("key" + std::to_string(i), EndReason::kEvicted));
  }
  EXPECT_EQ(store_->usage().spilledObjects, 10U * 12'288 / SpillRecordBytes(10'000));
  EXPECT_EQ(store_->Explain("key0").lastEnding->cause, EvictCause::kTierFull);
  EXPECT_NE(
      store_->Explain("key0").reason.find("memory and SSD tier were full; start the worker with a larger --spill_mb"),
      std::string::npos)
      << store_->Explain("key0").reason;
  Put("huge", 200'000);
  ended_.clear();
  spiller_->MakeRoom(kArena, 0, [] {});
  RunAll();
  EXPECT_EQ(Find("huge").generation, 0U) << "larger than the tier: dropped";
  EXPECT_EQ(store_->Explain("huge").lastEnding->cause, EvictCause::kTierTooSmall);
}

TEST_P(SpillerTest, ReplicasAreDroppedAndHardPinsStay) {
  OpenOrSkip(4 << 20);
  if (IsSkipped()) return;
  Put("hard", 10'000, {.pin = Pin::kHard});
  Put("soft", 10'000, {.pin = Pin::kSoft});
  Put("replica", 10'000, {.replica = true});
  bool done = false;
  spiller_->MakeRoom(kArena, 0, [&] { done = true; });
  RunAll();
  EXPECT_TRUE(done);
  EXPECT_EQ(Find("hard").state, SlotState::kSealed);
  EXPECT_EQ(Find("soft").state, SlotState::kSpilled);
  EXPECT_EQ(ended_, (std::vector<std::pair<std::string, EndReason>>{{"replica", EndReason::kEvicted}}));
}

TEST_P(SpillerTest, RoomInOnePieceIsMadeWithoutLoss) {
  OpenOrSkip(4 << 20);
  if (IsSkipped()) return;
  for (int i = 0; i < 24; i++) {
    Put("key" + std::to_string(i), 10'000);
  }
  // Least recently used is now every second object: what they leave is enough, but nowhere in one piece.
  for (int i = 0; i < 24; i += 2) {
    store_->Touch(Find("key" + std::to_string(i)).slot);
  }
  spiller_->MakeRoom(40'000, 40'000, [&] {
    EXPECT_GE(store_->largestFreeBytes(), 40'000U);
    EXPECT_GT(store_->usage().arenaBytes - store_->usage().usedBytes, 80'000U);
  });
  RunAll();
  EXPECT_TRUE(ended_.empty());
  EXPECT_EQ(store_->usage().objects, 24U);
}

TEST_P(SpillerTest, ReplaceDeleteAndExpiryFreeThePlaceInTheFile) {
  OpenOrSkip(4 << 20);
  if (IsSkipped()) return;
  FillAndSpill({.ttlMs = 100});
  const uint64_t record = SpillRecordBytes(10'000);
  ASSERT_EQ(spiller_->usage().usedBytes, 4 * record);
  ASSERT_TRUE(store_->Drop(Find("key0").slot, 0).ok());
  EXPECT_EQ(spiller_->usage().usedBytes, 3 * record);
  Put("key1", 100);
  EXPECT_EQ(spiller_->usage().usedBytes, 2 * record);
  EXPECT_EQ(Find("key1").state, SlotState::kSealed);
  clock_.AdvanceMs(100);
  EXPECT_EQ(store_->FindSealed("key2"), std::nullopt);
  EXPECT_EQ(store_->CollectExpired(clock_.NowMs(), 100, note_), 22U);
  EXPECT_EQ(spiller_->usage().usedBytes, 0U);
  EXPECT_EQ(store_->usage().spilledBytes, 0U);
}

TEST_P(SpillerTest, ADamagedObjectIsGoneWithItsReason) {
  OpenOrSkip(4 << 20);
  if (IsSkipped()) return;
  FillAndSpill();
  const Fd raw(::open((directory_.path + "/hbmesh-spill").c_str(), O_RDWR | O_CLOEXEC));
  const auto at = static_cast<off_t>(store_->SlotAt(Find("key0").slot).spillOffset) + 5000;
  std::byte one{};
  ASSERT_EQ(::pread(raw.get(), &one, 1, at), 1);
  one ^= std::byte{1};
  ASSERT_EQ(::pwrite(raw.get(), &one, 1, at), 1);
  ASSERT_EQ(::fsync(raw.get()), 0);
  const Status status = BringBack("key0");
  EXPECT_EQ(status.code(), StatusCode::kDataInconsistency);
  EXPECT_NE(status.message().find("the checksum of the payload doesn't match"), std::string::npos);
  EXPECT_EQ(store_->FindSealed("key0"), std::nullopt);
  EXPECT_EQ(ended_, (std::vector<std::pair<std::string, EndReason>>{{"key0", EndReason::kLost}}));
  EXPECT_EQ(spiller_->usage().damaged, 1U);
  EXPECT_EQ(store_->usage().lost, 1U);
  EXPECT_NE(store_->Explain("key0").reason.find("could not be read back"), std::string::npos);
  EXPECT_TRUE(BringBack("key1").ok()) << "the others are whole";
}

TEST_P(SpillerTest, AFullDiskDropsWhatItCanNotTake) {
  std::atomic<int> error{ENOSPC};
  fault_ = [&](SpillOp op, uint64_t, uint64_t) { return op == SpillOp::kWrite ? error.load() : 0; };
  OpenOrSkip(4 << 20);
  if (IsSkipped()) return;
  FillAndSpill();
  EXPECT_LE(store_->usage().usedBytes, store_->lowWatermark());
  EXPECT_EQ(store_->usage().spilledObjects, 0U);
  EXPECT_EQ(EndedBy(EndReason::kEvicted), 4U);
  EXPECT_EQ(spiller_->usage().writeFaults, 4U);
  EXPECT_EQ(spiller_->usage().usedBytes, 0U);
  error = 0;
  FillAndSpill();
  EXPECT_EQ(store_->usage().spilledObjects, 4U);
}

TEST_P(SpillerTest, WhatIsUsedOrGoneWhileItIsWrittenStaysAsItIs) {
  std::mutex gate;
  fault_ = [&](SpillOp, uint64_t, uint64_t) {
    const std::lock_guard wait(gate);
    return 0;
  };
  OpenOrSkip(4 << 20);
  if (IsSkipped()) return;
  for (int i = 0; i < 5; i++) {
    Put("key" + std::to_string(i), 10'000);
  }
  {
    const std::lock_guard closed(gate);
    spiller_->MakeRoom(kArena, 0, [] {});
    ASSERT_EQ(spiller_->usage().writing, 5U);
    EXPECT_EQ(store_->Explain("key0").reason, "can't be evicted: it is being written to the SSD tier");
    EXPECT_TRUE(HasPattern(Find("key0"), 1)) << "readable all the time";
    store_->Touch(Find("key0").slot);
    store_->Hold(Find("key1").slot);
    ASSERT_TRUE(store_->Drop(Find("key2").slot, 0).ok());
    Put("key3", 50);
  }
  const uint32_t held = Find("key1").slot;
  while (spiller_->usage().writing == 5) {
    wake_.Wait();
    spiller_->Poll();
  }
  RunAll();
  EXPECT_EQ(Find("key1").state, SlotState::kSealed);
  EXPECT_TRUE(HasPattern(Find("key1"), 2));
  EXPECT_EQ(store_->FindSealed("key2"), std::nullopt);
  EXPECT_EQ(Find("key4").state, SlotState::kSpilled);
  store_->Release(held);
  EXPECT_TRUE(BringBack("key0").ok());
  EXPECT_TRUE(BringBack("key3").ok());
  EXPECT_EQ(store_->usage().heldBytes, 0U);
}

TEST_P(SpillerTest, AnObjectDeletedWhileItComesBackIsGone) {
  OpenOrSkip(4 << 20);
  if (IsSkipped()) return;
  FillAndSpill();
  const ObjectView found = Find("key0");
  Status told;
  spiller_->BringBack(found.slot, found.generation, [&](const Status& status, const ObjectView*) { told = status; });
  ASSERT_TRUE(store_->Drop(found.slot, found.generation).ok());
  RunAll();
  EXPECT_EQ(told.code(), StatusCode::kTryAgain);
  EXPECT_EQ(spiller_->usage().usedBytes, 3 * SpillRecordBytes(10'000));
  EXPECT_EQ(store_->usage().heldBytes, 0U);
  // One that is gone before it was asked for.
  spiller_->BringBack(found.slot, found.generation,
                      [&](const Status& status, const ObjectView*) { told = Status(status.code(), "again"); });
  RunAll();
  EXPECT_EQ(told.ToString(), "TRY_AGAIN: again");
}

TEST_P(SpillerTest, ItEndsInTheMiddleOfItsWorkAndLeavesTheStoreWhole) {
  OpenOrSkip(4 << 20);
  if (IsSkipped()) return;
  FillAndSpill();
  const ObjectView found = Find("key0");
  spiller_->BringBack(found.slot, found.generation, [](const Status&, const ObjectView*) { ADD_FAILURE(); });
  spiller_->MakeRoom(kArena, 0, [] { ADD_FAILURE(); });
  spiller_.reset();
  EXPECT_EQ(store_->usage().heldBytes, 0U);
  EXPECT_EQ(store_->usage().holds, 0U);
  EXPECT_EQ(directory_.files(), 0U);
  // Another one for the same store: the file is gone, and with it what was spilled.
  const uint64_t spilled = store_->usage().spilledObjects;
  ASSERT_TRUE(Open(4 << 20).ok());
  EXPECT_EQ(EndedBy(EndReason::kLost), spilled);
  EXPECT_EQ(store_->usage().spilledObjects, 0U);
  EXPECT_EQ(store_->usage().objects, 24U - spilled);
}

TEST_P(SpillerTest, RandomOperationsNeverGiveOtherBytes) {
  std::mt19937_64 random(testing_support::Seed());
  std::atomic<uint64_t> turn{0};
  fault_ = [&](SpillOp op, uint64_t, uint64_t) {
    return turn.fetch_add(1) % 61 == 60 ? (op == SpillOp::kWrite ? ENOSPC : EIO) : 0;
  };
  OpenOrSkip(400 << 10);
  if (IsSkipped()) return;
  std::map<std::string, uint64_t> newest;  // generation
  uint64_t came = 0;
  for (int step = 0; step < 4000; step++) {
    const std::string key = std::to_string(random() % 90);
    const ObjectView found = Find(key);
    const uint64_t choice = random() % 100;
    if (choice < 40) {
      ObjectView view;
      const uint64_t sizes[] = {1 + random() % 20'000};
      if (store_->Allocate(key, sizes, &view, {.pin = static_cast<Pin>(random() % 2)}, &note_).ok()) {
        const auto bytes = Pattern(++generation_, sizes[0]);
        std::memcpy(view.payload, bytes.data(), bytes.size());
        store_->MarkWritten(view.slot, generation_);
        store_->Seal(view.slot, clock_.NowMs());
        newest[key] = generation_;
      }
    } else if (choice < 80 && found.generation != 0) {
      ASSERT_EQ(found.generation, newest[key]);
      spiller_->BringBack(found.slot, found.generation, [&](const Status& status, const ObjectView* object) {
        if (status.ok()) {
          ASSERT_TRUE(HasPattern(*object, object->generation));
          store_->Touch(object->slot);
          came++;
        }
      });
    } else if (choice < 85 && found.generation != 0) {
      ASSERT_TRUE(store_->Drop(found.slot, found.generation).ok());
    }
    spiller_->Balance();
    spiller_->Poll();
    if (random() % 8 == 0) {
      RunAll();  // else the disk is left behind
    }
    ASSERT_LE(spiller_->usage().usedBytes, 400U << 10);
    ASSERT_FALSE(HasFatalFailure()) << "step " << step;
  }
  RunAll();
  EXPECT_GT(came, 100U);
  EXPECT_GT(store_->usage().broughtBack, 10U);
  EXPECT_EQ(store_->usage().holds, 0U);
  EXPECT_EQ(store_->usage().heldBytes, 0U);
  std::vector<uint32_t> slots;
  store_->ForEachSealed([&](const ObjectView& view) { slots.push_back(view.slot); });
  for (const uint32_t slot : slots) {
    ASSERT_TRUE(store_->Drop(slot, 0).ok());
  }
  EXPECT_EQ(store_->usage().usedBytes, 0U);
  EXPECT_EQ(spiller_->usage().usedBytes, 0U);
}

INSTANTIATE_TEST_SUITE_P(Kinds, SpillerTest, ::testing::Values(SpillOptions::Io::kUring, SpillOptions::Io::kPlain),
                         [](const auto& kind) { return kind.param == SpillOptions::Io::kUring ? "Uring" : "Plain"; });

}  // namespace
}  // namespace hbmesh
