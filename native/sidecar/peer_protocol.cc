#include "sidecar/peer_protocol.h"

#include <xxhash.h>

namespace hbmesh::sidecar::peer {

std::array<uint64_t, 2> ShapeHash(std::span<const uint64_t> blobSizes) {
  const XXH128_hash_t hash = XXH3_128bits(blobSizes.data(), blobSizes.size_bytes());
  return {hash.low64, hash.high64};
}

bool ParseHeader(std::span<const std::byte> message, MessageHeader* header) {
  if (message.size() < sizeof(*header)) return false;
  std::memcpy(header, message.data(), sizeof(*header));
  if (header->magic != kMagic || header->version != kVersion) return false;
  uint64_t recordBytes = 0;
  switch (static_cast<Type>(header->type)) {
    case Type::kOpen:
      recordBytes = sizeof(OpenRecord);
      break;
    case Type::kOpened:
      recordBytes = sizeof(OpenedRecord);
      break;
    case Type::kClose:
      recordBytes = sizeof(CloseRecord);
      break;
    default:
      return false;
  }
  return message.size() - sizeof(*header) == header->count * recordBytes;
}

}  // namespace hbmesh::sidecar::peer
