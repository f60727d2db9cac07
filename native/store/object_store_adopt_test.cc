// Goal: after a kill at any moment exactly the sealed objects are found again, with their bytes; damaged ones are given
// up one by one, never the store. Method: a child process works on a store and writes down, in memory that outlives it,
// what it is about to do and what it has done; it is killed in the middle, and the store is adopted and compared. Then
// a store whose bytes were tampered with.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <random>

#include "base/mapped_memory.h"
#include "base/test_support.h"
#include "store/object_format.h"
#include "store/object_store.h"

namespace hbmesh {
namespace {

using testing_support::Pattern;

constexpr uint32_t kKeys = 12;
constexpr uint64_t kArenaBytes = 256 << 10;

Fd Duplicate(int fd) { return Fd(::fcntl(fd, F_DUPFD_CLOEXEC, 0)); }

std::unique_ptr<ObjectStore> MakeStore(StoreOptions options = {.arenaBytes = kArenaBytes}) {
  std::unique_ptr<ObjectStore> store;
  const Status status = ObjectStore::Create(options, &store);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return store;
}

std::unique_ptr<ObjectStore> AdoptCopyOf(const ObjectStore& store) {
  std::unique_ptr<ObjectStore> adopted;
  const Status status = ObjectStore::Adopt(Duplicate(store.memoryFd()), &adopted);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return adopted;
}

std::string KeyOf(uint64_t number) { return "key" + std::to_string(number); }

uint64_t BytesFor(uint64_t generation) { return 1 + generation * 977 % 9000; }

bool HasPattern(const ObjectView& view, uint64_t id) {
  const auto bytes = Pattern(id, view.payloadBytes);
  return std::memcmp(view.payload, bytes.data(), bytes.size()) == 0;
}

// False: the arena is full.
bool Write(ObjectStore* store, const std::string& key, uint64_t generation, ObjectView* view) {
  const uint64_t sizes[] = {BytesFor(generation)};
  if (!store->Allocate(key, sizes, view).ok()) {
    return false;
  }
  const auto bytes = Pattern(generation, view->payloadBytes);
  std::memcpy(view->payload, bytes.data(), bytes.size());
  return true;
}

uint32_t Put(ObjectStore* store, const std::string& key, uint64_t generation) {
  ObjectView view;
  EXPECT_TRUE(Write(store, key, generation, &view));
  store->MarkWritten(view.slot, generation);
  store->Seal(view.slot, 1);
  return view.slot;
}

// Everything can be dropped, and nothing is left: no extent or slot was lost.
void ExpectEmptiesWhole(ObjectStore* store) {
  std::vector<uint32_t> slots;
  store->ForEachSealed([&](const ObjectView& view) { slots.push_back(view.slot); });
  EXPECT_EQ(store->usage().objects, slots.size());
  for (const uint32_t slot : slots) {
    EXPECT_TRUE(store->Drop(slot, 0).ok());
  }
  EXPECT_EQ(store->usage().usedBytes, 0U);
  ObjectView view;
  const uint64_t all[] = {store->usage().arenaBytes - 128};
  EXPECT_TRUE(store->Allocate("all", all, &view).ok());
  EXPECT_TRUE(store->Drop(view.slot, 0).ok());
}

// ----- kills -----

// What the child did to one key: `now` is done, `next` may be done. A generation, or 0 for no object.
struct KeyLog {
  std::atomic<uint64_t> now;
  std::atomic<uint64_t> next;
};
struct WorkLog {
  std::atomic<uint64_t> steps;
  KeyLog keys[kKeys];
};

[[noreturn]] void WorkForEver(ObjectStore* store, WorkLog* log, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<uint32_t> held;
  std::vector<uint32_t> unfinished;
  uint32_t slots[kKeys] = {};
  for (uint64_t generation = 1;; generation++) {
    log->steps.store(generation);
    const uint64_t number = random() % kKeys;
    KeyLog& entry = log->keys[number];
    if (unfinished.size() > 4) {
      (void)store->Drop(unfinished.front(), 0);
      unfinished.erase(unfinished.begin());
    }
    if (held.size() > 4) {
      store->Release(held.front());
      held.erase(held.begin());
    }
    ObjectView view;
    if (random() % 4 == 0) {
      if (entry.now.load() != 0) {
        if (random() % 2 == 0) {
          store->Hold(slots[number]);
          held.push_back(slots[number]);
        }
        entry.next.store(0);
        (void)store->Drop(slots[number], entry.now.load());
        entry.now.store(0);
      }
    } else if (Write(store, KeyOf(number), generation, &view)) {
      const uint64_t fate = random() % 8;
      if (fate < 2) {
        if (fate == 1) {
          store->MarkWritten(view.slot, generation);
        }
        unfinished.push_back(view.slot);  // stays kWriting or kWritten for a while
        continue;
      }
      entry.next.store(generation);
      store->MarkWritten(view.slot, generation);
      store->Seal(view.slot, generation);
      entry.now.store(generation);
      slots[number] = view.slot;
    }
  }
}

TEST(ObjectStoreAdopt, FindsExactlyTheSealedObjectsAfterAKillAtAnyMoment) {
  std::mt19937_64 random(testing_support::Seed());
  MappedMemory logMemory;
  Fd logFd;
  ASSERT_TRUE(CreateMemfd("log", 4096, false, &logFd).ok());
  ASSERT_TRUE(MappedMemory::Map(logFd.get(), 0, 4096, true, &logMemory).ok());
  auto* log = reinterpret_cast<WorkLog*>(logMemory.data());
  uint64_t found = 0;
  for (int round = 0; round < 60; round++) {
    std::memset(logMemory.data(), 0, logMemory.bytes());
    std::unique_ptr<ObjectStore> store = MakeStore();
    const uint64_t seed = random();
    const pid_t child = ::fork();
    if (child == 0) {
      WorkForEver(store.get(), log, seed);
    }
    const uint64_t killAt = 1 + random() % 3000;
    while (log->steps.load() < killAt) {
      ::sched_yield();
    }
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status));

