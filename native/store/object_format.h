// Writing and checking the bytes of one object in the arena (object_store.h draws them, docs/FORMATS.md has an
// example).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "store/object_store.h"

namespace hbmesh::object_format {

inline constexpr uint32_t kMagic = 0x314F4248;  // "HBO1"
inline constexpr uint16_t kVersion = 1;
inline constexpr uint64_t kAlignment = 64;
inline constexpr size_t kKeyBytesMax = UINT16_MAX;

// Where the payload begins. REQUIRES: both are within their types' limits in ObjectHeader.
[[nodiscard]] uint64_t PayloadOffset(uint64_t blobCount, uint64_t keyBytes);

// Writes header, blob sizes, key and padding at `at`, without generation and checksum: Finish sets them.
void Write(std::byte* at, std::string_view key, std::span<const uint64_t> blobSizes, uint64_t payloadBytes);
void Finish(std::byte* at, uint64_t generation);

[[nodiscard]] const ObjectHeader& HeaderAt(const std::byte* at);
[[nodiscard]] std::span<const uint64_t> BlobSizesAt(const std::byte* at);
[[nodiscard]] std::string_view KeyAt(const std::byte* at);
[[nodiscard]] uint64_t HashOf(std::string_view key);

// "" or what is wrong with the object in `extent`, which may be anything. Reads the extent only, and not the payload.
// Of a spilled object the extent ends where the payload would begin.
[[nodiscard]] std::string Fault(std::span<const std::byte> extent, const ObjectSlot& slot, bool spilled = false);

}  // namespace hbmesh::object_format
