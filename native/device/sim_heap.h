// SimHeap: what a client process uses as HBM when there is no accelerator: for each device, segments of shared memory
// (memfds, sealed against resizing) and an allocator over them. Pointers are real addresses of this process.
//
// Invariants: allocations take multiples of 512 bytes and are aligned to 512 (as those of aclrtMalloc); free ranges of
// a segment never touch each other. A segment lives as long as the heap, so that an exported region never disappears
// under a sidecar.
//
// Thread rule: any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/fd.h"
#include "base/status.h"
#include "device/device_exporter.h"

namespace hbmesh {

struct SimHeapOptions {
  uint32_t deviceCount = 8;
  uint64_t segmentBytesMin = 64ULL << 20;  // a larger request gets a segment of its own size
  uint64_t deviceBytesMax = 64ULL << 30;   // HBM of one device; then kOutOfMemory
  bool prefault = true;  // takes the memory of a segment when it is made: no page faults during the first copies
};

// The segment that a pointer lies in.
struct SimSegment {
  uint32_t deviceIndex = 0;
  std::byte* base = nullptr;
  uint64_t bytes = 0;
  int fd = -1;      // owned by the heap
  uint64_t id = 0;  // unique in this process
};

class SimHeap final : public DeviceExporter {
 public:
  [[nodiscard]] static Status Create(const SimHeapOptions& options, std::unique_ptr<SimHeap>* heap);
  ~SimHeap() override;
  SimHeap(const SimHeap&) = delete;
  SimHeap& operator=(const SimHeap&) = delete;

  // Contents are undefined. kInvalid: no such device, or no bytes. kOutOfMemory names what is used and what there is.
  [[nodiscard]] Status Allocate(uint32_t deviceIndex, uint64_t bytes, std::byte** pointer);
  // Takes back what Allocate gave. kInvalid, naming the pointer: it is not the start of an allocation.
  [[nodiscard]] Status Free(std::byte* pointer);
  [[nodiscard]] Status FindSegment(const void* pointer, SimSegment* segment) const;

  // Between ordinary memory and one allocation. kInvalid: no device memory; kOutOfRange: more than the allocation has.
  [[nodiscard]] Status CopyIn(std::byte* deviceTarget, std::span<const std::byte> source);
  [[nodiscard]] Status CopyOut(std::span<std::byte> target, const std::byte* deviceSource) const;

  [[nodiscard]] uint32_t deviceCount() const { return options_.deviceCount; }
  [[nodiscard]] uint64_t usedBytes(uint32_t deviceIndex) const;

  [[nodiscard]] const char* backend() const override { return "sim"; }
  [[nodiscard]] Status Describe(const std::byte* pointer, uint64_t bytes, ExportedRegion* region) override;
  [[nodiscard]] Status FindAllocation(const std::byte* pointer, DeviceAllocation* allocation) override;

 private:
  struct Segment {
    uint32_t deviceIndex = 0;
    uint64_t id = 0;
    uint64_t bytes = 0;
    std::byte* base = nullptr;
    Fd fd;
    std::map<uint64_t, uint64_t> free;   // offset to bytes
    std::map<uint64_t, uint64_t> taken;  // offset to bytes as they were asked for: what is taken is rounded up
  };
  struct DeviceUse {
    uint64_t segmentBytes = 0;
    uint64_t usedBytes = 0;
  };

  explicit SimHeap(const SimHeapOptions& options);
  [[nodiscard]] Status AddSegmentLocked(uint32_t deviceIndex, uint64_t bytes, Segment** segment);
  [[nodiscard]] const Segment* SegmentOfLocked(const void* pointer) const;
  [[nodiscard]] Status FindAllocationLocked(const std::byte* pointer, DeviceAllocation* allocation) const;
  [[nodiscard]] Status CheckRangeLocked(const std::byte* pointer, uint64_t bytes) const;
  static std::byte* TakeLocked(Segment& segment, uint64_t bytes);

  const SimHeapOptions options_;
  mutable std::mutex mutex_;
  std::map<const std::byte*, std::unique_ptr<Segment>> segments_;  // guarded by mutex_: base to segment
  std::vector<DeviceUse> devices_;                                 // guarded by mutex_
};

}  // namespace hbmesh
