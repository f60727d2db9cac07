// What this machine takes for a round trip without hbmesh: the limits that latencies are compared with.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace hbmesh::bench {

// Nanoseconds of round trips between two threads: "eventfd" (both sleep on one), "tcp" (one byte over loopback),
// "spin" (a shared counter; nobody sleeps). Throws Failure for another kind or when the system refuses.
[[nodiscard]] std::vector<uint64_t> RoundTrips(const std::string& kind, uint32_t rounds);

}  // namespace hbmesh::bench
