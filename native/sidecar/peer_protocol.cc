#include "sidecar/peer_protocol.h"

#include <xxhash.h>

#include <algorithm>

namespace hbmesh::sidecar::peer {

namespace {

// 0: there is no such type.
uint64_t RecordBytes(Type type) {
  switch (type) {
    case Type::kOpen:
      return sizeof(OpenRecord);
    case Type::kOpened:
      return sizeof(OpenedRecord);
    case Type::kClose:
    case Type::kConsumed:
      return sizeof(CloseRecord);
    case Type::kBlobs:
      return sizeof(BlobRecord);
    case Type::kClosed:
    case Type::kBroken:
      return sizeof(HoldRecord);
    case Type::kPush:
      return sizeof(PushRecord);
  }
  return 0;
}

}  // namespace

std::array<uint64_t, 2> ShapeHash(std::span<const uint64_t> blobSizes) {
  const XXH128_hash_t hash = XXH3_128bits(blobSizes.data(), blobSizes.size_bytes());
  return {hash.low64, hash.high64};
}

void SetShape(std::span<const uint64_t> blobSizes, OpenedRecord* record) {
  const std::array<uint64_t, 2> hash = ShapeHash(blobSizes);
  record->shapeHash[0] = hash[0];
  record->shapeHash[1] = hash[1];
  record->blobCount = static_cast<uint32_t>(blobSizes.size());
  record->payloadBytes = 0;
  for (const uint64_t bytes : blobSizes) record->payloadBytes += bytes;
  std::copy_n(blobSizes.begin(), std::min<size_t>(blobSizes.size(), kShownSizes), record->firstSizes);
}

bool ParseHeader(std::span<const std::byte> message, MessageHeader* header) {
  if (message.size() < sizeof(*header)) return false;
  std::memcpy(header, message.data(), sizeof(*header));
  if (header->magic != kMagic || header->version != kVersion) return false;
  const uint64_t recordBytes = RecordBytes(static_cast<Type>(header->type));
  return recordBytes != 0 && message.size() - sizeof(*header) == header->count * recordBytes;
}

}  // namespace hbmesh::sidecar::peer