    const auto adopted = AdoptCopyOf(*store);
    ASSERT_NE(adopted, nullptr);
    EXPECT_EQ(adopted->usage().damaged, 0U);
    EXPECT_EQ(adopted->usage().heldBytes, 0U);
    uint64_t objects = 0;
    for (uint64_t number = 0; number < kKeys; number++) {
      const auto view = adopted->FindSealed(KeyOf(number));
      const uint64_t generation = view ? view->generation : 0;
      const KeyLog& entry = log->keys[number];
      ASSERT_TRUE(generation == entry.now.load() || generation == entry.next.load())
          << KeyOf(number) << " has generation " << generation << ", not " << entry.now.load() << " or "
          << entry.next.load() << ", round " << round;
      if (view) {
        objects++;
        ASSERT_EQ(view->payloadBytes, BytesFor(generation));
        ASSERT_TRUE(HasPattern(*view, generation)) << "round " << round;
        ObjectView same;
        EXPECT_TRUE(adopted->FindSlot(view->slot, generation, &same).ok());
      }
    }
    EXPECT_EQ(adopted->usage().objects, objects);
    found += objects;
    ExpectEmptiesWhole(adopted.get());
    ASSERT_FALSE(HasFailure()) << "round " << round;
  }
  EXPECT_GT(found, 0U);
}

