// Goal: every device backend keeps the promises of device.h, and a new one shows it by being added to the list at the
// end. Method: device memory made as a client would make it, imported, and copied in every direction; bytes are
// compared. What only the simulator has (limits, faults) follows below. HBMESH_SEED repeats a random run.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <random>
#include <string>

#include "base/fd.h"
#include "base/mapped_memory.h"
#include "device/sim_device.h"
#include "device/sim_heap.h"

namespace hbmesh {
namespace {

constexpr uint64_t kHeapBytes = 16 << 20;

class CollectingSink final : public CompletionSink {
 public:
  void Complete(uint64_t token, Status status) override {
    const std::lock_guard lock(mutex_);
    ++counts_[token];
    statuses_[token] = std::move(status);
    changed_.notify_all();
  }
  Status Wait(uint64_t token) {
    std::unique_lock lock(mutex_);
    const bool came = changed_.wait_for(lock, std::chrono::seconds(60), [&] { return counts_[token] > 0; });
    EXPECT_TRUE(came) << "copy " << token << " never completed";
    return statuses_[token];
  }
  int count(uint64_t token) {
    const std::lock_guard lock(mutex_);
    return counts_[token];
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, int> counts_;
  std::map<uint64_t, Status> statuses_;
};

void FillPattern(std::byte* bytes, uint64_t count, uint64_t seed) {
  uint64_t state = seed * 0x9E3779B97F4A7C15ULL + 1;
  for (uint64_t index = 0; index < count; ++index) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    bytes[index] = static_cast<std::byte>(state >> 56);
  }
}

struct Backend {
  std::string name;
  std::function<Status(CompletionSink*, std::vector<std::unique_ptr<Device>>*)> devices;
};
void PrintTo(const Backend& backend, std::ostream* out) { *out << backend.name; }

class DeviceConformance : public testing::TestWithParam<Backend> {
 protected:
  void SetUp() override {
    ASSERT_EQ(GetParam().devices(&sink_, &devices_).ToString(), Status::Ok().ToString());
    ASSERT_GE(devices_.size(), 2U);
    SimHeapOptions options;
    options.deviceCount = static_cast<uint32_t>(devices_.size());
    ASSERT_TRUE(SimHeap::Create(options, &heap_).ok());
    for (uint32_t index = 0; index < 2; ++index) {
      ASSERT_TRUE(heap_->Allocate(index, kHeapBytes, &client_[index]).ok());
      FillPattern(client_[index], kHeapBytes, index + 1);
      ExportedRegion exported;
      ASSERT_TRUE(heap_->Describe(client_[index], kHeapBytes, &exported).ok());
      ASSERT_EQ(devices_[index]->Import(exported.handle, &regions_[index]).ToString(), Status::Ok().ToString());
      hbm_[index] = regions_[index].base + (client_[index] - exported.regionBase);
    }
    host_.resize(kHeapBytes);
    FillPattern(host_.data(), host_.size(), 9);
    ASSERT_TRUE(devices_[0]->RegisterHostMemory(host_.data(), host_.size()).ok());
  }
  void TearDown() override {
    for (uint32_t index = 0; index < 2; ++index) devices_[index]->Release(regions_[index]);
  }
  Status Copy(Device& device, CopyKind kind, std::span<const CopyPiece> pieces) {
    const Status accepted = device.Copy(kind, pieces, ++token_);
    return accepted.ok() ? sink_.Wait(token_) : accepted;
  }

