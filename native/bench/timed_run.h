// Runs the same work on several threads at once and takes the time of every call.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace hbmesh::bench {

struct TimedRun {
  uint64_t beginNs = 0;               // CLOCK_MONOTONIC, the same in all processes of a machine: first start ...
  uint64_t endNs = 0;                 // ... and last end of all threads
  std::vector<uint64_t> latenciesNs;  // thread after thread, each in the order of its calls
};

// One thread's calls. Prepare is not timed, Call is.
class ThreadWork {
 public:
  virtual ~ThreadWork() = default;
  virtual void Prepare(uint32_t iteration) = 0;
  virtual void Call() = 0;
};

[[nodiscard]] uint64_t NowNs();

// Makes the work of each thread, then all start together, not before `atNs`. Throws the first Failure of any thread
// after all have ended.
[[nodiscard]] TimedRun RunTimed(uint32_t threads, uint32_t iterations, uint64_t atNs,
                                const std::function<std::unique_ptr<ThreadWork>(uint32_t thread)>& make);

}  // namespace hbmesh::bench
