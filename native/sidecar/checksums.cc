#include "sidecar/checksums.h"

#include <algorithm>
#include <utility>

#include "base/crc32c.h"

namespace hbmesh::sidecar {

namespace {

// About 10 microseconds of work, what it costs to wake a thread.
constexpr uint64_t kInlineBytesMax = 128 << 10;
constexpr uint32_t kThreadsMax = 2;  // one reads about as fast as the memory gives

void ComputeItem(ChecksumItem& item) {
  uint32_t crc = 0;
  for (const LocalPiece& piece : item.pieces) crc = Crc32c({piece.address, piece.bytes}, crc);
  item.crc32c = crc;
}

}  // namespace

Checksums::~Checksums() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Checksums::Compute(std::span<ChecksumItem> items, CompletionTarget* target, uint64_t tag) {
  const uint64_t token = tokens_.Add(target, tag);
  uint64_t bytes = 0;
  for (const ChecksumItem& item : items) {
    for (const LocalPiece& piece : item.pieces) bytes += piece.bytes;
  }
  if (bytes <= kInlineBytesMax) {
    std::ranges::for_each(items, ComputeItem);
    Complete(token);
    return;
  }
  if (threads_.empty()) {
    const uint32_t threads = std::clamp(std::thread::hardware_concurrency(), 1U, kThreadsMax);
    for (uint32_t i = 0; i < threads; ++i) threads_.emplace_back([this] { Work(); });
  }
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::make_shared<Job>(Job{items, token, 0, items.size()}));
  }
  wake_.notify_all();
}

void Checksums::Work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
    if (stopping_) return;
    const std::shared_ptr<Job> job = jobs_.front();
    ChecksumItem& item = job->items[job->next++];
    if (job->next == job->items.size()) jobs_.pop_front();
    lock.unlock();
    ComputeItem(item);
    lock.lock();
    if (--job->left == 0) Complete(job->token);
  }
}

void Checksums::Complete(uint64_t token) {
  LoopEvent event;
  event.id = token;
  events_.Push(std::move(event));
}

}  // namespace hbmesh::sidecar
