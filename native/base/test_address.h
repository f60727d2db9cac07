// For tests only: addresses of workers that no other test has.
#pragma once

#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <string>

namespace hbmesh::testing_support {

// A worker address that no other test process of this machine has: all of 127.0.0.0/8 is loopback, and its last three
// bytes hold a process id.
inline std::string UniqueWorkerAddress() {
  static std::atomic<uint32_t> counter{1};
  const auto pid = static_cast<uint32_t>(::getpid());
  const auto byte = [pid](uint32_t shift) { return "." + std::to_string((pid >> shift) & 255); };
  return "127" + byte(16) + byte(8) + byte(0) + ":" + std::to_string(counter.fetch_add(1));
}

}  // namespace hbmesh::testing_support
