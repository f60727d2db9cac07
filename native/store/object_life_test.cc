// Goal: objects live exactly as long as object_life.h and object_store.h say. Method: each rule by itself with a clock
// turned by hand; then random operations on a store and a simple model that keeps objects in a list and does every rule
// by searching it.
#include "store/object_life.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <set>

#include "base/test_support.h"
#include "store/object_store.h"

namespace hbmesh {
namespace {

using testing_support::Pattern;

constexpr uint64_t kArena = 64 << 10;
constexpr uint64_t kKilobyte = 1024 - 64;  // of payload: the extent has 1,024 bytes with its header and short key

struct Ended {
  std::string key;
  uint64_t generation;
  EndReason reason;
  bool operator==(const Ended&) const = default;
};

void PrintTo(const Ended& ended, std::ostream* out) {
  *out << ended.key << " " << ended.generation << " " << EndReasonName(ended.reason);
}

class ObjectLife : public ::testing::Test {
 protected:
  void Make(uint64_t arenaBytes, uint32_t slots = 0) {
    ASSERT_TRUE(ObjectStore::Create({.arenaBytes = arenaBytes, .slots = slots}, &store_).ok());
    store_->SetClock(&clock_);
  }
  void SetUp() override { Make(kArena); }

  Status TryPut(const std::string& key, uint64_t bytes, const ObjectAttributes& attributes, const EndedSink* evicted) {
    ObjectView view;
    const uint64_t sizes[] = {bytes};
    if (Status status = store_->Allocate(key, sizes, &view, attributes, evicted); !status.ok()) {
      return status;
    }
    store_->MarkWritten(view.slot, ++generation_);
    store_->Seal(view.slot, clock_.NowMs());
    return Status::Ok();
  }
  void Put(const std::string& key, const ObjectAttributes& attributes = {}, uint64_t bytes = kKilobyte) {
    const Status status = TryPut(key, bytes, attributes, nullptr);
    ASSERT_TRUE(status.ok()) << status.ToString();
  }
  uint32_t SlotOf(const std::string& key) { return store_->FindSealed(key)->slot; }
  bool Has(const std::string& key) { return store_->FindSealed(key).has_value(); }
  std::vector<std::string> EndedKeys() const {
    std::vector<std::string> keys;
    for (const Ended& ended : ended_) {
      keys.push_back(ended.key);
    }
    return keys;
  }

