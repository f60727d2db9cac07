// CRC32C (Castagnoli), by ISA-L: the fastest way that the processor has.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace hbmesh {

// The checksum of `bytes`; `before` is the checksum of what comes before them, 0 for none. Any thread.
[[nodiscard]] uint32_t Crc32c(std::span<const std::byte> bytes, uint32_t before = 0);

}  // namespace hbmesh