  CollectingSink sink_;
  std::unique_ptr<SimHeap> heap_;
  std::vector<std::unique_ptr<Device>> devices_;
  DeviceRegion regions_[2];
  std::byte* client_[2]{};  // as the client sees it
  std::byte* hbm_[2]{};     // the same bytes as the sidecar sees them
  std::vector<std::byte> host_;
  uint64_t token_ = 0;
};

TEST_P(DeviceConformance, CopiesEverySizeInEveryDirectionAndNoByteBeside) {
  for (const uint64_t bytes :
       {1ULL, 63ULL, 64ULL, 65ULL, 4097ULL, 32768ULL, 32769ULL, 131073ULL, 1048576ULL, 3145731ULL}) {
    SCOPED_TRACE("size " + std::to_string(bytes));
    const std::byte before = host_[2];
    const std::byte after = host_[3 + bytes];
    const CopyPiece down{host_.data() + 3, hbm_[0] + 17, bytes};
    ASSERT_EQ(Copy(*devices_[0], CopyKind::kDeviceToHost, {&down, 1}).ToString(), Status::Ok().ToString());
    ASSERT_EQ(std::memcmp(host_.data() + 3, client_[0] + 17, bytes), 0);
    ASSERT_EQ(host_[2], before);
    ASSERT_EQ(host_[3 + bytes], after);

    FillPattern(host_.data() + 3, bytes, bytes);
    const CopyPiece up{hbm_[0] + 29, host_.data() + 3, bytes};
    ASSERT_EQ(Copy(*devices_[0], CopyKind::kHostToDevice, {&up, 1}).ToString(), Status::Ok().ToString());
    ASSERT_EQ(std::memcmp(host_.data() + 3, client_[0] + 29, bytes), 0);

    ASSERT_TRUE(devices_[1]->capabilities().copyBetweenDevices);
    const CopyPiece across{hbm_[1] + 5, hbm_[0] + 29, bytes};
    ASSERT_EQ(Copy(*devices_[1], CopyKind::kDeviceToDevice, {&across, 1}).ToString(), Status::Ok().ToString());
    ASSERT_EQ(std::memcmp(client_[1] + 5, client_[0] + 29, bytes), 0);
  }
}

TEST_P(DeviceConformance, GathersManyPiecesWithOneCompletion) {
  std::vector<CopyPiece> pieces;
  uint64_t target = 0;
  for (uint64_t index = 0; target < 8 << 20; ++index) {
    const uint64_t bytes = index % 10 == 0 ? 0 : 1 + index * 7919 % 80'000;
    pieces.push_back({host_.data() + target, hbm_[0] + (index * 104'729 % (kHeapBytes - 80'001)), bytes});
    target += bytes;
  }
  ASSERT_EQ(Copy(*devices_[0], CopyKind::kDeviceToHost, pieces).ToString(), Status::Ok().ToString());
  for (const CopyPiece& piece : pieces) ASSERT_EQ(std::memcmp(piece.target, piece.source, piece.bytes), 0);
  EXPECT_EQ(sink_.count(token_), 1);
}

TEST_P(DeviceConformance, AFullQueueIsTryAgainAndTheRestCompletesOnce) {
  std::vector<uint64_t> accepted;
  Status status;
  while (status.ok() && accepted.size() < 1'000'000) {
    const uint64_t slot = accepted.size() % 8 * (1 << 20);
    const CopyPiece piece{host_.data() + slot, hbm_[0] + slot, 1 << 20};
    status = devices_[0]->Copy(CopyKind::kDeviceToHost, {&piece, 1}, ++token_);
    if (status.ok()) accepted.push_back(token_);
  }
  EXPECT_EQ(status.code(), StatusCode::kTryAgain) << status.ToString();
  for (const uint64_t token : accepted) ASSERT_EQ(sink_.Wait(token).ToString(), Status::Ok().ToString());
  for (const uint64_t token : accepted) ASSERT_EQ(sink_.count(token), 1);
}

TEST_P(DeviceConformance, DestructionCompletesEverythingOnce) {
  uint64_t last = 0;
  for (uint64_t index = 0; index < 100; ++index) {
    const CopyPiece piece{host_.data(), hbm_[0], 1 << 20};
    if (devices_[0]->Copy(CopyKind::kDeviceToHost, {&piece, 1}, last + 1).ok()) ++last;
  }
  devices_[0].reset();
  ASSERT_GT(last, 0U);
  for (uint64_t token = 1; token <= last; ++token) ASSERT_EQ(sink_.count(token), 1) << token;
  ASSERT_TRUE(GetParam().devices(&sink_, &devices_).ok());
  regions_[0] = regions_[1] = {};
}

TEST_P(DeviceConformance, WrongCopiesAreRefused) {
  const CopyPiece nowhere{nullptr, hbm_[0], 10};
  EXPECT_EQ(devices_[0]->Copy(CopyKind::kDeviceToHost, {&nowhere, 1}, 1).code(), StatusCode::kInvalid);
  const CopyPiece huge[] = {{host_.data(), hbm_[0], UINT64_MAX}, {host_.data(), hbm_[0], 2}};
  EXPECT_EQ(devices_[0]->Copy(CopyKind::kDeviceToHost, huge, 1).code(), StatusCode::kInvalid);
  EXPECT_EQ(devices_[0]->Copy(static_cast<CopyKind>(77), {}, 1).code(), StatusCode::kInvalid);
  EXPECT_EQ(sink_.count(1), 0);
}

TEST_P(DeviceConformance, ImportRefusesMemoryThatIsNotWhatItSays) {
  DeviceRegion region;
  ExportedRegion exported;
  ASSERT_TRUE(heap_->Describe(client_[0], 1, &exported).ok());
  ExportHandle handle = exported.handle;
  EXPECT_EQ(devices_[1]->Import(handle, &region).code(), StatusCode::kInvalid) << "memory of another device";
  handle.bytes += 1;
  Status status = devices_[0]->Import(handle, &region);
  EXPECT_EQ(status.code(), StatusCode::kInvalid);
  EXPECT_NE(status.message().find("has only " + std::to_string(exported.regionBytes)), std::string::npos)
      << status.message();
  handle.bytes = UINT64_MAX;
  EXPECT_EQ(devices_[0]->Import(handle, &region).code(), StatusCode::kInvalid);
  handle.bytes = 0;
  EXPECT_EQ(devices_[0]->Import(handle, &region).code(), StatusCode::kInvalid);
  handle = exported.handle;
  handle.fd = -1;
  EXPECT_EQ(devices_[0]->Import(handle, &region).code(), StatusCode::kInvalid);
  const Fd unsealed(::memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(unsealed.get(), 8192), 0);
  handle.bytes = 8192;
  handle.fd = unsealed.get();
  status = devices_[0]->Import(handle, &region);
  EXPECT_EQ(status.code(), StatusCode::kInvalid);
  EXPECT_NE(status.message().find("F_SEAL_SHRINK"), std::string::npos) << status.message();
  EXPECT_EQ(region.base, nullptr);
}

// Many copies at once, each with targets of its own, compared with plain copies in a model of the host memory.
TEST_P(DeviceConformance, RandomCopiesDoWhatAModelSays) {
  const char* given = std::getenv("HBMESH_SEED");
  const uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  SCOPED_TRACE("HBMESH_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  std::vector<std::byte> model = host_;
  for (int round = 0; round < 20; ++round) {
    constexpr uint64_t kCopies = 16;
    constexpr uint64_t kShare = kHeapBytes / kCopies;
    for (uint64_t index = 0; index < kCopies; ++index) {
      std::vector<CopyPiece> pieces;
      for (uint64_t target = index * kShare; target < (index + 1) * kShare;) {
        const uint64_t bytes =
            std::min(1 + random() % (random() % 8 == 0 ? 400'000 : 3'000), (index + 1) * kShare - target);
        const uint64_t source = random() % (kHeapBytes - bytes);
        pieces.push_back({host_.data() + target, hbm_[index % 2] + source, bytes});
        std::memcpy(model.data() + target, client_[index % 2] + source, bytes);
        target += bytes;
      }
      ASSERT_TRUE(devices_[index % 2]->Copy(CopyKind::kDeviceToHost, pieces, ++token_).ok());
    }
    for (uint64_t token = token_ - kCopies + 1; token <= token_; ++token) ASSERT_TRUE(sink_.Wait(token).ok());
    ASSERT_EQ(std::memcmp(model.data(), host_.data(), kHeapBytes), 0) << "round " << round;
  }
}

Backend Sim(const std::string& name, const SimOptions& options) {
  return {name, [options](CompletionSink* sink, std::vector<std::unique_ptr<Device>>* devices) {
            return CreateSimDevices(options, sink, devices);
          }};
}
SimOptions Slow() {
  SimOptions options;
  options.bytesPerSecondMax = 20ULL << 30;
  options.latencyMicros = 50;
  options.contention = true;
  return options;
}

INSTANTIATE_TEST_SUITE_P(Backends, DeviceConformance, testing::Values(Sim("sim", {}), Sim("simWithLimits", Slow())),
                         [](const auto& test) { return test.param.name; });

// ----- what only the simulator has -----

// Which of 200 copies fail.
std::vector<bool> Failures(const SimFaults& faults) {
  SimOptions options;
  options.deviceCount = 1;
  options.faults = faults;
  CollectingSink sink;
  std::vector<std::unique_ptr<Device>> devices;
  EXPECT_TRUE(CreateSimDevices(options, &sink, &devices).ok());
  std::vector<bool> failed;
  std::byte source[8]{};
  std::byte target[8];
  const CopyPiece piece{target, source, sizeof source};
  for (uint64_t token = 0; token < 200; ++token) {
    EXPECT_TRUE(devices[0]->Copy(CopyKind::kHostToDevice, {&piece, 1}, token).ok());
    const Status status = sink.Wait(token);
    failed.push_back(!status.ok());
    if (status.ok()) continue;
    EXPECT_EQ(status.code(), StatusCode::kAclError);
    EXPECT_NE(status.message().find("seed " + std::to_string(faults.seed)), std::string::npos) << status.message();
  }
  return failed;
}

TEST(SimDevice, FaultsComeFromTheSeedOnly) {
  const std::vector<bool> third = Failures({.seed = 1, .failEveryNth = 3, .failProbability = 0});
  for (size_t index = 0; index < third.size(); ++index) EXPECT_EQ(third[index], index % 3 == 2);
  const std::vector<bool> some = Failures({.seed = 7, .failEveryNth = 0, .failProbability = 0.3});
  EXPECT_EQ(some, Failures({.seed = 7, .failEveryNth = 0, .failProbability = 0.3}));
  EXPECT_NE(some, Failures({.seed = 8, .failEveryNth = 0, .failProbability = 0.3}));
  EXPECT_EQ(std::count(third.begin(), third.end(), true), 66);
}

TEST(SimDevice, LimitsHoldCompletionsBack) {
  SimOptions options;
  options.bytesPerSecondMax = 100 << 20;
  options.latencyMicros = 5000;
  CollectingSink sink;
  std::vector<std::unique_ptr<Device>> devices;
  ASSERT_TRUE(CreateSimDevices(options, &sink, &devices).ok());
  std::vector<std::byte> source(1 << 20);
  std::vector<std::byte> target(1 << 20);
  const CopyPiece piece{target.data(), source.data(), source.size()};
  const auto begin = std::chrono::steady_clock::now();
  for (uint64_t token = 0; token < 4; ++token)
    ASSERT_TRUE(devices[0]->Copy(CopyKind::kHostToDevice, {&piece, 1}, token).ok());
  for (uint64_t token = 0; token < 4; ++token) EXPECT_TRUE(sink.Wait(token).ok());
  // 4 MiB at 100 MiB/s and one latency: never earlier, however fast the machine is.
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(45));
}

TEST(SimDevice, WrongOptionsAreRefused) {
  CollectingSink sink;
  std::vector<std::unique_ptr<Device>> devices;
  SimOptions options;
  options.deviceCount = 0;
  EXPECT_EQ(CreateSimDevices(options, &sink, &devices).code(), StatusCode::kInvalid);
  options.deviceCount = 65;
  EXPECT_EQ(CreateSimDevices(options, &sink, &devices).code(), StatusCode::kInvalid);
  options = {};
  options.faults.failProbability = 1.5;
  EXPECT_EQ(CreateSimDevices(options, &sink, &devices).code(), StatusCode::kInvalid);
  EXPECT_TRUE(devices.empty());
}

}  // namespace
}  // namespace hbmesh
