// Numbers endpoints: unique in the process, over all transports.
#pragma once

#include <atomic>
#include <cstdint>

namespace hbmesh {

inline uint64_t NextEndpointId() {
  static std::atomic<uint64_t> next{1};  // relaxed: only uniqueness matters
  return next.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace hbmesh
