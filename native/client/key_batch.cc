#include "client/key_batch.h"

#include <cstdint>
#include <cstring>
#include <limits>
#include <string>

#include "queue/layout.h"

namespace hbmesh {

Status EncodeKeyBatch(std::span<const std::string_view> keys, std::vector<std::byte>* batch) {
  constexpr uint64_t kMax = std::numeric_limits<uint32_t>::max();
  uint64_t keyBytes = 0;
  for (const std::string_view key : keys) keyBytes += key.size();
  if (keys.size() > kMax || keyBytes > kMax) {
    return {StatusCode::kInvalid, std::to_string(keys.size()) + " keys of " + std::to_string(keyBytes) +
                                      " bytes in one call: make several calls"};
  }
  const layout::KeyBatchHeader header{static_cast<uint32_t>(keys.size()), static_cast<uint32_t>(keyBytes)};
  const size_t bytesAt = sizeof(header) + keys.size() * sizeof(uint32_t);
  batch->assign((bytesAt + keyBytes + 7) / 8 * 8, std::byte{0});
  std::memcpy(batch->data(), &header, sizeof(header));
  uint32_t end = 0;
  size_t index = 0;
  for (const std::string_view key : keys) {
    if (!key.empty()) std::memcpy(batch->data() + bytesAt + end, key.data(), key.size());
    end += static_cast<uint32_t>(key.size());
    std::memcpy(batch->data() + sizeof(header) + index * sizeof(uint32_t), &end, sizeof(end));
    ++index;
  }
  return Status::Ok();
}

}  // namespace hbmesh
