// Arithmetic on sizes and offsets that come from elsewhere and may be anything.
#pragma once

#include <cstdint>

namespace hbmesh {

[[nodiscard]] constexpr bool IsPowerOfTwo(uint64_t value) { return value != 0 && (value & (value - 1)) == 0; }

// REQUIRES: alignment is a power of two, value + alignment doesn't overflow.
[[nodiscard]] constexpr uint64_t AlignUp(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) & ~(alignment - 1);
}

[[nodiscard]] constexpr uint64_t AlignDown(uint64_t value, uint64_t alignment) { return value & ~(alignment - 1); }

[[nodiscard]] constexpr bool IsAligned(uint64_t value, uint64_t alignment) { return (value & (alignment - 1)) == 0; }

// Does [offset, offset + bytes) lie in [0, size), for any three numbers.
[[nodiscard]] constexpr bool RangeInside(uint64_t offset, uint64_t bytes, uint64_t size) {
  return offset <= size && bytes <= size - offset;
}

// *sum = a + b and true, or false on overflow (*sum is then unchanged).
[[nodiscard]] constexpr bool AddChecked(uint64_t a, uint64_t b, uint64_t* sum) {
  if (a > UINT64_MAX - b) {
    return false;
  }
  *sum = a + b;
  return true;
}

}  // namespace hbmesh
