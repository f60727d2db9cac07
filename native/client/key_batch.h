// Makes KeyBatch bytes (queue/layout.h) out of a caller's keys, for clients whose language doesn't do it itself.
//
// Thread rule: pure functions.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace hbmesh {

// Which keys are allowed is the sidecar's business. kInvalid: more keys or bytes than 32 bits count.
[[nodiscard]] Status EncodeKeyBatch(std::span<const std::string_view> keys, std::vector<std::byte>* batch);

}  // namespace hbmesh
