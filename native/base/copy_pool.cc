#include "base/copy_pool.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/copy.h"
#include "base/time_slice.h"

namespace hbmesh {
namespace {

// Where a chunk begins: `bytes` from `offset` in parts[part] on, over as many parts as it takes.
struct Chunk {
  size_t part;
  uint64_t offset;
  uint64_t bytes;
};

uint32_t ThreadCount(uint32_t asked) {
  if (asked > 0) return asked;
  return std::clamp(std::thread::hardware_concurrency(), 1U, 2U);
}

std::vector<Chunk> Divide(std::span<const CopyPart> parts, uint64_t chunkBytes) {
  std::vector<Chunk> chunks;
  uint64_t room = 0;  // what still fits into the last chunk
  for (size_t index = 0; index < parts.size(); ++index) {
    for (uint64_t offset = 0; offset < parts[index].bytes;) {
      if (room == 0) {
        chunks.push_back({index, offset, 0});
        room = chunkBytes;
      }
      const uint64_t taken = std::min(room, parts[index].bytes - offset);
      chunks.back().bytes += taken;
      room -= taken;
      offset += taken;
    }
  }
  return chunks;
}

void CopyChunk(std::span<const CopyPart> parts, const Chunk& chunk) {
  uint64_t offset = chunk.offset;
  uint64_t left = chunk.bytes;
  for (size_t index = chunk.part; left > 0; ++index) {
    const CopyPart& part = parts[index];
    const uint64_t bytes = std::min(left, part.bytes - offset);
    if (bytes > 0) CopyStreaming(part.target + offset, part.source + offset, bytes);
    left -= bytes;
    offset = 0;
  }
}

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

struct CopyPool::Job {
  std::vector<CopyPart> parts;
  std::vector<Chunk> chunks;
  Done done;
  std::atomic<size_t> next{0};  // first chunk nobody took; relaxed, the chunks were published with the queue
  std::atomic<size_t> left{0};  // chunks not yet copied; acq_rel: the thread that takes it to 0 sees all bytes
};

CopyPool::CopyPool(const CopyPoolOptions& options) : options_(options) {
  const uint32_t count = ThreadCount(options.threads);
  threads_.reserve(count);
  for (uint32_t index = 0; index < count; ++index) threads_.emplace_back([this] { Work(); });
}

CopyPool::~CopyPool() {
  {
    const std::lock_guard lock(mutex_);
    stopping_.store(true, std::memory_order_release);
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

Status CopyPool::Submit(std::span<const CopyPart> parts, Done done) {
  uint64_t total = 0;
  for (const CopyPart& part : parts) total += part.bytes;
  if (total <= options_.inlineBytesMax) {
    CopyChunk(parts, {0, 0, total});
    done();
    return Status::Ok();
  }
  if (accepted_.fetch_add(1, std::memory_order_relaxed) >= options_.queueDepthMax) {
    accepted_.fetch_sub(1, std::memory_order_relaxed);
    return {StatusCode::kTryAgain, "all " + std::to_string(options_.queueDepthMax) +
                                       " places of the copy queue are taken; retry after a completion"};
  }
  auto job = std::make_shared<Job>();
  job->parts.assign(parts.begin(), parts.end());
  const uint64_t share = (total / threads_.size() + 63) & ~63ULL;
  job->chunks = Divide(job->parts, std::clamp(share, options_.chunkBytesMin, options_.chunkBytesMax));
  job->done = std::move(done);
  job->left.store(job->chunks.size(), std::memory_order_relaxed);
  const size_t useful = job->chunks.size();
  size_t wakes = 0;
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(job));
    claimable_.store(static_cast<uint32_t>(queue_.size()), std::memory_order_release);
    wakes = std::min<size_t>(sleepers_, useful);
  }
  for (size_t index = 0; index < wakes; ++index) wake_.notify_one();
  return Status::Ok();
}

void CopyPool::Work() {
  AskForTimeSlice(TimeSlice::kLong);
  while (std::shared_ptr<Job> job = NextJob()) RunChunks(*job);
}

// The first job that has chunks to take; null when the pool ends and nothing is left.
std::shared_ptr<CopyPool::Job> CopyPool::NextJob() {
  const auto spinEnd = std::chrono::steady_clock::now() + std::chrono::microseconds(options_.spinMicros);
  for (uint32_t turn = 1;; ++turn) {
    if (claimable_.load(std::memory_order_acquire) > 0) {
      const std::lock_guard lock(mutex_);
      if (std::shared_ptr<Job> job = TakeLocked()) return job;
    }
    if (stopping_.load(std::memory_order_acquire)) break;
    // Reading the clock costs more than a pause: once in 16 turns.
    if (turn % 16 == 0 && std::chrono::steady_clock::now() >= spinEnd) break;
    Pause();
  }
  std::unique_lock lock(mutex_);
  for (;;) {
    if (std::shared_ptr<Job> job = TakeLocked()) return job;
    if (stopping_.load(std::memory_order_relaxed)) return nullptr;
    ++sleepers_;
    wake_.wait(lock);
    --sleepers_;
  }
}

// REQUIRES: mutex_ is held.
std::shared_ptr<CopyPool::Job> CopyPool::TakeLocked() {
  while (!queue_.empty()) {
    std::shared_ptr<Job> job = queue_.front();
    if (job->next.load(std::memory_order_relaxed) < job->chunks.size()) return job;
    queue_.pop_front();
    claimable_.store(static_cast<uint32_t>(queue_.size()), std::memory_order_release);
  }
  return nullptr;
}

void CopyPool::RunChunks(Job& job) {
  for (;;) {
    const size_t index = job.next.fetch_add(1, std::memory_order_relaxed);
    if (index >= job.chunks.size()) return;
    CopyChunk(job.parts, job.chunks[index]);
    if (job.left.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      accepted_.fetch_sub(1, std::memory_order_relaxed);
      job.done();
      job.done = nullptr;  // what it captured is let go of now, not when the queue drops the job
    }
  }
}

}  // namespace hbmesh