TEST(ObjectStoreAdopt, LeavesOutEveryStateButSealed) {
  const auto store = MakeStore();
  Put(store.get(), "sealed", 1);
  const uint32_t dropped = Put(store.get(), "dropped", 2);
  ObjectView writing;
  ObjectView written;
  ASSERT_TRUE(Write(store.get(), "writing", 3, &writing));
  ASSERT_TRUE(Write(store.get(), "written", 4, &written));
  store->MarkWritten(written.slot, 4);
  store->Hold(dropped);
  ASSERT_TRUE(store->Drop(dropped, 2).ok());

  const auto adopted = AdoptCopyOf(*store);
  EXPECT_EQ(adopted->usage().objects, 1U);
  EXPECT_EQ(adopted->usage().damaged, 0U);
  ASSERT_TRUE(adopted->FindSealed("sealed").has_value());
  EXPECT_TRUE(HasPattern(*adopted->FindSealed("sealed"), 1));
  for (const char* gone : {"dropped", "writing", "written"}) {
    EXPECT_EQ(adopted->FindSealed(gone), std::nullopt) << gone;
  }
  ObjectView view;
  EXPECT_EQ(adopted->FindSlot(written.slot, 4, &view).code(), StatusCode::kTryAgain);
  // It works on, and can be adopted once more.
  Put(adopted.get(), "later", 5);
  EXPECT_EQ(AdoptCopyOf(*adopted)->usage().objects, 2U);
  ExpectEmptiesWhole(adopted.get());
}

// ----- damage -----

ObjectSlot* TableOf(ObjectStore* store) {
  std::byte* memory = store->memory().data();
  return reinterpret_cast<ObjectSlot*>(memory + reinterpret_cast<const StoreHeader*>(memory)->tableOffset);
}

// A store with three sealed objects, and its memory to tamper with.
struct Tampered {
  Tampered() : store(MakeStore()) {
    for (uint64_t i = 0; i < 3; i++) {
      slots[i] = Put(store.get(), KeyOf(i), 10 + i);
    }
    table = TableOf(store.get());
  }
  ObjectSlot& slot(size_t i) { return table[slots[i]]; }
  ObjectHeader& header(size_t i) {
    return *reinterpret_cast<ObjectHeader*>(store->memory().data() + slot(i).extentOffset);
  }
  std::byte* bytes(size_t i) { return store->memory().data() + slot(i).extentOffset; }
  std::unique_ptr<ObjectStore> store;
  uint32_t slots[3] = {};
  ObjectSlot* table;
};

TEST(ObjectStoreAdopt, GivesUpDamagedObjectsAndKeepsTheOthers) {
  using Damage = std::function<void(Tampered*)>;
  const std::vector<std::pair<const char*, Damage>> damages = {
      {"extent beyond the memory", [](Tampered* t) { t->slot(1).extentOffset = 1ULL << 40; }},
      {"extent before the arena", [](Tampered* t) { t->slot(1).extentOffset = 64; }},
      {"extent not aligned", [](Tampered* t) { t->slot(1).extentOffset += 8; }},
      {"extent that overflows", [](Tampered* t) { t->slot(1).extentBytes = UINT64_MAX - 63; }},
      {"empty extent", [](Tampered* t) { t->slot(1).extentBytes = 0; }},
      {"short extent", [](Tampered* t) { t->slot(1).extentBytes = 64; }},
      {"another hash", [](Tampered* t) { t->slot(1).keyHash++; }},
      {"another generation", [](Tampered* t) { t->slot(1).generation++; }},
      {"no magic", [](Tampered* t) { t->header(1).magic = 0; }},
      {"another version", [](Tampered* t) { t->header(1).version = 2; }},
      {"no blobs", [](Tampered* t) { t->header(1).blobCount = 0; }},
      {"very many blobs", [](Tampered* t) { t->header(1).blobCount = UINT32_MAX; }},
      {"long key", [](Tampered* t) { t->header(1).keyBytes = UINT16_MAX; }},
      {"no key", [](Tampered* t) { t->header(1).keyBytes = 0; }},
      {"payload elsewhere", [](Tampered* t) { t->header(1).payloadOffset += 64; }},
      {"longer payload", [](Tampered* t) { t->header(1).payloadBytes++; }},
      {"another blob size", [](Tampered* t) { t->bytes(1)[sizeof(ObjectHeader)] ^= std::byte{1}; }},
      {"another key", [](Tampered* t) { t->bytes(1)[sizeof(ObjectHeader) + 8] ^= std::byte{1}; }},
      {"payload longer, checksum right",
       [](Tampered* t) {
         t->header(1).payloadBytes += 1 << 20;
         object_format::Finish(t->bytes(1), t->header(1).generation);
       }},
      {"blob size longer than the extent, checksum right",
       [](Tampered* t) {
         const uint64_t bytes = 1 << 20;
         std::memcpy(t->bytes(1) + sizeof(ObjectHeader), &bytes, sizeof(bytes));
         t->header(1).payloadBytes = bytes;
         object_format::Finish(t->bytes(1), t->header(1).generation);
       }},
  };
  for (const auto& [name, damage] : damages) {
    SCOPED_TRACE(name);
    Tampered tampered;
    damage(&tampered);
    const auto adopted = AdoptCopyOf(*tampered.store);
    ASSERT_NE(adopted, nullptr);
    EXPECT_EQ(adopted->usage().damaged, 1U);
    EXPECT_EQ(adopted->usage().objects, 2U);
    EXPECT_EQ(adopted->FindSealed(KeyOf(1)), std::nullopt);
    for (const uint64_t whole : {0, 2}) {
      ASSERT_TRUE(adopted->FindSealed(KeyOf(whole)).has_value());
      EXPECT_TRUE(HasPattern(*adopted->FindSealed(KeyOf(whole)), 10 + whole));
    }
    ExpectEmptiesWhole(adopted.get());
  }
}

