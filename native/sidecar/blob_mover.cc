#include "sidecar/blob_mover.h"

#include <algorithm>
#include <utility>

namespace hbmesh::sidecar {

namespace {

constexpr uint64_t kBatchBytes = 32ULL << 20;
constexpr uint32_t kBatchSlices = 64;
constexpr uint32_t kBatchSlicesHere = 2;          // copies of this worker's
constexpr uint64_t kSharedOutBytes = 8ULL << 20;  // a slice, where the transport cuts it by itself

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
  for (Batch& batch : batches_) batch.group = core_.tokens.groups().Open();
  const bool sharesOut = link != nullptr && link->carrier().capabilities().sharesOutReads;
  sliceBytesMax_ = sharesOut ? std::max(core_.options.sliceBytes, kSharedOutBytes) : core_.options.sliceBytes;
  batchSlicesMax_ = kBatchSlices;
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
  sliceBytesMax_ = core_.options.sliceBytes;
  batchSlicesMax_ = kBatchSlicesHere;
  Begin(path);
}

void BlobMover::Begin(layout::PathRecord path) {
  path_ = path;
  startNs_ = core_.clock.NowNs();
  for (uint64_t batch = 0; batch < batches_.size(); ++batch) Fill(batch);
  if (moving()) return;
  // Nothing was accepted. The listener learns it later, as all else.
  ++batches_[0].underWay;
  core_.copier.Copy(call_.device(), CopyKind::kDeviceToDevice, {}, this, 0);
}

void BlobMover::Fill(uint64_t batch) {
  uint64_t filled = 0;
  while (fault_.ok() && next_ < segments_.size() && filled < kBatchBytes &&
         batches_[batch].underWay < batchSlicesMax_) {
    const Segment& segment = segments_[next_];
    const uint64_t inSegment = nextInSegment_;
    const uint64_t bytes = std::min(sliceBytesMax_, segment.bytes - inSegment);
    nextInSegment_ += bytes;
    if (nextInSegment_ == segment.bytes) {
      ++next_;
      nextInSegment_ = 0;
    }
    filled += bytes;
    ++batches_[batch].underWay;
    ++path_.slices;
    if (segment.address != nullptr) {
      StartCopy(segment, inSegment, bytes, batch);
    } else if (Status status = StartSlice(segment, inSegment, bytes, batch); !status.ok()) {
      --batches_[batch].underWay;
      fault_ = std::move(status);
    }
  }
}

Status BlobMover::StartSlice(const Segment& segment, uint64_t inSegment, uint64_t bytes, uint64_t batch) {
  PeerLink* link = core_.peers.Find(member_);
  if (link == nullptr) return {StatusCode::kRpcPeerDead, "member " + std::to_string(member_) + " left the cluster"};
  const RemoteRange range{segment.region, segment.offset + inSegment, bytes};
  std::vector<LocalPiece> pieces = call_.PiecesOf(key_, segment.begin + inSegment, bytes);
  const uint32_t lane = key_ + path_.slices;
  const uint32_t group = batches_[batch].group;
  return direction_ == Direction::kPull ? link->Read(connection_, range, std::move(pieces), lane, this, batch, group)
                                        : link->Write(connection_, range, std::move(pieces), lane, this, batch, group);
}

void BlobMover::StartCopy(const Segment& segment, uint64_t inSegment, uint64_t bytes, uint64_t batch) {
  std::vector<CopyPiece> pieces;
  std::byte* other = segment.address + inSegment;
  for (const LocalPiece& mine : call_.PiecesOf(key_, segment.begin + inSegment, bytes)) {
    const bool pull = direction_ == Direction::kPull;
    pieces.push_back({pull ? mine.address : other, pull ? other : mine.address, mine.bytes});
    other += mine.bytes;
  }
  core_.copier.Copy(call_.device(), CopyKind::kDeviceToDevice, std::move(pieces), this, batch);
}

void BlobMover::OnCompletion(uint64_t batch, const Status& status) {
  if (!status.ok() && fault_.ok()) {
    // A transport cancels what is under way when its connection ends; a caller's cancel came through Break.
    const bool ended = status.code() == StatusCode::kRpcCancelled && member_ != 0;
    fault_ = ended ? Status(StatusCode::kRpcPeerDead, status.message()) : status;
  }
  if (--batches_[batch].underWay != 0) return;
  Fill(batch);
  if (!moving()) End();
}

void BlobMover::End() {
  for (Batch& batch : batches_) core_.tokens.groups().Close(std::exchange(batch.group, 0));
  path_.nanoseconds = core_.clock.NowNs() - startNs_;
  path_.bytes = fault_.ok() ? call_.objectBytes(key_) : 0;
  kept_.clear();
  const Status result = fault_;
  listener_.OnMoved(tag_, result);
}

void BlobMover::Break(const Status& why) {
  if (fault_.ok()) fault_ = why;
}

}  // namespace hbmesh::sidecar
