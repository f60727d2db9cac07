// Goal: whatever the order of operations, exactly the right objects go, in the right order. Method: thousands of random
// operations on a store and on a model, which keeps all objects in a map and finds each victim by looking at all of
// them. With objects of one size the endings must be equal one by one; with objects of many sizes the arena's
// fragmentation decides too, and what ended must have been allowed to.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "base/test_support.h"
#include "store/object_store.h"

namespace hbmesh {
namespace {

constexpr uint64_t kArena = 48 << 10;

struct Known {
  uint64_t generation = 0;
  uint32_t slot = 0;
  uint64_t extentBytes = 0;
  uint64_t expiresAtMs = UINT64_MAX;
  Pin pin = Pin::kNone;
  bool replica = false;
  uint64_t used = 0;  // when, counting operations
  uint32_t holds = 0;

  [[nodiscard]] int Class() const { return replica ? 0 : (pin == Pin::kSoft ? 2 : 1); }
  [[nodiscard]] bool MayGo() const { return holds == 0 && pin != Pin::kHard; }
};

class Model {
 public:
  explicit Model(bool oneSize) : oneSize_(oneSize) {
    EXPECT_TRUE(ObjectStore::Create({.arenaBytes = kArena, .slots = 200}, &store_).ok());
    store_->SetClock(&clock_);
    EXPECT_TRUE(store_->SetEvictionPolicy({.replicaPercentMax = 100}).ok());
  }

  void Step() {
    turn_++;
    ended_.clear();
    const uint64_t choice = random_() % 100;
    const std::string key = std::to_string(10 + random_() % 80);
    if (choice < 45) {
      Put(key);
    } else if (choice < 60) {
      Get(key);
    } else if (choice < 70) {
      Release();
    } else if (choice < 78) {
      Exists(key);
    } else if (choice < 83) {
      Drop(key);
    } else if (choice < 88) {
      clock_.AdvanceMs(random_() % 40);
    } else if (choice < 93) {
      Collect();
    } else if (choice < 96) {
      Pin_(key);
    } else {
      Evict();
    }
    Check();
  }

  [[nodiscard]] uint64_t evictions() const { return evictions_; }

 private:
  struct Ended {
    std::string key;
    uint64_t generation;
    EndReason reason;
    bool operator==(const Ended&) const = default;
  };

  [[nodiscard]] uint64_t Now() const { return clock_.NowMs(); }

  // The next one to be evicted of the model, up to this class.
  std::map<std::string, Known>::iterator Victim(int classMax) {
    auto best = known_.end();
    for (auto at = known_.begin(); at != known_.end(); ++at) {
      if (at->second.MayGo() && at->second.Class() <= classMax &&
          (best == known_.end() ||
           std::pair(at->second.Class(), at->second.used) < std::pair(best->second.Class(), best->second.used))) {
        best = at;
      }
    }
    return best;
  }
  void EndInModel(std::map<std::string, Known>::iterator at, EndReason reason, std::vector<Ended>* expected) {
    expected->push_back({at->first, at->second.generation, reason});
    for (const Known& held : held_) {
      ASSERT_FALSE(held.generation == at->second.generation && reason == EndReason::kEvicted) << "held";
    }
    known_.erase(at);
  }
  // What is over, the longest overdue first.
  void ExpireInModel(size_t limit, std::vector<Ended>* expected) {
    while (limit-- > 0) {
      const auto first = std::min_element(known_.begin(), known_.end(), [](const auto& a, const auto& b) {
        return a.second.expiresAtMs < b.second.expiresAtMs;
      });
      if (first == known_.end() || first->second.expiresAtMs > Now()) {
        return;
      }
      EndInModel(first, EndReason::kExpired, expected);
    }
  }
  [[nodiscard]] uint64_t Used() const { return store_->usage().usedBytes; }

