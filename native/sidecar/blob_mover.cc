#include "sidecar/blob_mover.h"

#include <algorithm>
#include <utility>

namespace hbmesh::sidecar {

namespace {

constexpr uint32_t kSlicesPerLane = 4;  // under way, of one key
constexpr uint32_t kCopiesMax = 4;      // under way in this worker, of one key
constexpr uint64_t kMarker = 1;         // completion that ends a start in which nothing could be started

}  // namespace

bool BlobsFit(const ObjectCall& call, uint32_t key, std::span<const peer::BlobRecord> blobs) {
  return std::ranges::equal(call.blobSizes(key), blobs,
                            [](uint64_t bytes, const peer::BlobRecord& blob) { return bytes == blob.bytes; });
}

void BlobMover::AddSegment(const Segment& segment) {
  if (!segments_.empty()) {
    Segment& last = segments_.back();
    const bool follows = segment.address != nullptr
                             ? last.address + last.bytes == segment.address
                             : last.region == segment.region && last.offset + last.bytes == segment.offset;
    if (follows) {
      last.bytes += segment.bytes;
      return;
    }
  }
  segments_.push_back(segment);
}

void BlobMover::StartRemote(uint32_t member, uint64_t connection, std::span<const peer::BlobRecord> blobs) {
  uint64_t begin = 0;
  for (const peer::BlobRecord& blob : blobs) {
    AddSegment({begin, blob.bytes, blob.region, blob.offset, nullptr});
    begin += blob.bytes;
  }
  member_ = member;
  connection_ = connection;
  const PeerLink* link = core_.peers.Find(member);
  layout::PathRecord path{};
  if (link != nullptr) {
    path = MakePath(link->transport(), call_.device(), member, link->address().workerAddress);
    path.lanes = link->lanes();
    if (link->fallback()) path.flags |= layout::kPathFallback;
  }
  window_ = kSlicesPerLane * std::max(1U, path.lanes);
  Begin(path);
}

void BlobMover::StartLocal(std::vector<DeviceBlob> blobs) {
  kept_ = std::move(blobs);
  uint64_t begin = 0;
  for (const DeviceBlob& blob : kept_) {
    AddSegment({begin, blob.bytes, 0, 0, blob.address()});
    begin += blob.bytes;
  }
  layout::PathRecord path = MakePath(layout::TransportId::kLocal, call_.device(), 0, core_.options.workerAddress);
  path.lanes = core_.devices[call_.device()]->capabilities().copyThreads;
  window_ = kCopiesMax;
  Begin(path);
}

void BlobMover::Begin(layout::PathRecord path) {
  path_ = path;
  startNs_ = core_.clock.NowNs();
  Fill();
  if (outstanding_ != 0) return;
  // Nothing was accepted. The listener learns it later, as all else.
  ++outstanding_;
  core_.copier.Copy(call_.device(), CopyKind::kDeviceToDevice, {}, this, kMarker);
}

void BlobMover::Fill() {
  while (fault_.ok() && next_ < segments_.size() && outstanding_ < window_) {
    const Segment& segment = segments_[next_];
    const uint64_t inSegment = nextInSegment_;
    const uint64_t bytes = std::min(core_.options.sliceBytes, segment.bytes - inSegment);
    nextInSegment_ += bytes;
    if (nextInSegment_ == segment.bytes) {
      ++next_;
      nextInSegment_ = 0;
    }
    ++outstanding_;
    ++path_.slices;
    if (segment.address != nullptr) {
      StartCopy(segment, inSegment, bytes);
    } else if (Status status = StartSlice(segment, inSegment, bytes); !status.ok()) {
      --outstanding_;
      fault_ = std::move(status);
    }
  }
}

Status BlobMover::StartSlice(const Segment& segment, uint64_t inSegment, uint64_t bytes) {
  PeerLink* link = core_.peers.Find(member_);
  if (link == nullptr) return {StatusCode::kRpcPeerDead, "member " + std::to_string(member_) + " left the cluster"};
  const RemoteRange range{segment.region, segment.offset + inSegment, bytes};
  std::vector<LocalPiece> pieces = call_.PiecesOf(key_, segment.begin + inSegment, bytes);
  const uint32_t lane = key_ + path_.slices;
  return direction_ == Direction::kPull ? link->Read(connection_, range, std::move(pieces), lane, this, 0)
                                        : link->Write(connection_, range, std::move(pieces), lane, this, 0);
}

void BlobMover::StartCopy(const Segment& segment, uint64_t inSegment, uint64_t bytes) {
  std::vector<CopyPiece> pieces;
  std::byte* other = segment.address + inSegment;
  for (const LocalPiece& mine : call_.PiecesOf(key_, segment.begin + inSegment, bytes)) {
    const bool pull = direction_ == Direction::kPull;
    pieces.push_back({pull ? mine.address : other, pull ? other : mine.address, mine.bytes});
    other += mine.bytes;
  }
  core_.copier.Copy(call_.device(), CopyKind::kDeviceToDevice, std::move(pieces), this, 0);
}

void BlobMover::OnCompletion(uint64_t /*tag*/, const Status& status) {
  if (!status.ok() && fault_.ok()) fault_ = status;
  // Before the own slice is given back: a refused one in Fill must not look like the end.
  Fill();
  if (--outstanding_ != 0) return;
  if (next_ < segments_.size() && fault_.ok()) {
    Fill();
    if (outstanding_ != 0) return;
  }
  path_.nanoseconds = core_.clock.NowNs() - startNs_;
  path_.bytes = fault_.ok() ? call_.objectBytes(key_) : 0;
  kept_.clear();
  // A request that was cancelled ended with its connection.
  if (fault_.code() == StatusCode::kRpcCancelled && member_ != 0) {
    fault_ = {StatusCode::kRpcPeerDead, fault_.message()};
  }
  const Status result = fault_;
  listener_.OnMoved(tag_, result);
}

void BlobMover::Break(const Status& why) {
  if (fault_.ok()) fault_ = why;
}

}  // namespace hbmesh::sidecar
