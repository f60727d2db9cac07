#include "device/sim_heap.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <string>
#include <utility>

namespace hbmesh {
namespace {

constexpr uint64_t kAlignmentBytes = 512;
constexpr uint64_t kPageBytes = 4096;

// Of all heaps of the process, so that a sidecar can't take a segment of one heap for that of another.
std::atomic<uint64_t> nextSegmentId{1};  // relaxed: only uniqueness matters

std::string PointerName(const void* pointer) {
  char text[32];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(reinterpret_cast<uintptr_t>(pointer)));
  return text;
}

Status NoDeviceMemory(const void* pointer) {
  return {StatusCode::kInvalid, "pointer " + PointerName(pointer) +
                                    " is no device memory of this process; allocate it on a simulated device"};
}

Status NotAllocated(const void* pointer) {
  return {StatusCode::kInvalid, "pointer " + PointerName(pointer) +
                                    " lies in no allocation of its device; it may have been freed: allocate it again"};
}

constexpr uint64_t RoundUp(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

Status SimHeap::Create(const SimHeapOptions& options, std::unique_ptr<SimHeap>* heap) {
  if (options.deviceCount == 0 || options.segmentBytesMin == 0) {
    return {StatusCode::kInvalid, "a simulated heap needs at least one device and segments larger than 0 bytes"};
  }
  heap->reset(new SimHeap(options));
  return Status::Ok();
}

SimHeap::SimHeap(const SimHeapOptions& options) : options_(options), devices_(options.deviceCount) {}

SimHeap::~SimHeap() {
  for (const auto& [base, segment] : segments_) ::munmap(segment->base, segment->bytes);
}

Status SimHeap::Allocate(uint32_t deviceIndex, uint64_t bytes, std::byte** pointer) {
  if (deviceIndex >= options_.deviceCount) {
    return {StatusCode::kInvalid, "device " + std::to_string(deviceIndex) + " does not exist; the devices are 0 to " +
                                      std::to_string(options_.deviceCount - 1)};
  }
  if (bytes == 0) return {StatusCode::kInvalid, "an allocation of 0 bytes; give the size of the blob"};
  const std::lock_guard lock(mutex_);
  DeviceUse& use = devices_[deviceIndex];
  if (bytes > options_.deviceBytesMax - use.usedBytes) {
    return {StatusCode::kOutOfMemory, "device " + std::to_string(deviceIndex) + " has " +
                                          std::to_string(use.usedBytes) + " of " +
                                          std::to_string(options_.deviceBytesMax) + " bytes in use, " +
                                          std::to_string(bytes) + " more were asked for; free some or raise the limit"};
  }
  const uint64_t rounded = RoundUp(bytes, kAlignmentBytes);
  for (const auto& [base, segment] : segments_) {
    if (segment->deviceIndex != deviceIndex) continue;
    if (std::byte* found = TakeLocked(*segment, bytes)) {
      use.usedBytes += rounded;
      *pointer = found;
      return Status::Ok();
    }
  }
  Segment* added = nullptr;
  if (Status status = AddSegmentLocked(deviceIndex, rounded, &added); !status.ok()) return status;
  use.usedBytes += rounded;
  *pointer = TakeLocked(*added, bytes);
  return Status::Ok();
}

// First fit. Null: no free range is large enough.
std::byte* SimHeap::TakeLocked(Segment& segment, uint64_t bytes) {
  const uint64_t rounded = RoundUp(bytes, kAlignmentBytes);
  for (auto range = segment.free.begin(); range != segment.free.end(); ++range) {
    const auto [offset, room] = *range;
    if (room < rounded) continue;
    segment.free.erase(range);
    if (room > rounded) segment.free.emplace(offset + rounded, room - rounded);
    segment.taken.emplace(offset, bytes);
    return segment.base + offset;
  }
  return nullptr;
}

Status SimHeap::AddSegmentLocked(uint32_t deviceIndex, uint64_t bytes, Segment** segment) {
  DeviceUse& use = devices_[deviceIndex];
  const uint64_t room = options_.deviceBytesMax - use.segmentBytes;
  const uint64_t size = RoundUp(std::max(bytes, std::min(options_.segmentBytesMin, room)), kPageBytes);
  if (bytes > room) {
    return {StatusCode::kOutOfMemory, "the memory of device " + std::to_string(deviceIndex) +
                                          " is too fragmented for " + std::to_string(bytes) +
                                          " bytes in one piece; free neighbouring allocations"};
  }
  auto made = std::make_unique<Segment>();
  made->fd = Fd(::memfd_create("hbmesh-sim-hbm", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!made->fd.valid()) return StatusFromErrno(errno, "making memory for simulated HBM (memfd_create)");
  const std::string what = "simulated HBM of " + std::to_string(size) + " bytes";
  if (::ftruncate(made->fd.get(), static_cast<off_t>(size)) != 0) return StatusFromErrno(errno, "sizing " + what);
  if (::fcntl(made->fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return StatusFromErrno(errno, "sealing " + what);
  }
  void* base = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, made->fd.get(), 0);
  if (base == MAP_FAILED) return StatusFromErrno(errno, "mapping " + what);
#ifdef MADV_POPULATE_WRITE
  // An older kernel refuses with EINVAL, which only costs page faults later; being out of memory is told now.
  if (options_.prefault && ::madvise(base, size, MADV_POPULATE_WRITE) != 0 && errno == ENOMEM) {
    ::munmap(base, size);
    return {StatusCode::kOutOfMemory, "this machine has no memory for " + what + "; free some or allocate less"};
  }
#endif
  made->deviceIndex = deviceIndex;
  made->id = nextSegmentId.fetch_add(1, std::memory_order_relaxed);
  made->bytes = size;
  made->base = static_cast<std::byte*>(base);
  made->free.emplace(0, size);
  use.segmentBytes += size;
  *segment = made.get();
  segments_.emplace(made->base, std::move(made));
  return Status::Ok();
}

Status SimHeap::Free(std::byte* pointer) {
  const std::lock_guard lock(mutex_);
  const Segment* found = SegmentOfLocked(pointer);
  if (found == nullptr) return NoDeviceMemory(pointer);
  Segment& segment = *segments_.at(found->base);
  const auto taken = segment.taken.find(static_cast<uint64_t>(pointer - segment.base));
  if (taken == segment.taken.end()) {
    return {StatusCode::kInvalid,
            "pointer " + PointerName(pointer) + " is not the start of an allocation; it may have been freed before"};
  }
  const uint64_t offset = taken->first;
  uint64_t bytes = RoundUp(taken->second, kAlignmentBytes);
  segment.taken.erase(taken);
  devices_[segment.deviceIndex].usedBytes -= bytes;
  auto next = segment.free.lower_bound(offset);
  if (next != segment.free.end() && next->first == offset + bytes) {
    bytes += next->second;
    next = segment.free.erase(next);
  }
  if (next != segment.free.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == offset) {
      before->second += bytes;
      return Status::Ok();
    }
  }
  segment.free.emplace(offset, bytes);
  return Status::Ok();
}

Status SimHeap::FindSegment(const void* pointer, SimSegment* segment) const {
  const std::lock_guard lock(mutex_);
  const Segment* found = SegmentOfLocked(pointer);
  if (found == nullptr) return NoDeviceMemory(pointer);
  *segment = {.deviceIndex = found->deviceIndex,
              .base = found->base,
              .bytes = found->bytes,
              .fd = found->fd.get(),
              .id = found->id};
  return Status::Ok();
}

Status SimHeap::CopyIn(std::byte* deviceTarget, std::span<const std::byte> source) {
  {
    const std::lock_guard lock(mutex_);
    if (Status status = CheckRangeLocked(deviceTarget, source.size()); !status.ok()) return status;
  }
  if (!source.empty()) std::memcpy(deviceTarget, source.data(), source.size());
  return Status::Ok();
}

Status SimHeap::CopyOut(std::span<std::byte> target, const std::byte* deviceSource) const {
  {
    const std::lock_guard lock(mutex_);
    if (Status status = CheckRangeLocked(deviceSource, target.size()); !status.ok()) return status;
  }
  if (!target.empty()) std::memcpy(target.data(), deviceSource, target.size());
  return Status::Ok();
}

uint64_t SimHeap::usedBytes(uint32_t deviceIndex) const {
  const std::lock_guard lock(mutex_);
  return deviceIndex < devices_.size() ? devices_[deviceIndex].usedBytes : 0;
}

Status SimHeap::Describe(const std::byte* pointer, uint64_t bytes, ExportedRegion* region) {
  const std::lock_guard lock(mutex_);
  const Segment* segment = SegmentOfLocked(pointer);
  if (segment == nullptr) return NoDeviceMemory(pointer);
  const uint64_t room = segment->bytes - static_cast<uint64_t>(pointer - segment->base);
  if (bytes > room) {
    return {StatusCode::kInvalid, "pointer " + PointerName(pointer) + " with " + std::to_string(bytes) +
                                      " bytes leaves its device memory, which ends after " + std::to_string(room)};
  }
  *region = {
      .regionId = segment->id,
      .deviceIndex = segment->deviceIndex,
      .regionBase = segment->base,
      .regionBytes = segment->bytes,
      .handle = {.deviceIndex = segment->deviceIndex, .bytes = segment->bytes, .key = {}, .fd = segment->fd.get()}};
  return Status::Ok();
}

// Null: in no segment.
const SimHeap::Segment* SimHeap::SegmentOfLocked(const void* pointer) const {
  const auto* address = static_cast<const std::byte*>(pointer);
  auto after = segments_.upper_bound(address);
  if (after == segments_.begin()) return nullptr;
  const Segment& segment = *std::prev(after)->second;
  return static_cast<uint64_t>(address - segment.base) < segment.bytes ? &segment : nullptr;
}

Status SimHeap::FindAllocation(const std::byte* pointer, DeviceAllocation* allocation) {
  const std::lock_guard lock(mutex_);
  return FindAllocationLocked(pointer, allocation);
}

Status SimHeap::FindAllocationLocked(const std::byte* pointer, DeviceAllocation* allocation) const {
  const Segment* segment = SegmentOfLocked(pointer);
  if (segment == nullptr) return NoDeviceMemory(pointer);
  const auto offset = static_cast<uint64_t>(pointer - segment->base);
  auto after = segment->taken.upper_bound(offset);
  if (after == segment->taken.begin()) return NotAllocated(pointer);
  const auto [start, bytes] = *std::prev(after);
  if (offset - start >= bytes) return NotAllocated(pointer);
  *allocation = {segment->base + start, bytes};
  return Status::Ok();
}

// [pointer, pointer + bytes) must lie in one allocation.
Status SimHeap::CheckRangeLocked(const std::byte* pointer, uint64_t bytes) const {
  DeviceAllocation allocation;
  if (Status status = FindAllocationLocked(pointer, &allocation); !status.ok()) return status;
  const uint64_t room = allocation.bytes - static_cast<uint64_t>(pointer - allocation.base);
  if (bytes > room) {
    return {StatusCode::kOutOfRange, std::to_string(bytes) + " bytes at pointer " + PointerName(pointer) +
                                         " leave its allocation, which ends after " + std::to_string(room)};
  }
  return Status::Ok();
}

}  // namespace hbmesh
