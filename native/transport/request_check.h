// The checks of a request that every transport makes before it accepts one.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/status.h"
#include "transport/transport.h"

namespace hbmesh {

// kInvalid: no bytes, a piece without address, or pieces that don't add up to the range.
[[nodiscard]] inline Status CheckRequest(const RemoteRange& range, std::span<const LocalPiece> pieces) {
  if (range.bytes == 0)
    return {StatusCode::kInvalid, "a request for 0 bytes of memory region " + std::to_string(range.region)};
  uint64_t total = 0;
  for (const LocalPiece& piece : pieces) {
    if (piece.bytes > 0 && piece.address == nullptr)
      return {StatusCode::kInvalid, "a piece of the request has no address"};
    if (__builtin_add_overflow(total, piece.bytes, &total)) {
      return {StatusCode::kInvalid, "the sizes of the request's pieces overflow 64 bits"};
    }
  }
  if (total != range.bytes) {
    return {StatusCode::kInvalid, "the pieces of the request have " + std::to_string(total) +
                                      " bytes, its remote range " + std::to_string(range.bytes)};
  }
  return Status::Ok();
}

}  // namespace hbmesh
