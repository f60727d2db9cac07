// CopyPool: threads that copy memory with streaming stores. The engines of the simulated devices and the lanes of the
// shm transport are such pools; several users may share one.
//
// A copy is a list of parts. It is cut into chunks, which the threads take one by one, so that one large copy uses all
// of them; it completes once, when its last chunk is done. Idle threads spin for a short time, then sleep.
//
// Thread rule: Submit from any thread. Completions are called from pool threads, or from Submit itself for a small
// copy.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "base/status.h"

namespace hbmesh {

struct CopyPart {
  std::byte* target;
  const std::byte* source;
  uint64_t bytes;
};

struct CopyPoolOptions {
  uint32_t threads = 0;                // 0: two, or one for each core if there are fewer
  uint32_t queueDepthMax = 1024;       // copies accepted and not yet complete
  uint64_t inlineBytesMax = 32 << 10;  // up to here the submitting thread copies: cheaper than waking another one
  uint64_t chunkBytesMax = 1 << 20;    // what a thread takes at a time
  uint64_t chunkBytesMin = 128 << 10;  // below that, spreading costs more than it brings
  uint32_t spinMicros = 30;            // how long an idle thread looks for work before it sleeps
};

class CopyPool {
 public:
  using Done = std::function<void()>;

  explicit CopyPool(const CopyPoolOptions& options);
  // Completes everything that was accepted, then ends the threads.
  ~CopyPool();
  CopyPool(const CopyPool&) = delete;
  CopyPool& operator=(const CopyPool&) = delete;

  // Accepts the copy at once, or answers kTryAgain (nothing was accepted). `done` is called exactly once for an
  // accepted copy, after every byte is visible to other threads and processes. The memory must stay valid until then.
  [[nodiscard]] Status Submit(std::span<const CopyPart> parts, Done done);

  [[nodiscard]] uint32_t threads() const { return static_cast<uint32_t>(threads_.size()); }

 private:
  struct Job;

  void Work();
  [[nodiscard]] std::shared_ptr<Job> NextJob();
  [[nodiscard]] std::shared_ptr<Job> TakeLocked();
  void RunChunks(Job& job);

  const CopyPoolOptions options_;
  std::atomic<uint32_t> accepted_{0};   // copies not yet complete; relaxed, it only bounds the queue
  std::atomic<uint32_t> claimable_{0};  // jobs in queue_; a hint for spinning threads, queue_ is the truth
  std::atomic<bool> stopping_{false};   // set under mutex_
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<Job>> queue_;  // guarded by mutex_: jobs with chunks that nobody took yet
  uint32_t sleepers_ = 0;                   // guarded by mutex_
  std::vector<std::thread> threads_;        // last: they use everything above
};

}  // namespace hbmesh
