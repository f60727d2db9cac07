// MemoryLoop: a loop bound by memory over device memory, as decoding is: each round reads all of it. For measuring how
// much transfers slow it down.
#pragma once

#include <cstdint>
#include <vector>

#include "bench/object_memory.h"

namespace hbmesh::bench {

// Nanoseconds of each round until `milliseconds` are over; at least one round.
[[nodiscard]] std::vector<uint64_t> RunMemoryLoop(const ObjectMemory& memory, uint64_t milliseconds);

}  // namespace hbmesh::bench