  ManualClock clock_{1'000'000'000};
  std::unique_ptr<ObjectStore> store_;
  uint64_t generation_ = 0;
  std::vector<Ended> ended_;
  const EndedSink note_ = [this](const EndedObject& ended) {
    ended_.push_back({std::string(ended.key), ended.generation, ended.reason});
  };
};

using Keys = std::vector<std::string>;

TEST_F(ObjectLife, AnObjectIsGoneAtTheMillisecondItExpires) {
  Put("short", {.ttlMs = 10});
  Put("long", {.ttlMs = UINT64_MAX});
  Put("for ever");
  EXPECT_EQ(store_->nextExpiryMs(), 1010U);
  EXPECT_EQ(store_->FindSealed("short")->expiresAtMs, 1010U);
  clock_.AdvanceMs(9);
  EXPECT_TRUE(Has("short"));
  const uint32_t slot = SlotOf("short");
  EXPECT_EQ(store_->CollectExpired(clock_.NowMs(), 10, note_), 0U);
  clock_.AdvanceMs(1);
  // Before anything was collected.
  EXPECT_FALSE(Has("short"));
  ObjectView view;
  EXPECT_EQ(store_->FindSlot(slot, 1, &view).code(), StatusCode::kTryAgain);
  EXPECT_EQ(store_->SetPin(slot, 1, Pin::kHard).code(), StatusCode::kTryAgain);
  EXPECT_EQ(store_->usage().objects, 3U);
  EXPECT_EQ(store_->CollectExpired(clock_.NowMs(), 10, note_), 1U);
  EXPECT_EQ(ended_, (std::vector<Ended>{{"short", 1, EndReason::kExpired}}));
  EXPECT_EQ(store_->usage().objects, 2U);
  EXPECT_EQ(store_->usage().expired, 1U);
  EXPECT_TRUE(Has("long"));
  EXPECT_TRUE(Has("for ever"));
}

TEST_F(ObjectLife, CollectsTheLongestOverdueFirstAndNoMoreThanTheLimit) {
  for (const uint64_t ttl : {30, 10, 50, 20, 40}) {
    Put("ttl" + std::to_string(ttl), {.ttlMs = ttl});
  }
  clock_.AdvanceMs(45);
  EXPECT_EQ(store_->CollectExpired(clock_.NowMs(), 3, note_), 3U);
  EXPECT_EQ(EndedKeys(), (Keys{"ttl10", "ttl20", "ttl30"}));
  EXPECT_EQ(store_->CollectExpired(clock_.NowMs(), 3, note_), 1U);
  EXPECT_EQ(store_->nextExpiryMs(), 1050U);
}

TEST_F(ObjectLife, AHeldObjectExpiresButKeepsItsBytes) {
  Put("key", {.ttlMs = 5});
  const uint32_t slot = SlotOf("key");
  const uint64_t used = store_->usage().usedBytes;
  store_->Hold(slot);
  clock_.AdvanceMs(5);
  EXPECT_EQ(store_->CollectExpired(clock_.NowMs(), 1, note_), 1U);
  EXPECT_EQ(store_->usage().usedBytes, used);
  store_->Release(slot);
  EXPECT_EQ(store_->usage().usedBytes, 0U);
}

TEST_F(ObjectLife, AnExpiredObjectDoesNotStandInTheWayOfAnOlderGeneration) {
  ObjectView view;
  const uint64_t sizes[] = {10};
  ASSERT_TRUE(store_->Allocate("key", sizes, &view).ok());
  generation_ = 10;
  Put("key", {.ttlMs = 5});
  clock_.AdvanceMs(5);
  store_->MarkWritten(view.slot, 3);
  store_->Seal(view.slot, clock_.NowMs());
  ASSERT_TRUE(Has("key"));
  EXPECT_EQ(store_->FindSealed("key")->generation, 3U);
  EXPECT_EQ(store_->Explain("key").lastEnding->reason, EndReason::kExpired);
}

TEST_F(ObjectLife, EvictsReplicasThenUnpinnedThenSoftPinsByLastReadAndNeverTheRest) {
  Put("hard", {.pin = Pin::kHard});
  Put("soft1", {.pin = Pin::kSoft});
  Put("soft2", {.pin = Pin::kSoft});
  Put("a");
  Put("b");
  Put("c");
  Put("held");
  Put("replica", {.replica = true});
  ObjectView writing;
  const uint64_t sizes[] = {kKilobyte};
  ASSERT_TRUE(store_->Allocate("writing", sizes, &writing).ok());
  store_->Hold(SlotOf("held"));
  store_->Touch(SlotOf("a"));  // read
  EXPECT_TRUE(Has("b"));       // only looked for
  (void)store_->Explain("b");
  store_->Touch(SlotOf("soft1"));
  EXPECT_EQ(store_->EvictTo(0, 1, note_, EvictionScope::kReplicas), 1U);
  EXPECT_EQ(store_->EvictTo(0, 100, note_, EvictionScope::kReplicas), 0U);
  EXPECT_EQ(store_->EvictTo(0, 100, note_, EvictionScope::kUnpinned), 3U);
  EXPECT_EQ(store_->EvictTo(0, 100, note_), 2U);
  EXPECT_EQ(EndedKeys(), (Keys{"replica", "b", "c", "a", "soft2", "soft1"}));
  EXPECT_EQ(store_->usage().evictableBytes, 0U);
  EXPECT_EQ(store_->usage().hardPinnedBytes, 1024U);
  EXPECT_EQ(store_->usage().heldBytes, 2048U);
  // A hold ends: now it may go. A pin is taken off: likewise.
  store_->Release(SlotOf("held"));
  ASSERT_TRUE(store_->SetPin(SlotOf("hard"), 1, Pin::kNone).ok());
  EXPECT_EQ(store_->EvictTo(0, 100, note_), 2U);
  EXPECT_EQ(store_->usage().objects, 0U);
  EXPECT_EQ(store_->usage().hardPinnedBytes, 0U);
}

TEST_F(ObjectLife, AnyNumberOfSoftPinsIsWorthMoreThanWhatIsNotPinned) {
  // 2 MiB in one piece are wanted: 2^14 small soft pins, side by side, or two unpinned objects that were used last. All
  // that was not used for longer stands by itself, between hard pins.
  constexpr uint64_t kWanted = 2 << 20;
  constexpr uint64_t kSmall = 128;
  constexpr int kSoftPins = kWanted / kSmall;
  constexpr uint64_t kHalf = kWanted / 2 - 64;
  Make(6 * (kWanted / 2) + 5 * kSmall + kWanted, kSoftPins + 20);
  for (int i = 0; i < kSoftPins; i++) Put("s" + std::to_string(i), {.pin = Pin::kSoft}, 64);
  for (int i = 0; i < 5; i++) {
    Put("hard" + std::to_string(i), {.pin = Pin::kHard}, 64);
    Put("old" + std::to_string(i), {}, kHalf);
  }
  Put("new0", {}, kHalf);
  ASSERT_EQ(store_->usage().usedBytes, kWanted + 5 * kSmall + 6 * (kWanted / 2));
  ASSERT_TRUE(TryPut("large", kWanted - 64, {}, &note_).ok());
  for (int i = 0; i < kSoftPins; i++) ASSERT_TRUE(Has("s" + std::to_string(i))) << i;
  EXPECT_EQ(EndedKeys(), (Keys{"old0", "old1", "old2", "old3", "new0", "old4"}));
}

TEST_F(ObjectLife, EvictsBetweenTheWatermarks) {
  Make(100 << 10);
  ASSERT_EQ(store_->highWatermark(), 92160U);
  ASSERT_EQ(store_->lowWatermark(), 81920U);
  for (int i = 0; i < 89; i++) {
    Put("key" + std::to_string(i));
  }
  EXPECT_EQ(store_->EvictToWatermark(1000, note_), 0U) << "below the high watermark";
  Put("key89");
  ASSERT_EQ(store_->usage().usedBytes, store_->highWatermark());
  EXPECT_EQ(store_->EvictToWatermark(1000, note_), 0U) << "at it";
  Put("key90");
  EXPECT_EQ(store_->EvictToWatermark(4, note_), 4U) << "above it, but no more than the limit";
  Put("key91");
  Put("key92");
  Put("key93");
  Put("key94");
  EXPECT_EQ(store_->EvictToWatermark(1000, note_), 11U) << "above it";
  EXPECT_EQ(store_->usage().usedBytes, store_->lowWatermark());
  EXPECT_EQ(ended_.front().key, "key0");
  EXPECT_EQ(ended_.back().key, "key14");
  ASSERT_TRUE(store_->SetEvictionPolicy({.highPercent = 50, .lowPercent = 50}).ok());
  EXPECT_EQ(store_->EvictToWatermark(1000, note_), 30U);
}

TEST_F(ObjectLife, RefusesWatermarksThatAreNone) {
  const EvictionPolicy wrong[] = {
      {.lowPercent = 0}, {.highPercent = 101}, {.highPercent = 50, .lowPercent = 51}, {.replicaPercentMax = 101}};
  for (const EvictionPolicy& policy : wrong) {
    EXPECT_EQ(store_->SetEvictionPolicy(policy).code(), StatusCode::kInvalid);
  }
  EXPECT_EQ(store_->SetEvictionPolicy(wrong[0]).message(),
            "watermarks of 0% and 90%, replicas up to 25%: use 0 < low <= high <= 100, and at most 100% of replicas");
}

TEST_F(ObjectLife, AllocateEvictsJustEnough) {
  for (int i = 0; i < 64; i++) {
    Put("key" + std::to_string(i));
  }
  EXPECT_EQ(TryPut("more", kKilobyte, {}, nullptr).code(), StatusCode::kOutOfMemory);
  EXPECT_TRUE(TryPut("more", kKilobyte, {}, &note_).ok());
  EXPECT_EQ(EndedKeys(), (Keys{"key0"}));
  EXPECT_TRUE(TryPut("wide", 3 * 1024 - 64, {}, &note_).ok());
  EXPECT_EQ(EndedKeys(), (Keys{"key0", "key1", "key2", "key3"}));
}

TEST_F(ObjectLife, AllocateCollectsWhatIsOverBeforeItEvicts) {
  Put("old");
  Put("over", {.ttlMs = 1, .pin = Pin::kHard});
  for (int i = 2; i < 64; i++) {
    Put("key" + std::to_string(i));
  }
  clock_.AdvanceMs(1);
  EXPECT_TRUE(TryPut("more", kKilobyte, {}, &note_).ok());
  EXPECT_EQ(ended_, (std::vector<Ended>{{"over", 2, EndReason::kExpired}}));
}

TEST_F(ObjectLife, AnswersHonestlyAndEvictsNothingWhenThereIsNoWay) {
  // Hard pins 8 KiB apart: no 16 KiB in one piece can be made.
  for (int i = 0; i < 64; i++) {
    Put("key" + std::to_string(i), {.pin = i % 8 == 7 ? Pin::kHard : Pin::kNone});
  }
  store_->Hold(SlotOf("key0"));
  const Status full = TryPut("wide", 16 << 10, {}, &note_);
  EXPECT_EQ(full.code(), StatusCode::kOutOfMemory);
  EXPECT_EQ(full.message(),
            "the arena has no room for 16448 bytes: 65536 of 65536 are used, 1024 of them held by transfers, 8192 hard "
            "pinned, 56320 could be evicted; 0 are free, the largest piece 0; delete objects, unpin some, or start the "
            "worker with a larger arena");
  EXPECT_TRUE(ended_.empty());
  EXPECT_EQ(TryPut("all", kArena, {}, &note_).code(), StatusCode::kOutOfMemory) << "larger than the arena";
  EXPECT_TRUE(ended_.empty());
  EXPECT_TRUE(TryPut("fits", 7 * 1024 - 64, {}, &note_).ok());
  EXPECT_TRUE(Has("fits"));
  EXPECT_TRUE(Has("key0")) << "held";
}

TEST_F(ObjectLife, MakesAPieceWideEnoughInAFragmentedArena) {
  // In order of use every second object goes first: twice the wanted bytes are freed, and no two of them touch.
  for (int i = 0; i < 64; i++) {
    Put("key" + std::to_string(i));
  }
  for (int i = 1; i < 64; i += 2) {
    store_->Touch(SlotOf("key" + std::to_string(i)));
  }
  EXPECT_TRUE(TryPut("wide", 4 * 1024 - 64, {}, &note_).ok());
  EXPECT_LE(ended_.size(), 8U + 2U);
}

TEST_F(ObjectLife, ReplicasTakeTheirShareAndOnlyEachOthersRoom) {
  for (int i = 0; i < 60; i++) {
    Put("key" + std::to_string(i));
  }
  Make(kArena);
  ASSERT_EQ(TryPut("r1", 6000, {.replica = true}, &note_).code(), StatusCode::kOk);
  ASSERT_EQ(TryPut("r2", 6000, {.replica = true}, &note_).code(), StatusCode::kOk);
  EXPECT_EQ(TryPut("r3", 6000, {.replica = true}, nullptr).code(), StatusCode::kOutOfMemory);
  ASSERT_EQ(TryPut("r3", 6000, {.replica = true}, &note_).code(), StatusCode::kOk);
  EXPECT_EQ(EndedKeys(), (Keys{"r1"}));
  EXPECT_EQ(store_->usage().replicaBytes, 2 * 6080U);
  const Status wide = TryPut("r4", 17'000, {.replica = true}, &note_);
  EXPECT_EQ(wide.message(),
            "no room for a replica of 17064 bytes: replicas take 12160 of at most 16375; read without keeping a copy, "
            "or raise the share of replicas");
  EXPECT_EQ(ended_.size(), 1U);
  // Full of others: a replica finds no room, since it may not push them out.
  while (TryPut("own" + std::to_string(generation_), kKilobyte, {}, nullptr).ok()) {
  }
  ASSERT_TRUE(store_->Drop(SlotOf("r2"), 0).ok());
  ASSERT_TRUE(store_->Drop(SlotOf("r3"), 0).ok());
  while (TryPut("own" + std::to_string(generation_), kKilobyte, {}, nullptr).ok()) {
  }
  EXPECT_EQ(store_->usage().replicaBytes, 0U);
  EXPECT_EQ(TryPut("r5", 2000, {.replica = true}, &note_).code(), StatusCode::kOutOfMemory);
  EXPECT_EQ(ended_.size(), 1U);
}

TEST_F(ObjectLife, AFullTableEvictsOneObject) {
  Make(kArena, 2);
  Put("a");
  Put("b");
  EXPECT_EQ(TryPut("c", kKilobyte, {}, nullptr).code(), StatusCode::kOutOfMemory);
  EXPECT_TRUE(TryPut("c", kKilobyte, {}, &note_).ok());
  EXPECT_EQ(EndedKeys(), (Keys{"a"}));
}

TEST_F(ObjectLife, ExplainsWhatIsThereAndWhyItWent) {
  Put("key", {.ttlMs = 100, .pin = Pin::kSoft});
  clock_.AdvanceMs(3);
  store_->Touch(SlotOf("key"));
  store_->Hold(SlotOf("key"));
  Explanation told = store_->Explain("key");
  EXPECT_EQ(told.where, Explanation::Where::kMemory);
  EXPECT_EQ(told.generation, 1U);
  EXPECT_EQ(told.bytes, kKilobyte);
  EXPECT_EQ(told.blobSizes, (std::vector<uint64_t>{kKilobyte}));
  EXPECT_EQ(told.sealedAtMs, 1000U);
  EXPECT_EQ(told.lastReadAtMs, 1003U);
  EXPECT_EQ(told.expiresAtMs, 1100U);
  EXPECT_EQ(told.pin, Pin::kSoft);
  EXPECT_EQ(told.holds, 1U);
  EXPECT_FALSE(told.evictable);
  EXPECT_EQ(told.reason, "can't be evicted: transfers hold it: 1");
  EXPECT_EQ(told.lastEnding, std::nullopt);
  const uint32_t slot = SlotOf("key");
  store_->Release(slot);
  told = store_->ExplainSlot(slot, 1);
  EXPECT_TRUE(told.evictable);
  EXPECT_EQ(told.reason, "soft pinned: evicted only when no replica and no unpinned object is left");
  EXPECT_EQ(told.key, "key");

  EXPECT_EQ(store_->EvictTo(0, 10, note_), 1U);
  clock_.AdvanceMs(7);
  told = store_->Explain("key");
  EXPECT_EQ(told.where, Explanation::Where::kNowhere);
  EXPECT_EQ(told.generation, 1U);
  EXPECT_EQ(told.reason,
            "evicted 7 ms ago to make room for others: memory was full; pin what must stay, or start the worker with a "
            "larger arena");
  EXPECT_EQ(told.lastEnding->atMs, 1003U);
  EXPECT_EQ(told.lastEnding->bytes, kKilobyte);
  EXPECT_EQ(store_->ExplainSlot(slot, 1).lastEnding->reason, EndReason::kEvicted);
  EXPECT_EQ(store_->Explain("never").reason, "no such object here, and none among the last that ended");

  Put("key", {.ttlMs = 10});
  clock_.AdvanceMs(15);
  EXPECT_EQ(store_->Explain("key").reason, "expired 5 ms ago: its time to live was over") << "not collected yet";
  Put("key");
  EXPECT_EQ(store_->Explain("key").lastEnding->reason, EndReason::kExpired);
  Put("key", {.pin = Pin::kHard});
  EXPECT_EQ(store_->Explain("key").lastEnding->reason, EndReason::kReplaced);
  EXPECT_EQ(store_->Explain("key").reason, "can't be evicted: it is hard pinned");
  ASSERT_TRUE(store_->Drop(SlotOf("key"), 0).ok());
  EXPECT_EQ(store_->Explain("key").reason, "deleted 0 ms ago: a delete, or its owner gave up this copy");
}

TEST_F(ObjectLife, RemembersTheLast65536Endings) {
  constexpr int kEndings = 65'536;
  for (int i = 0; i <= kEndings; i++) {
    Put("key" + std::to_string(i), {}, 1);
    store_->End(SlotOf("key" + std::to_string(i)), EndReason::kEvicted, {}, EvictCause::kTableFull);
  }
  EXPECT_EQ(store_->Explain("key0").lastEnding, std::nullopt);
  EXPECT_EQ(store_->Explain("key0").reason,
            "no such object here, and none among the last that ended; evicted in all: 65537 (object table full)");
  ASSERT_TRUE(store_->Explain("key1").lastEnding.has_value());
  EXPECT_EQ(store_->Explain("key1").lastEnding->cause, EvictCause::kTableFull);
  EXPECT_NE(store_->Explain("key1").reason.find("the object table was full; start the worker with a larger arena"),
            std::string::npos);
}

}  // namespace

}  // namespace hbmesh
