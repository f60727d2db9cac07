#include "store/object_format.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstring>

#include "base/align.h"
#include "base/crc32c.h"

namespace hbmesh::object_format {
namespace {

// Checksum of header, blob sizes and key, as if the field that holds it were 0. REQUIRES: they lie in the extent.
uint32_t HeaderCrc(const std::byte* at) {
  ObjectHeader header = HeaderAt(at);
  header.headerCrc32c = 0;
  const uint32_t first = Crc32c(std::as_bytes(std::span(&header, 1)));
  const uint64_t rest = uint64_t{header.blobCount} * sizeof(uint64_t) + header.keyBytes;
  return Crc32c({at + sizeof(ObjectHeader), rest}, first);
}

// The sum of the blob sizes; 0 if one is 0 or the sum overflows.
uint64_t SumOf(std::span<const uint64_t> blobSizes) {
  uint64_t sum = 0;
  for (const uint64_t bytes : blobSizes) {
    if (bytes == 0 || !AddChecked(sum, bytes, &sum)) {
      return 0;
    }
  }
  return sum;
}

}  // namespace

uint64_t PayloadOffset(uint64_t blobCount, uint64_t keyBytes) {
  return AlignUp(sizeof(ObjectHeader) + blobCount * sizeof(uint64_t) + keyBytes, kAlignment);
}

void Write(std::byte* at, std::string_view key, std::span<const uint64_t> blobSizes, uint64_t payloadBytes) {
  ObjectHeader header{};
  header.magic = kMagic;
  header.version = kVersion;
  header.keyBytes = static_cast<uint16_t>(key.size());
  header.blobCount = static_cast<uint32_t>(blobSizes.size());
  header.payloadOffset = PayloadOffset(blobSizes.size(), key.size());
  header.payloadBytes = payloadBytes;
  std::memcpy(at, &header, sizeof(header));
  uint64_t end = sizeof(header);
  std::memcpy(at + end, blobSizes.data(), blobSizes.size_bytes());
  end += blobSizes.size_bytes();
  std::memcpy(at + end, key.data(), key.size());
  end += key.size();
  std::memset(at + end, 0, header.payloadOffset - end);
}

void Finish(std::byte* at, uint64_t generation) {
  auto* header = reinterpret_cast<ObjectHeader*>(at);
  header->generation = generation;
  header->headerCrc32c = HeaderCrc(at);
}

const ObjectHeader& HeaderAt(const std::byte* at) { return *reinterpret_cast<const ObjectHeader*>(at); }

std::span<const uint64_t> BlobSizesAt(const std::byte* at) {
  return {reinterpret_cast<const uint64_t*>(at + sizeof(ObjectHeader)), HeaderAt(at).blobCount};
}

std::string_view KeyAt(const std::byte* at) {
  const ObjectHeader& header = HeaderAt(at);
  const std::byte* key = at + sizeof(ObjectHeader) + uint64_t{header.blobCount} * sizeof(uint64_t);
  return {reinterpret_cast<const char*>(key), header.keyBytes};
}

uint64_t HashOf(std::string_view key) { return XXH3_64bits(key.data(), key.size()); }

std::string Fault(std::span<const std::byte> extent, const ObjectSlot& slot, bool spilled) {
  if (extent.size() < sizeof(ObjectHeader)) {
    return "its extent is too short for a header";
  }
  const std::byte* at = extent.data();
  const ObjectHeader& header = HeaderAt(at);
  if (header.magic != kMagic || header.version != kVersion) {
    return "its bytes don't begin with the magic number and version of an object";
  }
  // 32-bit count and 16-bit length: the sum can't overflow.
  const uint64_t payloadOffset = PayloadOffset(header.blobCount, header.keyBytes);
  if (header.blobCount == 0 || header.keyBytes == 0 || payloadOffset > extent.size()) {
    return "its blob sizes and key don't fit into its extent";
  }
  if (header.headerCrc32c != HeaderCrc(at)) {
    return "the checksum of its header doesn't match";
  }
  if (header.payloadOffset != payloadOffset || header.payloadBytes == 0 ||
      header.payloadBytes != SumOf(BlobSizesAt(at)) ||
      (!spilled && !RangeInside(payloadOffset, header.payloadBytes, extent.size()))) {
    return "its payload doesn't lie in its extent";
  }
  if (header.generation == 0 || header.generation != slot.generation || HashOf(KeyAt(at)) != slot.keyHash) {
    return "its slot and its header tell of different objects";
  }
  return "";
}

}  // namespace hbmesh::object_format