TEST(ObjectStoreAdopt, GivesUpBothOfTwoObjectsThatOverlap) {
  Tampered tampered;
  ASSERT_LT(tampered.slot(0).extentOffset, tampered.slot(1).extentOffset);
  tampered.slot(0).extentBytes = tampered.slot(1).extentOffset + 64 - tampered.slot(0).extentOffset;
  const auto adopted = AdoptCopyOf(*tampered.store);
  EXPECT_EQ(adopted->usage().damaged, 2U);
  EXPECT_EQ(adopted->usage().objects, 1U);
  EXPECT_TRUE(HasPattern(*adopted->FindSealed(KeyOf(2)), 12));
  ExpectEmptiesWhole(adopted.get());
}

TEST(ObjectStoreAdopt, KeepsTheHigherGenerationOfTwoUnderOneKey) {
  // As a kill in the middle of Seal leaves it: the new one is sealed, the old one not dropped yet.
  const auto store = MakeStore();
  const uint32_t old = Put(store.get(), "key", 1);
  ObjectView next;
  ASSERT_TRUE(Write(store.get(), "key", 2, &next));
  store->MarkWritten(next.slot, 2);
  TableOf(store.get())[next.slot].state = static_cast<uint32_t>(SlotState::kSealed);
  const auto adopted = AdoptCopyOf(*store);
  EXPECT_EQ(adopted->usage().objects, 1U);
  EXPECT_EQ(adopted->usage().damaged, 0U);
  EXPECT_EQ(adopted->FindSealed("key")->generation, 2U);
  EXPECT_TRUE(HasPattern(*adopted->FindSealed("key"), 2));
  ObjectView view;
  EXPECT_EQ(adopted->FindSlot(old, 1, &view).code(), StatusCode::kTryAgain);
  ExpectEmptiesWhole(adopted.get());
}

TEST(ObjectStoreAdopt, FindsAllWhenHowFarTheTableWasUsedIsDamaged) {
  for (const uint64_t value : {uint64_t{1} << 40, UINT64_MAX, uint64_t{3}}) {
    Tampered tampered;
    auto* progress = reinterpret_cast<StoreProgress*>(tampered.store->memory().data() + kStoreProgressOffset);
    EXPECT_EQ(progress->slotsOpened, (uint64_t{~4096U} << 32 | 4096U));
    progress->slotsOpened = value;
    const auto adopted = AdoptCopyOf(*tampered.store);
    ASSERT_NE(adopted, nullptr);
    EXPECT_EQ(adopted->usage().objects, 3U) << value;
    ExpectEmptiesWhole(adopted.get());
  }
}

