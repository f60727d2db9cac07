// Goal: as long as the tier has place, nothing is lost, whatever sizes come: what makes room is written, and room in
// one piece is found in a fragmented arena. Method: an arena of 1 MiB, objects of random sizes up to seven tenths of
// it, ten times as many bytes as it holds; each allocation asks for room first, as the sidecar does, and between them
// random objects are brought back, compared, and deleted. Prints its seed.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <random>

#include "base/test_support.h"
#include "store/spiller.h"

namespace hbmesh {
namespace {

using testing_support::Pattern;

constexpr uint64_t kArena = 1 << 20;

class SpillerRoomTest : public ::testing::Test {
 protected:
  SpillerRoomTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "hbmesh-room-XXXXXX").string();
    directory_ = ::mkdtemp(pattern.data());
  }
  ~SpillerRoomTest() override {
    spiller_.reset();
    std::filesystem::remove_all(directory_);
  }
  void SetUp() override {
    ASSERT_TRUE(ObjectStore::Create({.arenaBytes = kArena, .slots = 4000}, &store_).ok());
    store_->SetClock(&clock_);
    const auto wake = [this] {
      const std::lock_guard lock(mutex_);
      signalled_ = true;
      changed_.notify_all();
    };
    ASSERT_TRUE(
        Spiller::Open({.directory = directory_, .bytesMax = 32 * kArena}, *store_, note_, wake, &spiller_).ok());
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
  void Put(const std::string& key, uint64_t bytes) {
    ObjectView view;
    const uint64_t sizes[] = {bytes};
    if (!store_->Allocate(key, sizes, &view).ok()) {
      const uint64_t extentBytes = ObjectStore::ExtentBytes(key, sizes);
      spiller_->MakeRoom(extentBytes, extentBytes, [] {});
      RunAll();
      const Status status = store_->Allocate(key, sizes, &view, {}, &note_);
      ASSERT_TRUE(status.ok()) << status.ToString();
    }
    const auto pattern = Pattern(++generation_, bytes);
    std::memcpy(view.payload, pattern.data(), bytes);
    store_->MarkWritten(view.slot, generation_);
    store_->Seal(view.slot, clock_.NowMs());
    spiller_->Balance();
  }
  void Check(const std::string& key) {
    const auto found = store_->FindSealed(key);
    ASSERT_TRUE(found.has_value()) << key << ": " << store_->Explain(key).reason;
    spiller_->BringBack(found->slot, found->generation, [&](const Status& status, const ObjectView* object) {
      ASSERT_TRUE(status.ok()) << status.ToString();
      const auto bytes = Pattern(object->generation, object->payloadBytes);
      EXPECT_EQ(std::memcmp(object->payload, bytes.data(), bytes.size()), 0) << key;
      store_->Touch(object->slot);
    });
    RunAll();
  }

  std::string directory_;
  ManualClock clock_{1'000'000'000};
  std::mutex mutex_;
  std::condition_variable changed_;
  bool signalled_ = false;
  uint64_t ended_ = 0;
  const EndedSink note_ = [this](const EndedObject& ended) {
    ended_++;
    ADD_FAILURE() << ended.key << " of " << ended.bytes << " bytes was " << EndReasonName(ended.reason);
  };
  uint64_t generation_ = 0;
  std::unique_ptr<ObjectStore> store_;
  std::unique_ptr<Spiller> spiller_;
};

TEST_F(SpillerRoomTest, NothingIsLostWhateverSizesCome) {
  std::mt19937_64 random(testing_support::Seed());
  std::vector<std::string> keys;
  uint64_t bytes = 0;
  for (uint64_t number = 0; bytes < 10 * kArena; number++) {
    // Many small ones, some large ones.
    const uint64_t size = random() % 4 == 0 ? 1 + random() % (kArena * 7 / 10) : 1 + random() % 8'000;
    keys.push_back("key" + std::to_string(number));
    Put(keys.back(), size);
    bytes += size;
    ASSERT_EQ(ended_, 0U) << number;
    if (random() % 3 == 0) {
      Check(keys[random() % keys.size()]);
    }
    if (random() % 5 == 0) {
      const size_t at = random() % keys.size();
      const auto found = store_->FindSealed(keys[at]);
      ASSERT_TRUE(found.has_value() && store_->Drop(found->slot, found->generation).ok());
      keys.erase(keys.begin() + static_cast<ptrdiff_t>(at));
    }
  }
  for (const std::string& key : keys) {
    Check(key);
    ASSERT_EQ(ended_, 0U) << key;
  }
}

}  // namespace
}  // namespace hbmesh
