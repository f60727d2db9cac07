// BlobMover: moves the bytes of one key between a caller's blobs and blobs of the same shape elsewhere: device memory
// of this worker, or a peer's memory. Straight from device memory to device memory.
//
// Two batches of slices are under way at a time, so that many moves share a link, and one that has to stop does so
// soon. The loop hears of a batch when all of it has been moved, and starts the next while the other goes on.
//
// Thread rule: the loop. It must live until OnMoved.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "sidecar/peer_links.h"
#include "sidecar/request.h"

namespace hbmesh::sidecar {

class MoveListener {
 public:
  // Once for each start; nothing is under way any more. Not called from within the start.
  virtual void OnMoved(uint64_t tag, const Status& status) = 0;

 protected:
  ~MoveListener() = default;
};

class BlobMover final : private CompletionTarget {
 public:
  // kPull: into the caller's blobs; kPush: out of them.
  enum class Direction : uint8_t { kPull, kPush };

  BlobMover(Core& core, const ObjectCall& call, uint32_t key, Direction direction, MoveListener& listener, uint64_t tag)
      : core_(core), call_(call), key_(key), direction_(direction), listener_(listener), tag_(tag) {}

  // REQUIRES: blobs of the shape of the key (BlobsFit), and nothing was started.
  void StartRemote(uint32_t member, uint64_t connection, std::span<const peer::BlobRecord> blobs);
  // `blobs` stay registered until OnMoved.
  void StartLocal(std::vector<DeviceBlob> blobs);
  // Begins no further slice; ends with this status when those under way ended.
  void Break(const Status& why);
  [[nodiscard]] bool moving() const { return batches_[0].underWay + batches_[1].underWay != 0; }
  // What carried the bytes; complete after OnMoved.
  [[nodiscard]] const layout::PathRecord& path() const { return path_; }

 private:
  // Contiguous memory on the other side.
  struct Segment {
    uint64_t begin;  // in the payload
    uint64_t bytes;
    uint32_t region;     // of a peer
    uint64_t offset;     // in that region
    std::byte* address;  // of this worker
  };

  struct Batch {
    uint32_t underWay = 0;  // slices
    uint32_t group = 0;     // of CompletionGroups
  };

  void OnCompletion(uint64_t batch, const Status& status) override;
  void Begin(layout::PathRecord path);
  void End();
  void AddSegment(const Segment& segment);
  // The next slices. REQUIRES: none of the batch is under way.
  void Fill(uint64_t batch);
  [[nodiscard]] Status StartSlice(const Segment& segment, uint64_t inSegment, uint64_t bytes, uint64_t batch);
  void StartCopy(const Segment& segment, uint64_t inSegment, uint64_t bytes, uint64_t batch);

  Core& core_;
  const ObjectCall& call_;
  const uint32_t key_;
  const Direction direction_;
  MoveListener& listener_;
  const uint64_t tag_;
  std::vector<Segment> segments_;
  std::vector<DeviceBlob> kept_;
  uint32_t member_ = 0;  // 0: this worker
  uint64_t connection_ = 0;
  size_t next_ = 0;  // segment to go on with
  uint64_t nextInSegment_ = 0;
  uint64_t sliceBytesMax_ = 0;
  uint32_t batchSlicesMax_ = 0;
  std::array<Batch, 2> batches_;
  Status fault_;
  uint64_t startNs_ = 0;
  layout::PathRecord path_{};
};

// The blobs have the sizes of the caller's.
[[nodiscard]] bool BlobsFit(const ObjectCall& call, uint32_t key, std::span<const peer::BlobRecord> blobs);

}  // namespace hbmesh::sidecar
