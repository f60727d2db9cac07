#include "bench/memory_loop.h"

#include <atomic>

#include "bench/timed_run.h"

namespace hbmesh::bench {

std::vector<uint64_t> RunMemoryLoop(const ObjectMemory& memory, uint64_t milliseconds) {
  // What is read must be used, or the compiler leaves the reading out.
  static std::atomic<uint64_t> sink = 0;
  std::vector<uint64_t> rounds;
  const uint64_t endNs = NowNs() + milliseconds * 1'000'000;
  uint64_t begin = NowNs();
  do {
    sink.store(memory.Sum(), std::memory_order_relaxed);
    const uint64_t now = NowNs();
    rounds.push_back(now - begin);
    begin = now;
  } while (begin < endNs);
  return rounds;
}

}  // namespace hbmesh::bench
