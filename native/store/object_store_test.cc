// Goal: objects are visible whole or not at all, keep their bytes while they are held, and every fault is answered with
// its cause. Method: each promise of object_store.h by itself; then random operations against a model, with the bytes
// compared.
#include "store/object_store.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <random>

#include "base/crc32c.h"
#include "base/test_support.h"

namespace hbmesh {
namespace {

using testing_support::Pattern;

std::unique_ptr<ObjectStore> MakeStore(StoreOptions options) {
  std::unique_ptr<ObjectStore> store;
  const Status status = ObjectStore::Create(options, &store);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return store;
}

// Allocates an object and fills it with Pattern(id).
ObjectView Begin(ObjectStore* store, std::string_view key, std::vector<uint64_t> blobSizes, uint64_t id) {
  ObjectView view;
  const Status status = store->Allocate(key, blobSizes, &view);
  EXPECT_TRUE(status.ok()) << status.ToString();
  const auto bytes = Pattern(id, view.payloadBytes);
  std::memcpy(view.payload, bytes.data(), bytes.size());
  return view;
}

uint32_t Put(ObjectStore* store, std::string_view key, std::vector<uint64_t> blobSizes, uint64_t generation) {
  const ObjectView view = Begin(store, key, std::move(blobSizes), generation);
  store->MarkWritten(view.slot, generation);
  store->Seal(view.slot, 7);
  return view.slot;
}

bool HasPattern(const ObjectView& view, uint64_t id) {
  const auto bytes = Pattern(id, view.payloadBytes);
  return std::memcmp(view.payload, bytes.data(), bytes.size()) == 0;
}

TEST(ObjectStore, ShowsAnObjectOnlyWhenItIsSealed) {
  const auto store = MakeStore({.arenaBytes = 1 << 20});
  const ObjectView writing = Begin(store.get(), "key", {100, 28}, 5);
  EXPECT_EQ(writing.state, SlotState::kWriting);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(writing.payload) % 64, 0U);
  EXPECT_EQ(writing.payload, store->memory().data() + writing.payloadFdOffset);
  EXPECT_EQ(store->FindSealed("key"), std::nullopt);
  ObjectView found;
  EXPECT_EQ(store->FindSlot(writing.slot, 0, &found).code(), StatusCode::kTryAgain);

  store->SetPayloadCrc(writing.slot, Crc32c({writing.payload, writing.payloadBytes}));
  store->MarkWritten(writing.slot, 41);
  EXPECT_EQ(store->FindSealed("key"), std::nullopt);
  ASSERT_TRUE(store->FindSlot(writing.slot, 41, &found).ok());
  EXPECT_EQ(found.state, SlotState::kWritten);