  ObjectAttributes RandomAttributes() {
    ObjectAttributes attributes;
    if (random_() % 3 == 0) {
      attributes.ttlMs = 1 + random_() % 300;
      for (const auto& [key, known] : known_) {  // no two at one time: their order is not promised
        if (known.expiresAtMs == Now() + attributes.ttlMs) {
          attributes.ttlMs = 0;
        }
      }
    }
    const uint64_t pin = random_() % 20;
    attributes.pin = pin == 0 ? Pin::kHard : (pin < 4 ? Pin::kSoft : Pin::kNone);
    attributes.replica = attributes.pin == Pin::kNone && random_() % 5 == 0;
    return attributes;
  }

  void Put(const std::string& key) {
    const ObjectAttributes attributes = RandomAttributes();
    const uint64_t sizes[] = {oneSize_ ? 960 : 1 + random_() % 6000};
    const uint64_t before = Used();
    ObjectView view;
    const Status status = store_->Allocate(key, sizes, &view, attributes, &note_);
    if (oneSize_) {
      ExpectExactRoom(before, attributes.replica ? 0 : 2, status);
    } else {
      ExpectAllowed(attributes.replica ? 0 : 2, status);
    }
    if (!status.ok()) {
      return;
    }
    store_->MarkWritten(view.slot, ++generation_);
    store_->Seal(view.slot, Now());
    known_[key] = {.generation = generation_,
                   .slot = view.slot,
                   .extentBytes = 1024,
                   .expiresAtMs = attributes.ttlMs == 0 ? UINT64_MAX : Now() + attributes.ttlMs,
                   .pin = attributes.pin,
                   .replica = attributes.replica,
                   .used = turn_};
  }
  void ExpectExactRoom(uint64_t usedBefore, int classMax, const Status& status) {
    std::vector<Ended> expected;
    uint64_t used = usedBefore;
    while (used + 1024 > kArena) {
      const auto overdue = std::min_element(known_.begin(), known_.end(), [](const auto& a, const auto& b) {
        return a.second.expiresAtMs < b.second.expiresAtMs;
      });
      if (overdue != known_.end() && overdue->second.expiresAtMs <= Now()) {
        used -= overdue->second.holds == 0 ? 1024 : 0;
        EndInModel(overdue, EndReason::kExpired, &expected);
        continue;
      }
      const auto victim = Victim(classMax);
      if (victim == known_.end()) {
        break;
      }
      EndInModel(victim, EndReason::kEvicted, &expected);
      used -= 1024;
    }
    ASSERT_EQ(status.ok(), used + 1024 <= kArena) << status.ToString();
    ASSERT_EQ(ended_, expected);
    evictions_ += expected.size();
  }
  void ExpectAllowed(int classMax, const Status& status) {
    bool evicted = false;
    for (const Ended& ended : ended_) {
      const auto at = known_.find(ended.key);
      ASSERT_NE(at, known_.end());
      ASSERT_EQ(at->second.generation, ended.generation);
      if (ended.reason == EndReason::kExpired) {
        ASSERT_LE(at->second.expiresAtMs, Now());
      } else {
        evicted = true;
        ASSERT_TRUE(at->second.MayGo());
        ASSERT_LE(at->second.Class(), classMax);
      }
      known_.erase(at);
    }
    ASSERT_TRUE(status.ok() || !evicted) << "evicted in vain";
    evictions_ += ended_.size();
  }

