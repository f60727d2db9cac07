#include "transport/request_table.h"

#include <string>

namespace hbmesh {

Status RequestTable::Add(uint64_t token, bool write, std::span<const LocalPiece> pieces, uint64_t bytes,
                         uint64_t* request) {
  const std::lock_guard lock(mutex_);
  if (ended_) return {StatusCode::kRpcPeerDead, "the connection to the peer is broken; connect again"};
  if (free_.empty()) {
    return {StatusCode::kTryAgain,
            std::to_string(places_.size()) + " requests are outstanding on this lane; retry after a completion"};
  }
  const uint32_t index = free_.back();
  free_.pop_back();
  Place& place = places_[index];
  ++place.uses;
  place.pending.token = token;
  place.pending.write = write;
  place.pending.pieces.assign(pieces.begin(), pieces.end());
  place.pending.bytes = bytes;
  place.pending.received = 0;
  place.pending.piece = 0;
  place.pending.pieceOffset = 0;
  *request = (static_cast<uint64_t>(place.uses) << 32) | index;
  return Status::Ok();
}

PendingRequest* RequestTable::Find(uint64_t request, bool write) {
  const std::lock_guard lock(mutex_);
  Place* place = PlaceOf(request);
  return place != nullptr && place->pending.write == write ? &place->pending : nullptr;
}

std::optional<uint64_t> RequestTable::Take(uint64_t request) {
  const std::lock_guard lock(mutex_);
  Place* place = PlaceOf(request);
  if (place == nullptr) return std::nullopt;
  ++place->uses;
  free_.push_back(static_cast<uint32_t>(request));
  return place->pending.token;
}

std::vector<uint64_t> RequestTable::TakeAll() {
  const std::lock_guard lock(mutex_);
  ended_ = true;
  std::vector<uint64_t> tokens;
  for (Place& place : places_) {
    if (place.uses % 2 == 0) continue;
    ++place.uses;
    tokens.push_back(place.pending.token);
  }
  return tokens;
}

// REQUIRES: mutex_ is held.
RequestTable::Place* RequestTable::PlaceOf(uint64_t request) {
  const auto index = static_cast<uint32_t>(request);
  const auto uses = static_cast<uint32_t>(request >> 32);
  if (index >= places_.size() || uses % 2 == 0 || places_[index].uses != uses) return nullptr;
  return &places_[index];
}

}  // namespace hbmesh