  store->Seal(writing.slot, 1234);
  const auto sealed = store->FindSealed("key");
  ASSERT_TRUE(sealed.has_value());
  EXPECT_EQ(sealed->slot, writing.slot);
  EXPECT_EQ(sealed->generation, 41U);
  EXPECT_EQ(sealed->state, SlotState::kSealed);
  EXPECT_EQ(sealed->key, "key");
  EXPECT_EQ(std::vector<uint64_t>(sealed->blobSizes.begin(), sealed->blobSizes.end()),
            (std::vector<uint64_t>{100, 28}));
  EXPECT_EQ(sealed->payloadBytes, 128U);
  EXPECT_EQ(sealed->sealedAtMs, 1234U);
  EXPECT_EQ(sealed->payloadCrc32c, Crc32c(Pattern(5, 128)));
  EXPECT_TRUE(HasPattern(*sealed, 5));
  EXPECT_EQ(store->usage().objects, 1U);
  EXPECT_EQ(store->usage().heldBytes, 0U);
}

TEST(ObjectStore, ReplacesAtOnceAndKeepsHeldBytes) {
  const auto store = MakeStore({.arenaBytes = 1 << 20});
  const uint32_t old = Put(store.get(), "key", {1000}, 1);
  const uint64_t usedByOne = store->usage().usedBytes;
  const ObjectView held = *store->FindSealed("key");
  store->Hold(old);
  // Two more writers under the same key at once.
  const ObjectView second = Begin(store.get(), "key", {1000}, 2);
  const ObjectView third = Begin(store.get(), "key", {1000}, 3);
  store->MarkWritten(second.slot, 2);
  store->MarkWritten(third.slot, 3);
  EXPECT_TRUE(HasPattern(*store->FindSealed("key"), 1));
  store->Seal(third.slot, 8);
  EXPECT_EQ(store->FindSealed("key")->generation, 3U);
  // The second set was before the third: it can't come back.
  store->Seal(second.slot, 9);
  EXPECT_EQ(store->FindSealed("key")->generation, 3U);
  EXPECT_TRUE(HasPattern(*store->FindSealed("key"), 3));
  EXPECT_EQ(store->usage().objects, 1U);

  // The first is gone for everybody but its holder.
  ObjectView found;
  EXPECT_EQ(store->FindSlot(old, 1, &found).code(), StatusCode::kTryAgain);
  EXPECT_EQ(store->usage().usedBytes, 2 * usedByOne);
  EXPECT_EQ(store->usage().heldBytes, usedByOne);
  EXPECT_EQ(store->usage().holds, 1U);
  EXPECT_TRUE(HasPattern(held, 1));
  store->Release(old);
  EXPECT_EQ(store->usage().usedBytes, usedByOne);
  EXPECT_EQ(store->usage().heldBytes, 0U);
  EXPECT_EQ(store->usage().holds, 0U);
}

TEST(ObjectStore, DropsInEveryStateAndIgnoresOtherGenerations) {
  const auto store = MakeStore({.arenaBytes = 1 << 20});
  const ObjectView writing = Begin(store.get(), "writing", {10}, 1);
  const ObjectView written = Begin(store.get(), "written", {10}, 2);
  store->MarkWritten(written.slot, 2);
  const uint32_t sealed = Put(store.get(), "sealed", {10}, 3);

  EXPECT_TRUE(store->Drop(sealed, 4).ok());
  EXPECT_TRUE(store->FindSealed("sealed").has_value()) << "another generation was dropped";
  ObjectView found;
  const Status other = store->FindSlot(sealed, 4, &found);
  EXPECT_EQ(other.code(), StatusCode::kTryAgain);
  EXPECT_EQ(other.message(),
            "slot " + std::to_string(sealed) +
                " no longer holds generation 4: the object was deleted or replaced; look the key up again");

  EXPECT_TRUE(store->Drop(writing.slot, 0).ok());
  EXPECT_TRUE(store->Drop(written.slot, 2).ok());
  EXPECT_TRUE(store->Drop(sealed, 3).ok());
  EXPECT_EQ(store->FindSealed("sealed"), std::nullopt);
  EXPECT_EQ(store->usage().usedBytes, 0U);
  EXPECT_EQ(store->usage().objects, 0U);
  EXPECT_TRUE(store->Drop(sealed, 3).ok()) << "dropping twice is dropping once";
  EXPECT_EQ(store->Drop(1 << 20, 0).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(store->FindSlot(1 << 20, 1, &found).code(), StatusCode::kTryAgain);

  // The slot is used again; the old generation doesn't lead to the new object.
  const uint32_t again = Put(store.get(), "again", {10}, 9);
  EXPECT_EQ(again, sealed);
  EXPECT_EQ(store->FindSlot(again, 3, &found).code(), StatusCode::kTryAgain);
  EXPECT_TRUE(store->Drop(again, 3).ok());
  EXPECT_TRUE(store->FindSealed("again").has_value());
}

TEST(ObjectStore, SaysWhatFillsTheArena) {
  const auto store = MakeStore({.arenaBytes = 64 << 10});
  Put(store.get(), "sealed", {10'000}, 1);
  Begin(store.get(), "writing", {10'000}, 2);
  ObjectView view;
  const uint64_t sizes[] = {50'000};
  const Status full = store->Allocate("more", sizes, &view);
  EXPECT_EQ(full.code(), StatusCode::kOutOfMemory);
  EXPECT_EQ(
      full.message(),
      "the arena has no room for 50064 bytes: 20224 of 65536 are used, 10112 of them held by transfers, 0 hard pinned, "
      "10112 could be evicted; 45312 are free, the largest piece 45312; delete objects, unpin some, or start the "
      "worker "
      "with a larger arena");
  EXPECT_EQ(store->usage().usedBytes, 20224U);
}

TEST(ObjectStore, SaysThatTheTableIsFull) {
  const auto store = MakeStore({.arenaBytes = 64 << 10, .slots = 2});
  Put(store.get(), "a", {1}, 1);
  Put(store.get(), "b", {1}, 2);
  const uint64_t used = store->usage().usedBytes;
  ObjectView view;
  const uint64_t sizes[] = {1};
  const Status full = store->Allocate("c", sizes, &view);
  EXPECT_EQ(full.code(), StatusCode::kOutOfMemory);
  EXPECT_EQ(full.message(),
            "the object table is full: 2 of 2 slots are used, 2 by sealed objects; delete objects, or start the worker "
            "with a larger arena");
  EXPECT_EQ(store->usage().usedBytes, used) << "nothing stays behind";
}

// Issue 11: the table had a slot for each 16 KiB of arena, and smaller objects pushed each other out of a half empty
// one.
TEST(ObjectStore, TheArenaIsFullBeforeItsTable) {
  for (const uint64_t bytes : {1, 64, 1024, 4096}) {
    const auto store = MakeStore({.arenaBytes = 4 << 20});
    const uint64_t sizes[] = {bytes};
    ObjectView view;
    Status status;
    uint64_t count = 0;
    for (; (status = store->Allocate("k" + std::to_string(count), sizes, &view)).ok(); count++) {
      store->MarkWritten(view.slot, count + 1);
      store->Seal(view.slot, 1);
    }
    EXPECT_EQ(status.code(), StatusCode::kOutOfMemory);
    EXPECT_EQ(status.message().substr(0, 21), "the arena has no room") << status.message();
    EXPECT_EQ(count, (4U << 20) / ObjectStore::ExtentBytes("k12345", sizes)) << bytes;
    const StoreUsage usage = store->usage();
    EXPECT_EQ(usage.usedSlots, count);
    EXPECT_GT(usage.slots, count);
    EXPECT_GE(usage.tableBytes, count * sizeof(ObjectSlot));
    EXPECT_LE(usage.tableBytes, (count + 4096) * sizeof(ObjectSlot));
  }
}

// A table for very many objects must cost nothing until they are there, also for who adopts it.
TEST(ObjectStore, TheTableTakesMemoryAsItIsUsed) {
  auto store = MakeStore({.arenaBytes = 1 << 30, .prefault = false});
  for (uint64_t i = 0; i < 5'000; i++) Put(store.get(), "key" + std::to_string(i), {1}, i + 1);
  EXPECT_EQ(store->usage().slots, 1U << 24);
  EXPECT_EQ(store->usage().tableBytes, 2U * 4096 * sizeof(ObjectSlot));
  const auto backed = [&] {
    struct stat about {};
    EXPECT_EQ(::fstat(store->memoryFd(), &about), 0);
    return static_cast<uint64_t>(about.st_blocks) * 512;
  };
  const uint64_t before = backed();
  EXPECT_LE(before, 4U << 20);
  std::unique_ptr<ObjectStore> adopted;
  ASSERT_TRUE(ObjectStore::Adopt(Fd(::dup(store->memoryFd())), &adopted).ok());
  EXPECT_EQ(adopted->usage().objects, 5'000U);
  EXPECT_EQ(adopted->usage().usedSlots, 5'000U);
  EXPECT_LE(backed(), before + 4096 * sizeof(ObjectSlot)) << "adopting reads what was used, and no more";
  // And goes on: the table grows from where it was.
  for (uint64_t i = 5'000; i < 10'000; i++) Put(adopted.get(), "key" + std::to_string(i), {1}, i + 1);
  EXPECT_EQ(adopted->usage().objects, 10'000U);
}

// Who lists millions does so in parts.
TEST(ObjectStore, ListsInParts) {
  const auto store = MakeStore({.arenaBytes = 1 << 20});
  for (uint64_t i = 0; i < 10; i++) Put(store.get(), "key" + std::to_string(i), {1}, i + 1);
  EXPECT_TRUE(store->Drop(3, 0).ok());
  std::vector<uint32_t> seen;
  const auto see = [&](const ObjectView& object) { seen.push_back(object.slot); };
  EXPECT_EQ(store->ForEachSealedFrom(0, 4, see), 4U);
  EXPECT_EQ(store->ForEachSealedFrom(4, 4, see), 8U);
  EXPECT_EQ(store->ForEachSealedFrom(8, 4, see), 0U);
  EXPECT_EQ(store->ForEachSealedFrom(UINT32_MAX, UINT32_MAX, see), 0U);
  EXPECT_EQ(seen, (std::vector<uint32_t>{0, 1, 2, 4, 5, 6, 7, 8, 9}));
}

TEST(ObjectStore, RefusesWhatIsNoObject) {
  const auto store = MakeStore({.arenaBytes = 64 << 10});
  ObjectView view;
  const std::vector<uint64_t> one = {1};
  const std::vector<uint64_t> zero = {1, 0};
  const std::vector<uint64_t> overflow = {UINT64_MAX, 2};
  const std::vector<uint64_t> huge = {UINT64_MAX - 63};
  const std::vector<uint64_t> none;
  EXPECT_EQ(store->Allocate("", one, &view).code(), StatusCode::kInvalid);
  EXPECT_EQ(store->Allocate(std::string(65536, 'k'), one, &view).code(), StatusCode::kInvalid);
  EXPECT_EQ(store->Allocate("k", none, &view).code(), StatusCode::kInvalid);
  EXPECT_EQ(store->Allocate("k", zero, &view).code(), StatusCode::kInvalid);
  EXPECT_EQ(store->Allocate("k", overflow, &view).code(), StatusCode::kInvalid);
  EXPECT_EQ(store->Allocate("k", huge, &view).code(), StatusCode::kInvalid);
  EXPECT_EQ(store->Allocate(std::string(1024, 'k'), one, &view).code(), StatusCode::kOk);
}

TEST(ObjectStore, NamesTheRemedyWhenHugePagesAreMissing) {
  std::unique_ptr<ObjectStore> store;
  const Status status = ObjectStore::Create({.arenaBytes = 1ULL << 42, .slots = 1024, .hugePages = true}, &store);
  EXPECT_EQ(status.code(), StatusCode::kOutOfMemory);
  EXPECT_NE(status.message().find("sysctl vm.nr_hugepages=2097154"), std::string::npos) << status.message();
  EXPECT_EQ(ObjectStore::Create({.arenaBytes = 0}, &store).code(), StatusCode::kInvalid);
}

// A store, what it must hold, and one random operation on both at a time.
struct StoreAndModel {
  struct Known {
    uint64_t generation;
    uint32_t slot;
  };
  std::mt19937_64 random{testing_support::Seed()};
  std::unique_ptr<ObjectStore> store = MakeStore({.arenaBytes = 1 << 20, .slots = 300});
  std::map<std::string, Known> sealed;
  std::vector<std::pair<std::string, ObjectView>> writing;
  std::vector<std::pair<ObjectView, uint64_t>> held;  // and the pattern that it must keep
  uint64_t generation = 0;

  void Start(const std::string& key) {
    ObjectView view;
    std::vector<uint64_t> sizes(1 + random() % 5);
    for (auto& bytes : sizes) {
      bytes = 1 + random() % 2500;
    }
    const Status status = store->Allocate(key, sizes, &view);
    if (status.ok()) {
      writing.emplace_back(key, view);
    } else {
      ASSERT_EQ(status.code(), StatusCode::kOutOfMemory) << status.ToString();
    }
  }
  void Finish() {
    std::swap(writing[random() % writing.size()], writing.back());
    const auto [name, view] = writing.back();
    writing.pop_back();
    if (random() % 8 == 0) {
      ASSERT_TRUE(store->Drop(view.slot, 0).ok());
      return;
    }
    const auto bytes = Pattern(++generation, view.payloadBytes);
    std::memcpy(view.payload, bytes.data(), bytes.size());
    store->MarkWritten(view.slot, generation);
    store->Seal(view.slot, generation);
    sealed[name] = {generation, view.slot};
  }
  void Drop(const std::string& key) {
    const auto known = sealed.find(key);
    if (known != sealed.end()) {
      ASSERT_TRUE(store->Drop(known->second.slot, known->second.generation).ok());
      sealed.erase(known);
    }
  }
  void FindAndHold(const std::string& key) {
    const auto found = store->FindSealed(key);
    const auto known = sealed.find(key);
    ASSERT_EQ(found.has_value(), known != sealed.end());
    if (found) {
      ASSERT_EQ(found->generation, known->second.generation);
      ASSERT_TRUE(HasPattern(*found, found->generation));
      store->Hold(found->slot);
      held.emplace_back(*found, found->generation);
    }
  }
  void Release() {
    std::swap(held[random() % held.size()], held.back());
    ASSERT_TRUE(HasPattern(held.back().first, held.back().second)) << "held bytes changed";
    store->Release(held.back().first.slot);
    held.pop_back();
  }
  void Step() {
    const std::string key = "key" + std::to_string(random() % 200);
    const uint64_t choice = random() % 100;
    if (choice < 40) {
      Start(key);
    } else if (choice < 70 && !writing.empty()) {
      Finish();
    } else if (choice < 80) {
      Drop(key);
    } else if (choice < 90) {
      FindAndHold(key);
    } else if (!held.empty()) {
      Release();
    }
  }
  void DropAll() {
    for (const auto& [view, id] : held) {
      store->Release(view.slot);
    }
    for (const auto& [name, view] : writing) {
      ASSERT_TRUE(store->Drop(view.slot, 0).ok());
    }
    for (const auto& [name, known] : sealed) {
      ASSERT_TRUE(store->Drop(known.slot, known.generation).ok());
    }
  }
};

TEST(ObjectStore, AgreesWithAModel) {
  StoreAndModel both;
  for (int step = 0; step < 30'000; step++) {
    both.Step();
    ASSERT_FALSE(HasFatalFailure()) << "step " << step;
    ASSERT_EQ(both.store->usage().objects, both.sealed.size());
    ASSERT_EQ(both.store->usage().holds, both.held.size());
  }
  size_t seen = 0;
  both.store->ForEachSealed([&](const ObjectView& view) {
    EXPECT_EQ(both.sealed.at(std::string(view.key)).generation, view.generation);
    EXPECT_TRUE(HasPattern(view, view.generation));
    seen++;
  });
  EXPECT_EQ(seen, both.sealed.size());
  both.DropAll();
  EXPECT_EQ(both.store->usage().usedBytes, 0U);
  EXPECT_EQ(both.store->usage().heldBytes, 0U);
}

TEST(FormatsDocument, ShowsWhatAStoreHolds) {
  const auto example = testing_support::ReadExample("store");
  ASSERT_EQ(example.size(), 0x11040U) << "docs/FORMATS.md has no such example";
  const auto store = MakeStore({.arenaBytes = 65536, .slots = 1024, .storeId = 0x0123456789abcdef});
  ObjectView view;
  const uint64_t sizes[] = {5, 3};
  ASSERT_TRUE(store->Allocate("model:7", sizes, &view, {.ttlMs = 60'000, .pin = Pin::kSoft, .replica = true}).ok());
  std::memcpy(view.payload, "helloabc", 8);
  const ManualClock clock;
  store->SetClock(&clock);
  store->SetPayloadCrc(view.slot, Crc32c({view.payload, 8}));
  store->MarkWritten(view.slot, 258);
  store->Seal(view.slot, 1000);
  const std::span<std::byte> memory = store->memory();
  for (size_t i = 0; i < example.size(); i++) {
    ASSERT_EQ(static_cast<int>(memory[i]), static_cast<int>(example[i])) << std::hex << "at offset " << i;
  }
}

}  // namespace
}  // namespace hbmesh