  void Get(const std::string& key) {
    const auto found = store_->FindSealed(key);
    const auto at = known_.find(key);
    ASSERT_EQ(found.has_value(), at != known_.end() && at->second.expiresAtMs > Now());
    if (found) {
      ASSERT_EQ(found->generation, at->second.generation);
      store_->Touch(found->slot);
      at->second.used = turn_;
      if (held_.size() < 12) {
        store_->Hold(found->slot);
        at->second.holds++;
        held_.push_back(at->second);
      }
    }
  }
  void Release() {
    if (held_.empty()) {
      return;
    }
    std::swap(held_[random_() % held_.size()], held_.back());
    const Known released = held_.back();
    held_.pop_back();
    store_->Release(released.slot);
    for (auto& [key, known] : known_) {
      if (known.generation == released.generation) {
        known.holds--;
        known.used = known.holds == 0 ? turn_ : known.used;
      }
    }
  }
  void Exists(const std::string& key) {
    const auto at = known_.find(key);
    const bool there = at != known_.end() && at->second.expiresAtMs > Now();
    ASSERT_EQ(store_->FindSealed(key).has_value(), there);
    const Explanation told = store_->Explain(key);
    ASSERT_EQ(told.where == Explanation::Where::kMemory, there);
    if (there) {
      ASSERT_EQ(told.evictable, at->second.MayGo()) << told.reason;
      ASSERT_EQ(told.holds, at->second.holds);
    }
  }
  void Drop(const std::string& key) {
    const auto at = known_.find(key);
    if (at != known_.end()) {
      ASSERT_TRUE(store_->Drop(at->second.slot, at->second.generation).ok());
      known_.erase(at);
    }
  }
  void Collect() {
    const auto limit = static_cast<uint32_t>(random_() % 5);
    std::vector<Ended> expected;
    ExpireInModel(limit, &expected);
    ASSERT_EQ(store_->CollectExpired(Now(), limit, note_), expected.size());
    ASSERT_EQ(ended_, expected);
  }
  void Pin_(const std::string& key) {
    const auto at = known_.find(key);
    if (at != known_.end() && at->second.expiresAtMs > Now() && !at->second.replica) {
      const Pin pin = static_cast<Pin>(random_() % 3);
      // It moves to the newest end of another list; it stays where it is in its own.
      at->second.used = pin == at->second.pin || at->second.holds > 0 ? at->second.used : turn_;
      ASSERT_TRUE(store_->SetPin(at->second.slot, at->second.generation, pin).ok());
      at->second.pin = pin;
    }
  }
  void Evict() {
    const auto scope = static_cast<EvictionScope>(random_() % 3);
    const auto limit = static_cast<uint32_t>(random_() % 6);
    std::vector<Ended> expected;
    uint64_t used = Used();
    const uint64_t target = used - std::min(used, random_() % 8192);
    while (used > target && expected.size() < limit) {
      const auto victim = Victim(static_cast<int>(scope));
      if (victim == known_.end()) {
        break;
      }
      used -= store_->SlotAt(victim->second.slot).extentBytes;
      EndInModel(victim, EndReason::kEvicted, &expected);
    }
    ASSERT_EQ(store_->EvictTo(target, limit, note_, scope), expected.size());
    ASSERT_EQ(ended_, expected);
    ASSERT_EQ(Used(), used);
  }

  void Check() {
    const StoreUsage usage = store_->usage();
    ASSERT_EQ(usage.objects, known_.size());
    ASSERT_EQ(usage.holds, held_.size());
    uint64_t hard = 0;
    uint64_t evictable = 0;
    for (const auto& [key, known] : known_) {
      const uint64_t bytes = store_->SlotAt(known.slot).extentBytes;
      hard += known.pin == Pin::kHard ? bytes : 0;
      evictable += known.MayGo() ? bytes : 0;
    }
    ASSERT_EQ(usage.hardPinnedBytes, hard);
    ASSERT_EQ(usage.evictableBytes, evictable);
  }

  const bool oneSize_;
  std::mt19937_64 random_{testing_support::Seed()};
  ManualClock clock_{1'000'000'000};
  std::unique_ptr<ObjectStore> store_;
  std::map<std::string, Known> known_;
  std::vector<Known> held_;
  uint64_t generation_ = 0;
  uint64_t turn_ = 0;
  uint64_t evictions_ = 0;
  std::vector<Ended> ended_;
  const EndedSink note_ = [this](const EndedObject& ended) {
    ended_.push_back({std::string(ended.key), ended.generation, ended.reason});
  };
};

void RunModel(bool oneSize) {
  Model model(oneSize);
  for (int step = 0; step < 30'000; step++) {
    model.Step();
    ASSERT_FALSE(::testing::Test::HasFatalFailure()) << "step " << step;
  }
  EXPECT_GT(model.evictions(), 100U);
}

TEST(ObjectLifeModel, ObjectsOfOneSizeEndOneByOneAsInTheModel) { RunModel(true); }
TEST(ObjectLifeModel, ObjectsOfManySizesEndOnlyWhenTheyMay) { RunModel(false); }

}  // namespace
}  // namespace hbmesh
