// RegionCache: which device memory the sidecar already knows, and under which number.
//
// Blobs are named to the sidecar as (region, offset, bytes). A region is a whole allocation segment, registered at
// first use and kept, so that a client which reuses its memory registers once. The cache is bounded: the segment that
// was used longest ago is unregistered first, never one that an outstanding request uses (those are pinned).
//
// Thread rule: any thread. Resolve with Registration::kAllowed may block for one round trip to the sidecar for each new
// segment; the other calls never wait for that.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <vector>

#include "base/status.h"
#include "client/object_codec.h"
#include "device/device_exporter.h"
#include "queue/layout.h"

namespace hbmesh {

// How regions are made known to the sidecar: over the session socket, or by a test.
class RegionRegistrar {
 public:
  virtual ~RegionRegistrar() = default;
  // Both are called by one thread at a time and may block.
  [[nodiscard]] virtual Status Register(const ExportHandle& handle, uint32_t* region) = 0;
  [[nodiscard]] virtual Status Unregister(uint32_t region) = 0;
};

enum class Registration { kAllowed, kKnownOnly };

// The blobs of one call as the sidecar names them, and what must stay registered until the call has ended.
struct ResolvedBlobs {
  std::vector<layout::BlobRecord> records;
  std::vector<uint64_t> segments;  // bases of the pinned segments; give them back with Unpin
};

class RegionCache {
 public:
  // Both are borrowed and outlive the cache.
  RegionCache(DeviceExporter* exporter, RegionRegistrar* registrar, uint32_t regionsMax);

  // Names every blob of the call. kInvalid, with key index, key and pointer: no device memory or freed, memory of
  // another device than the call's, or a blob that leaves its allocation. kNotReady: kKnownOnly, and a segment is not
  // registered yet. kTryAgain: as many segments as the cache may hold are in use. On an error nothing is pinned.
  // REQUIRES: CheckObjectCall(call) is kOk.
  [[nodiscard]] Status Resolve(const ObjectCall& call, Registration registration, ResolvedBlobs* blobs);
  // Registers the segments of these ranges ahead of use. The messages name the index of the range.
  [[nodiscard]] Status Preregister(std::span<const uint64_t> pointers, std::span<const uint64_t> sizes);
  void Unpin(std::span<const uint64_t> segments);

  [[nodiscard]] size_t size() const;

 private:
  struct Entry {
    ExportedRegion segment;
    uint32_t region = 0;
    uint32_t pins = 0;
    uint64_t lastUse = 0;
  };

  // The segment that a pointer lies in; false: it is no device memory.
  [[nodiscard]] bool Find(uint64_t pointer, ExportedRegion* segment) const;
  // Whether [pointer, pointer + bytes) lies in one live allocation. `allocation`: that of the range before, or none; is
  // that of this range afterwards. `what` gives the range's name for messages.
  template <typename What>
  [[nodiscard]] Status CheckAllocated(uint64_t pointer, uint64_t bytes, DeviceAllocation* allocation,
                                      const What& what) const;
  // The distinct segments that the call's blobs lie in.
  [[nodiscard]] Status FindSegments(const ObjectCall& call, std::map<uint64_t, ExportedRegion>* segments) const;
  // True when all of them are registered: then they are pinned and the records filled in.
  bool TryPin(const ObjectCall& call, const std::map<uint64_t, ExportedRegion>& segments, ResolvedBlobs* blobs);
  // REQUIRES: registering_ is held.
  [[nodiscard]] Status RegisterMissing(const std::map<uint64_t, ExportedRegion>& segments);
  // Makes room for one more. `keep`: segments of the call that is being resolved.
  [[nodiscard]] Status MakeRoom(const std::map<uint64_t, ExportedRegion>& keep);
  // Unregisters an entry whose segment was replaced by another at the same address.
  [[nodiscard]] Status DropStale(const ExportedRegion& segment);

  DeviceExporter* const exporter_;
  RegionRegistrar* const registrar_;
  const uint32_t regionsMax_;
  std::mutex registering_;             // held across round trips; taken before mutex_
  mutable std::mutex mutex_;           // guards what follows, never held across a round trip
  std::map<uint64_t, Entry> entries_;  // by base address
  uint64_t uses_ = 0;
};

}  // namespace hbmesh
