// Goal: a process killed at any moment leaves a store and a tier from which the next one goes on: every object that it
// finds has the right bytes, its time to live and its pin, in memory or on the tier. Method: a child works on a store
// with a tier and writes down, in memory that outlives it, what it has done; it is killed, and store and tier are
// adopted and compared. Objects may be missing only as an eviction may take them: hard pins are all there.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <random>

#include "base/mapped_memory.h"
#include "base/test_support.h"
#include "store/spiller.h"

namespace hbmesh {
namespace {

using testing_support::Pattern;

constexpr uint32_t kKeys = 40;
constexpr uint64_t kArena = 128 << 10;
constexpr uint64_t kTierBytes = 400 << 10;
constexpr uint64_t kNowMs = 1000;

struct TestDirectory {
  TestDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "hbmesh-spiller-XXXXXX").string();
    path = ::mkdtemp(pattern.data());
  }
  ~TestDirectory() { std::filesystem::remove_all(path); }
  std::string path;
};

// What the child did to a key: a generation, or 0. `now` is done, `next` may be.
struct KeyLog {
  std::atomic<uint64_t> now;
  std::atomic<uint64_t> next;
};
struct WorkLog {
  std::atomic<uint64_t> steps;
  KeyLog keys[kKeys];
};

// Everything about an object follows from its generation. Keys below 2 are pinned hard.
uint64_t BytesFor(uint64_t generation) { return 1 + generation * 977 % 9000; }
ObjectAttributes AttributesFor(uint64_t key, uint64_t generation) {
  return {.ttlMs = generation % 3 == 0 ? 0 : 10'000 + generation % 100,
          .pin = key < 2 ? Pin::kHard : (generation % 4 == 0 ? Pin::kSoft : Pin::kNone)};
}

Status OpenTier(const std::string& directory, ObjectStore& store, const EndedSink& ended, std::function<void()> wake,
                std::unique_ptr<Spiller>* spiller) {
  return Spiller::Open({.directory = directory, .bytesMax = kTierBytes, .chunkBytes = 4096}, store, ended,
                       std::move(wake), spiller);
}

[[noreturn]] void WorkForEver(ObjectStore* store, const std::string& directory, WorkLog* log, uint64_t seed) {
  std::mt19937_64 random(seed);
  const ManualClock clock(kNowMs * 1'000'000);
  store->SetClock(&clock);
  std::unique_ptr<Spiller> spiller;
  const EndedSink none = [](const EndedObject&) {};
  if (!OpenTier(directory, *store, none, {}, &spiller).ok()) {
    ::_exit(1);
  }
  for (uint64_t generation = 1;; generation++) {
    log->steps.store(generation);
    const uint64_t key = random() % kKeys;
    const std::string name = std::to_string(key);
    const auto found = store->FindSealed(name);
    if (random() % 3 == 0 && found) {
      spiller->BringBack(found->slot, found->generation, [](const Status&, const ObjectView*) {});
    } else {
      ObjectView view;
      const uint64_t sizes[] = {BytesFor(generation)};
      if (store->Allocate(name, sizes, &view, AttributesFor(key, generation), &none).ok()) {
        const auto bytes = Pattern(generation, sizes[0]);
        std::memcpy(view.payload, bytes.data(), bytes.size());
        log->keys[key].next.store(generation);
        store->MarkWritten(view.slot, generation);
        store->Seal(view.slot, kNowMs);
        log->keys[key].now.store(generation);
      }
    }
    spiller->Balance();
    spiller->Poll();
    if (random() % 4 == 0) {
      while (!spiller->idle()) {
        ::sched_yield();
        spiller->Poll();
      }
    }
  }
}

struct Adopted {
  std::mutex mutex;
  std::condition_variable changed;
  bool signalled = false;
  uint64_t lost = 0;
  ManualClock clock{kNowMs * 1'000'000};
  std::unique_ptr<ObjectStore> store;
  std::unique_ptr<Spiller> spiller;

  Adopted(const ObjectStore& left, const std::string& directory) {
    Fd memory(::fcntl(left.memoryFd(), F_DUPFD_CLOEXEC, 0));
    EXPECT_TRUE(ObjectStore::Adopt(std::move(memory), &store).ok());
    store->SetClock(&clock);
    const EndedSink note = [this](const EndedObject& ended) { lost += ended.reason == EndReason::kLost ? 1 : 0; };
    const auto wake = [this] {
      const std::lock_guard lock(mutex);
      signalled = true;
      changed.notify_all();
    };
    const Status status = OpenTier(directory, *store, note, wake, &spiller);
    EXPECT_TRUE(status.ok()) << status.ToString();
  }
  Status BringBack(const ObjectView& object) {
    Status told;
    spiller->BringBack(object.slot, object.generation, [&](const Status& status, const ObjectView* back) {
      told = status;
      if (back != nullptr) {
        const auto bytes = Pattern(back->generation, back->payloadBytes);
        EXPECT_EQ(std::memcmp(back->payload, bytes.data(), bytes.size()), 0) << "other bytes";
      }
    });
    while (!spiller->idle()) {
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return signalled; });
        signalled = false;
      }
      spiller->Poll();
    }
    return told;
  }
};

