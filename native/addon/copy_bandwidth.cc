#include "addon/copy_bandwidth.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "addon/job.h"
#include "base/copy.h"

namespace hbmesh::addon {

namespace {

using Clock = std::chrono::steady_clock;

constexpr uint32_t kThreadsMax = 256;
constexpr uint32_t kRoundsMax = 1000;
constexpr uint32_t kShuffleSeed = 1;

struct Plan {
  uint32_t threads = 1;
  uint64_t bytes = 0;
  uint64_t pieceBytes = 0;
  uint32_t rounds = 1;
};

// Shared anonymous memory, as that of the arena and of simulated devices; every page is there before the clock starts.
class Buffer {
 public:
  ~Buffer() {
    if (base_ != nullptr) ::munmap(base_, bytes_);
  }
  [[nodiscard]] Status Map(uint64_t bytes, int fill) {
    void* const mapped = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) {
      return StatusFromErrno(errno, "taking " + std::to_string(bytes) + " bytes to measure copies with");
    }
    base_ = static_cast<std::byte*>(mapped);
    bytes_ = bytes;
    std::memset(base_, fill, bytes);
    return Status::Ok();
  }
  [[nodiscard]] std::byte* at(uint64_t offset) const { return base_ + offset; }

 private:
  std::byte* base_ = nullptr;
  uint64_t bytes_ = 0;
};

// Where piece i is read from: a permutation, as a gather reads blobs that lie anywhere.
std::vector<uint64_t> ScatteredOffsets(const Plan& plan) {
  const uint64_t pieces = (plan.bytes + plan.pieceBytes - 1) / plan.pieceBytes;
  std::vector<uint64_t> offsets(pieces);
  for (uint64_t i = 0; i < pieces; ++i) offsets[i] = i * plan.pieceBytes;
  std::mt19937_64 random(kShuffleSeed);
  // The last piece may be shorter, so it keeps its place.
  if (pieces > 2) std::shuffle(offsets.begin(), offsets.end() - 1, random);
  return offsets;
}

// Copies pieces first, first + stride, ... of the plan.
void CopyShare(const Plan& plan, const Buffer& target, const Buffer& source, const std::vector<uint64_t>& offsets,
               uint64_t first, uint64_t stride) {
  for (uint64_t i = first; i < offsets.size(); i += stride) {
    const uint64_t targetOffset = i * plan.pieceBytes;
    const uint64_t bytes = std::min(plan.pieceBytes, plan.bytes - targetOffset);
    CopyStreaming(target.at(targetOffset), source.at(offsets[i]), bytes);
  }
}

Status Measure(const Plan& plan, double* bytesPerSecond) {
  Buffer source;
  Buffer target;
  if (Status status = source.Map(plan.bytes, 1); !status.ok()) return status;
  if (Status status = target.Map(plan.bytes, 0); !status.ok()) return status;
  const std::vector<uint64_t> offsets = ScatteredOffsets(plan);
  double bestSeconds = 0;
  Clock::time_point begin;
  // Both barriers are crossed by all threads and by this one, so a round's time is from common start to last end.
  std::barrier sync(static_cast<std::ptrdiff_t>(plan.threads) + 1);
  std::vector<std::jthread> threads;
  for (uint32_t t = 0; t < plan.threads; ++t) {
    threads.emplace_back([&, t] {
      for (uint32_t round = 0; round < plan.rounds; ++round) {
        sync.arrive_and_wait();
        CopyShare(plan, target, source, offsets, t, plan.threads);
        sync.arrive_and_wait();
      }
    });
  }
  for (uint32_t round = 0; round < plan.rounds; ++round) {
    begin = Clock::now();
    sync.arrive_and_wait();
    sync.arrive_and_wait();
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    if (round == 0 || seconds < bestSeconds) bestSeconds = seconds;
  }
  *bytesPerSecond = static_cast<double>(plan.bytes) / bestSeconds;
  return Status::Ok();
}

}  // namespace

Napi::Value MeasureCopyBandwidth(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Plan plan{AsUint32(info[0], "threads"), AsUint64(info[1], "bytes"), AsUint64(info[2], "pieceBytes"),
                  AsUint32(info[3], "rounds")};
  if (plan.threads == 0 || plan.threads > kThreadsMax) {
    throw MakeError(env, StatusCode::kInvalid, "threads must be from 1 to " + std::to_string(kThreadsMax));
  }
  if (plan.rounds == 0 || plan.rounds > kRoundsMax) {
    throw MakeError(env, StatusCode::kInvalid, "rounds must be from 1 to " + std::to_string(kRoundsMax));
  }
  if (plan.pieceBytes == 0 || plan.pieceBytes > plan.bytes) {
    throw MakeError(env, StatusCode::kInvalid, "pieceBytes must be from 1 to bytes");
  }
  const auto result = std::make_shared<double>(0);
  return RunJob(env, "hbmesh measure",
                {[plan, result](int) { return Measure(plan, result.get()); },
                 [result](Napi::Env current) -> Napi::Value { return Napi::Number::New(current, *result); }});
}

}  // namespace hbmesh::addon
