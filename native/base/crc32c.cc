#include "base/crc32c.h"

#include <isa-l/crc.h>

#include <algorithm>

namespace hbmesh {

uint32_t Crc32c(std::span<const std::byte> bytes, uint32_t before) {
  constexpr size_t kStepBytes = 1U << 30;  // ISA-L takes an int
  uint32_t state = ~before;
  while (!bytes.empty()) {
    const size_t step = std::min(bytes.size(), kStepBytes);
    // ISA-L's parameter lacks a const; it only reads.
    auto* data = reinterpret_cast<unsigned char*>(const_cast<std::byte*>(bytes.data()));
    state = crc32_iscsi(data, static_cast<int>(step), state);
    bytes = bytes.subspan(step);
  }
  return ~state;
}

}  // namespace hbmesh