// The table has address space for as many bytes as the arena: of what was never used no page is taken.
TEST(ObjectStoreAdopt, TakesNoMemoryForATableWhoseUseIsDamaged) {
  const auto store = MakeStore({.arenaBytes = 64 << 20});
  for (uint64_t i = 0; i < 5'000; i++) Put(store.get(), KeyOf(i), 1);
  auto* progress = reinterpret_cast<StoreProgress*>(store->memory().data() + kStoreProgressOffset);
  progress->slotsOpened = 3;
  struct stat before {};
  ASSERT_EQ(::fstat(store->memoryFd(), &before), 0);
  const auto adopted = AdoptCopyOf(*store);
  ASSERT_NE(adopted, nullptr);
  struct stat after {};
  ASSERT_EQ(::fstat(store->memoryFd(), &after), 0);
  EXPECT_EQ(adopted->usage().objects, 5'000U);
  // In 512 bytes each. Beside the 5,000 slots there are those of the last step.
  EXPECT_LE((after.st_blocks - before.st_blocks) * 512, (1 << 20)) << "of 64 MiB";
  Put(adopted.get(), "later", 2);
}

TEST(ObjectStoreAdopt, SurvivesAnyScribble) {
  std::mt19937_64 random(testing_support::Seed());
  for (int round = 0; round < 600; round++) {
    Tampered tampered;
    const uint64_t objects = tampered.slot(0).extentOffset;
    for (int i = 0; i < 4; i++) {
      // A word of the three slots, or of the first object's header, sizes and key.
      const auto* slots = reinterpret_cast<const std::byte*>(tampered.table);
      const auto table = static_cast<uint64_t>(slots - tampered.store->memory().data());
      const uint64_t offset = random() % 2 == 0 ? table + random() % (3 * sizeof(ObjectSlot)) : objects + random() % 64;
      const uint64_t value = random() % 2 == 0 ? random() : random() % 4;
      std::memcpy(tampered.store->memory().data() + offset / 8 * 8, &value, sizeof(value));
    }
    const auto adopted = AdoptCopyOf(*tampered.store);
    ASSERT_NE(adopted, nullptr);
    ASSERT_LE(adopted->usage().objects + adopted->usage().damaged, 1024U);
    ExpectEmptiesWhole(adopted.get());
    ASSERT_FALSE(HasFailure()) << "round " << round;
  }
}

TEST(ObjectStoreAdopt, RefusesWhatIsNoStore) {
  const auto adopt = [](Fd memory) {
    std::unique_ptr<ObjectStore> store;
    return ObjectStore::Adopt(std::move(memory), &store);
  };
  Fd unsealed(::memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(unsealed.get(), 1 << 20), 0);
  EXPECT_EQ(adopt(std::move(unsealed)).code(), StatusCode::kDataInconsistency);
  Fd zeros;
  ASSERT_TRUE(CreateMemfd("zeros", 1 << 20, false, &zeros).ok());
  EXPECT_EQ(
      adopt(std::move(zeros)).message(),
      "the memory to adopt is no object store: it doesn't begin with the magic number; start the sidecar without it, "
      "its objects are lost");
  for (size_t offset = 0; offset < sizeof(StoreHeader); offset += 4) {
    const auto store = MakeStore();
    store->memory()[offset] ^= std::byte{0x40};
    EXPECT_EQ(adopt(Duplicate(store->memoryFd())).code(), StatusCode::kDataInconsistency) << offset;
  }
}

TEST(ObjectStoreAdopt, TheMemoryCanNotBeResized) {
  const auto store = MakeStore();
  EXPECT_EQ(::ftruncate(store->memoryFd(), 4096), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::ftruncate(store->memoryFd(), 1 << 30), -1);
  EXPECT_EQ(errno, EPERM);
}

}  // namespace
}  // namespace hbmesh
