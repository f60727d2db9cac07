// Goal: killed at any moment while memory of spilled objects is moved together (GatherFree), none of them is lost or
// mixed up. Method: a child process with the same memfd moves them again and again, for objects of random sizes; it is
// killed at a random moment, then the memory is adopted and every spilled object is looked for, with its key, its shape
// and its place in the tier's file. Prints its seed.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <map>
#include <random>

#include "base/test_support.h"
#include "store/object_store.h"

namespace hbmesh {
namespace {

constexpr uint64_t kArena = 1 << 20;
constexpr uint64_t kObjects = 300;
constexpr int kKills = 40;
constexpr uint64_t kTurnsMax = 1'000'000;  // some milliseconds: many moves

std::string KeyOf(uint64_t number) { return "key" + std::to_string(number) + std::string(number % 200, 'x'); }

class GatherTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(ObjectStore::Create({.arenaBytes = kArena, .slots = 2 * kObjects}, &store_).ok());
    for (uint64_t number = 0; number < kObjects; ++number) Spill(number);
  }
  // An object whose payload is on the tier, as far as the store knows.
  void Spill(uint64_t number) {
    ObjectView view;
    const std::vector<uint64_t> sizes(1 + number % 7, 1'000);
    ASSERT_TRUE(store_->Allocate(KeyOf(number), sizes, &view).ok());
    store_->MarkWritten(view.slot, number + 1);
    store_->Seal(view.slot, number);
    store_->BeginSpill(view.slot);
    ASSERT_TRUE(store_->EndSpill(view.slot, (number + 1) * 4096));
  }
  // What the child does until it is killed.
  [[noreturn]] void MoveForEver(uint64_t seed) {
    std::mt19937_64 random(seed);
    std::vector<uint32_t> taken;
    for (uint64_t turn = 0;; ++turn) {
      const StoreUsage usage = store_->usage();
      const uint64_t most = usage.arenaBytes - usage.usedBytes;
      const uint64_t sizes[] = {1 + random() % (most + 1)};
      ObjectView view;
      if (store_->GatherFree(ObjectStore::ExtentBytes("large", sizes)) &&
          store_->Allocate("large", sizes, &view).ok()) {
        taken.push_back(view.slot);
      }
      while (taken.size() > random() % 4) {
        (void)store_->Drop(taken.front(), 0).ok();
        taken.erase(taken.begin());
      }
    }
  }
  void ExpectAll() {
    std::map<std::string, uint64_t> found;
    store_->ForEachSpilled([&](const ObjectView& object, uint64_t offset) {
      EXPECT_EQ(offset, object.generation * 4096) << object.key;
      EXPECT_EQ(object.blobSizes.size(), 1 + (object.generation - 1) % 7) << object.key;
      found.emplace(object.key, object.generation);
    });
    ASSERT_EQ(found.size(), kObjects);
    for (uint64_t number = 0; number < kObjects; ++number) ASSERT_EQ(found[KeyOf(number)], number + 1);
    EXPECT_EQ(store_->usage().damaged, 0U);
  }
  std::unique_ptr<ObjectStore> store_;
};

TEST_F(GatherTest, AKillAtAnyMomentLosesNone) {
  std::mt19937_64 random(testing_support::Seed());
  for (int kill = 0; kill < kKills; ++kill) {
    const uint64_t seed = random();
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) MoveForEver(seed);
    for (uint64_t turns = random() % kTurnsMax; turns > 0; --turns) (void)random();
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << "the child ended by itself: " << status;
    Fd memory(::dup(store_->memoryFd()));
    store_.reset();
    ASSERT_TRUE(ObjectStore::Adopt(std::move(memory), &store_).ok());
    ExpectAll();
  }
}

TEST_F(GatherTest, RoomInOnePieceIsFoundWhereThereIsEnough) {
  const StoreUsage usage = store_->usage();
  const uint64_t free = usage.arenaBytes - usage.usedBytes;
  // Objects between which others are freed: what is free is in many pieces.
  std::vector<uint32_t> slots;
  const uint64_t sizes[] = {free / 40};
  ObjectView view;
  while (store_->Allocate("piece", sizes, &view).ok()) slots.push_back(view.slot);
  for (const uint32_t slot : slots) ASSERT_TRUE(store_->Drop(slot, 0).ok());
  EXPECT_TRUE(store_->GatherFree(free * 3 / 4));
  EXPECT_GE(store_->largestFreeBytes(), free * 3 / 4);
  EXPECT_FALSE(store_->GatherFree(free + 64)) << "more than there is";
  ExpectAll();
}

// A free piece that is just large enough, behind more of almost its size than an allocation looks at.
TEST(GatherFree, APieceBehindManySmallerOnesIsFound) {
  std::unique_ptr<ObjectStore> store;
  ASSERT_TRUE(ObjectStore::Create({.arenaBytes = 8 << 20}, &store).ok());
  constexpr uint64_t kHole = 64 * 64;  // 64 units; 65 are in the same bin
  const uint64_t small[] = {64};
  const uint64_t front = ObjectStore::ExtentBytes("key", small) - 64;
  const auto put = [&](uint64_t extentBytes) {
    ObjectView view;
    const uint64_t sizes[] = {extentBytes - front};
    EXPECT_TRUE(store->Allocate("key", sizes, &view).ok());
    return view.slot;
  };
  const uint32_t spilled = put(kHole);
  store->MarkWritten(spilled, 1);
  store->Seal(spilled, 1);
  store->BeginSpill(spilled);
  ASSERT_TRUE(store->EndSpill(spilled, 4096));
  std::vector<uint32_t> holes = {put(kHole + 64)};
  for (int i = 0; i < 1'100; i++) {
    (void)put(front + 64);  // between them
    holes.push_back(put(kHole));
  }
  (void)put(front + 64);
  (void)put(store->largestFreeBytes());  // the rest
  for (const uint32_t slot : holes) ASSERT_TRUE(store->Drop(slot, 0).ok());
  ASSERT_EQ(store->largestFreeBytes(), kHole + 64);
  ASSERT_FALSE(store->HasFree(kHole + 64)) << "it is not looked for as far";
  EXPECT_TRUE(store->GatherFree(kHole + 64));
  (void)put(kHole + 64);
  EXPECT_FALSE(store->GatherFree(kHole + 64)) << "there was one";
}

}  // namespace
}  // namespace hbmesh