// Compares what was found with what the child wrote down; tells how many objects were on the tier.
uint64_t Compare(Adopted* adopted, const WorkLog& log) {
  uint64_t spilled = 0;
  uint64_t found = 0;
  for (uint64_t key = 0; key < kKeys; key++) {
    const auto view = adopted->store->FindSealed(std::to_string(key));
    const uint64_t now = log.keys[key].now.load();
    const uint64_t next = log.keys[key].next.load();
    if (!view) {
      EXPECT_TRUE(key >= 2 || now == 0) << "a hard pinned object is gone";
      continue;
    }
    found++;
    EXPECT_TRUE(view->generation == now || view->generation == next) << key;
    const ObjectAttributes wanted = AttributesFor(key, view->generation);
    EXPECT_EQ(view->attributes.ttlMs, wanted.ttlMs);
    EXPECT_EQ(view->attributes.pin, wanted.pin);
    EXPECT_EQ(view->payloadBytes, BytesFor(view->generation));
    spilled += view->state == SlotState::kSpilled ? 1 : 0;
    const Status back = adopted->BringBack(*view);
    // To bring one back others make room; they may be dropped from a full tier, this one not.
    EXPECT_TRUE(back.ok()) << back.ToString();
  }
  EXPECT_GT(found, 0U);
  return spilled;
}

TEST(SpillerAdopt, GoesOnAfterAKillAtAnyMoment) {
  std::mt19937_64 random(testing_support::Seed());
  MappedMemory logMemory;
  Fd logFd;
  ASSERT_TRUE(CreateMemfd("log", 4096, false, &logFd).ok());
  ASSERT_TRUE(MappedMemory::Map(logFd.get(), 0, 4096, true, &logMemory).ok());
  auto* log = reinterpret_cast<WorkLog*>(logMemory.data());
  uint64_t spilled = 0;
  for (int round = 0; round < 25; round++) {
    const TestDirectory directory;
    std::memset(logMemory.data(), 0, logMemory.bytes());
    std::unique_ptr<ObjectStore> store;
    ASSERT_TRUE(ObjectStore::Create({.arenaBytes = kArena, .slots = 200}, &store).ok());
    const uint64_t seed = random();
    const pid_t child = ::fork();
    if (child == 0) {
      WorkForEver(store.get(), directory.path, log, seed);
    }
    const uint64_t killAt = 60 + random() % 500;
    while (log->steps.load() < killAt) {
      ::sched_yield();
    }
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status));

    Adopted adopted(*store, directory.path);
    EXPECT_EQ(adopted.store->usage().damaged, 0U);
    EXPECT_EQ(adopted.lost, 0U);
    spilled += Compare(&adopted, *log);
    // Time goes on: those with a time to live end, wherever they are; the others stay.
    adopted.clock.AdvanceMs(20'000);
    adopted.store->CollectExpired(adopted.clock.NowMs(), UINT32_MAX, {});
    adopted.store->ForEachSealed([](const ObjectView& view) { EXPECT_EQ(view.attributes.ttlMs, 0U); });
    EXPECT_EQ(adopted.store->nextExpiryMs(), UINT64_MAX);
    ASSERT_FALSE(HasFailure()) << "round " << round;
  }
  EXPECT_GT(spilled, 0U);
}

TEST(SpillerAdopt, AdoptionOrdersByWhenObjectsWereSealed) {
  std::unique_ptr<ObjectStore> store;
  ASSERT_TRUE(ObjectStore::Create({.arenaBytes = kArena}, &store).ok());
  const std::pair<const char*, uint64_t> objects[] = {{"c", 30}, {"a", 10}, {"b", 20}};
  uint64_t generation = 0;
  for (const auto& [key, sealedAtMs] : objects) {
    ObjectView view;
    const uint64_t sizes[] = {100};
    ASSERT_TRUE(store->Allocate(key, sizes, &view).ok());
    store->MarkWritten(view.slot, ++generation);
    store->Seal(view.slot, sealedAtMs);
  }
  std::unique_ptr<ObjectStore> adopted;
  ASSERT_TRUE(ObjectStore::Adopt(Fd(::fcntl(store->memoryFd(), F_DUPFD_CLOEXEC, 0)), &adopted).ok());
  std::string order;
  adopted->EvictTo(0, 10, [&](const EndedObject& ended) { order += ended.key; });
  EXPECT_EQ(order, "abc");
}

// A store with one object that was spilled to a place that no file has.
std::unique_ptr<ObjectStore> StoreWithoutItsTier() {
  std::unique_ptr<ObjectStore> store;
  EXPECT_TRUE(ObjectStore::Create({.arenaBytes = kArena}, &store).ok());
  const uint64_t sizes[] = {5000};
  ObjectView view;
  EXPECT_TRUE(store->Allocate("key", sizes, &view).ok());
  store->MarkWritten(view.slot, 1);
  store->Seal(view.slot, 1);
  store->BeginSpill(view.slot);
  EXPECT_TRUE(store->EndSpill(view.slot, 4096));
  return store;
}

TEST(SpillerAdopt, AStoreWithoutItsTierDropsWhatWasSpilled) {
  const TestDirectory directory;
  const auto withNewTier = StoreWithoutItsTier();
  const Adopted adopted(*withNewTier, directory.path);
  EXPECT_EQ(adopted.lost, 1U);
  EXPECT_EQ(adopted.store->usage().objects, 0U);

  const auto withNone = StoreWithoutItsTier();
  uint64_t lost = 0;
  EXPECT_EQ(Spiller::DropSpilled(*withNone, [&](const EndedObject& ended) { lost += ended.key == "key" ? 1 : 0; }), 1U);
  EXPECT_EQ(lost, 1U);
  EXPECT_EQ(withNone->usage().usedBytes, 0U);
}

}  // namespace
}  // namespace hbmesh
