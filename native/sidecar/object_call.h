// ObjectCall: one client's request, taken out of shared memory, checked whole, with every blob resolved to an address.
//
// Nothing in a request is trusted: sizes and offsets are checked without overflow, keys by the rule of the cluster,
// ranges against the regions of that session. The first fault refuses the whole call, and the text names it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "queue/channel.h"
#include "sidecar/options.h"
#include "sidecar/region.h"

namespace hbmesh::sidecar {

// A range of device memory that keeps its region alive.
struct DeviceBlob {
  std::shared_ptr<Region> region;
  uint64_t offset = 0;
  uint64_t bytes = 0;
  [[nodiscard]] std::byte* address() const { return region->base() + offset; }
};

// The regions of a session by number; null where there is none.
using RegionTable = std::vector<std::shared_ptr<Region>>;

struct ParseLimits {
  KeyRule keyRule = KeyRule::kStrict;
  uint32_t keysMax = layout::kKeysPerCallMax;
  uint32_t devices = 0;
  bool blobs = false;          // does this operation carry blobs
  std::string_view keyPrefix;  // put before each key; texts about faults don't show it
};

class ObjectCall {
 public:
  // Takes the payload over. kInvalid: says what is wrong; *this is then unusable.
  [[nodiscard]] Status Parse(Message&& message, const RegionTable& regions, const ParseLimits& limits);

  [[nodiscard]] uint32_t count() const { return count_; }
  [[nodiscard]] uint32_t device() const { return device_; }
  [[nodiscard]] std::string_view key(uint32_t i) const {
    const uint32_t begin = i == 0 ? 0 : keyEnds_[i - 1];
    return keyBytes_.substr(begin, keyEnds_[i] - begin);
  }
  // The keys, for handing on.
  [[nodiscard]] std::span<const std::byte> keyBatch() const { return keyBatch_; }

  [[nodiscard]] uint32_t blobBegin(uint32_t i) const { return i == 0 ? 0 : blobEnds_[i - 1]; }
  [[nodiscard]] uint32_t blobEnd(uint32_t i) const { return blobEnds_[i]; }
  [[nodiscard]] std::span<const uint64_t> blobSizes(uint32_t i) const {
    return std::span(sizes_).subspan(blobBegin(i), blobEnd(i) - blobBegin(i));
  }
  [[nodiscard]] std::byte* blobAddress(uint32_t blob) const { return addresses_[blob]; }
  [[nodiscard]] uint64_t blobSize(uint32_t blob) const { return sizes_[blob]; }
  // Where the blob begins in its object's payload.
  [[nodiscard]] uint64_t blobOffset(uint32_t blob) const { return offsets_[blob]; }
  // Payload bytes of key i, and of all keys.
  [[nodiscard]] uint64_t objectBytes(uint32_t i) const {
    const uint32_t last = blobEnd(i) - 1;
    return offsets_[last] + sizes_[last];
  }
  [[nodiscard]] uint64_t totalBytes() const { return totalBytes_; }
  // Where `bytes` from `offset` of the payload of key i are in device memory. REQUIRES: they lie inside.
  [[nodiscard]] std::vector<LocalPiece> PiecesOf(uint32_t i, uint64_t offset, uint64_t bytes) const;
  // The blobs of key i, each with its region.
  [[nodiscard]] std::vector<DeviceBlob> deviceBlobs(uint32_t i) const;

 private:
  [[nodiscard]] Status ParseKeys(std::span<const std::byte> payload, const ParseLimits& limits);
  [[nodiscard]] Status ParseBlobs(std::span<const std::byte> rest, const RegionTable& regions);
  [[nodiscard]] Status ResolveBlob(uint32_t key, const layout::BlobRecord& blob, const RegionTable& regions);

  void PrefixKeys(std::string_view prefix);
  [[nodiscard]] uint32_t Keep(uint32_t number, const std::shared_ptr<Region>& region);

  static constexpr uint32_t kNotKept = UINT32_MAX;

  std::vector<std::byte> payload_;
  std::vector<std::byte> prefixed_;  // the key batch with the tenant's prefix, if it has one
  uint32_t count_ = 0;
  uint32_t device_ = 0;
  uint32_t blobCount_ = 0;
  uint64_t totalBytes_ = 0;
  const uint32_t* keyEnds_ = nullptr;  // in payload_ or prefixed_, as all pointers and spans below
  std::string_view keyBytes_;
  std::span<const std::byte> keyBatch_;
  const uint32_t* blobEnds_ = nullptr;
  std::vector<std::byte*> addresses_;
  std::vector<uint64_t> sizes_;
  std::vector<uint64_t> offsets_;
  std::vector<uint32_t> regionOf_;                // of each blob, in regions_
  std::vector<std::shared_ptr<Region>> regions_;  // those that the blobs lie in: kept while the call lives
  std::vector<uint32_t> kept_;                    // place in regions_, by the session's number of the region
};

// Makes a KeyBatch.
[[nodiscard]] std::vector<std::byte> MakeKeyBatch(std::span<const std::string_view> keys);
// Of some keys of a call.
[[nodiscard]] std::vector<std::byte> MakeKeyBatch(const ObjectCall& call, std::span<const uint32_t> keys);

constexpr uint64_t AlignTo8(uint64_t value) { return (value + 7) & ~7ULL; }

}  // namespace hbmesh::sidecar
