#include "client/region_cache.h"

#include <cstdio>
#include <string>
#include <utility>

namespace hbmesh {

namespace {

std::string Hex(uint64_t pointer) {
  char text[24];
  std::snprintf(text, sizeof(text), "0x%llx", static_cast<unsigned long long>(pointer));
  return text;
}

// `blob 3 of key "name" (number 7) with pointer 0x… and 4096 bytes`
std::string DescribeBlob(const ObjectCall& call, size_t blob) {
  const uint32_t key = KeyIndexOfBlob(call, blob);
  const uint32_t first = key == 0 ? 0 : call.blobEnds[key - 1];
  return "blob " + std::to_string(blob - first) + " of " + DescribeKey(call, key) + " with pointer " +
         Hex(call.pointers[blob]) + " and " + std::to_string(call.sizes[blob]) + " bytes";
}

uint64_t BaseOf(const ExportedRegion& segment) { return reinterpret_cast<uint64_t>(segment.regionBase); }

bool Contains(const ExportedRegion& segment, uint64_t pointer) {
  return pointer >= BaseOf(segment) && pointer - BaseOf(segment) < segment.regionBytes;
}

bool SameMemory(const ExportedRegion& left, const ExportedRegion& right) {
  return left.regionId == right.regionId && left.regionBase == right.regionBase &&
         left.regionBytes == right.regionBytes;
}

Status NoDeviceMemory(const std::string& what) {
  return {StatusCode::kInvalid,
          what + " is not in device memory: pass a pointer that the device's allocator returned and that is not freed"};
}

Status LeavesAllocation(const std::string& what, const DeviceAllocation& allocation) {
  return {StatusCode::kInvalid, what + " leaves its allocation, which has " + std::to_string(allocation.bytes) +
                                    " bytes from " + Hex(reinterpret_cast<uint64_t>(allocation.base)) +
                                    ": check pointer and size"};
}

}  // namespace

RegionCache::RegionCache(DeviceExporter* exporter, RegionRegistrar* registrar, uint32_t regionsMax)
    : exporter_(exporter), registrar_(registrar), regionsMax_(regionsMax) {}

bool RegionCache::Find(uint64_t pointer, ExportedRegion* segment) const {
  return exporter_->Describe(reinterpret_cast<const std::byte*>(pointer), 1, segment).ok();
}

template <typename What>
Status RegionCache::CheckAllocated(uint64_t pointer, uint64_t bytes, DeviceAllocation* allocation,
                                   const What& what) const {
  // No sums, so nothing can overflow.
  const auto base = [&] { return reinterpret_cast<uint64_t>(allocation->base); };
  if (pointer < base() || pointer - base() >= allocation->bytes) {
    const Status found = exporter_->FindAllocation(reinterpret_cast<const std::byte*>(pointer), allocation);
    if (!found.ok()) return NoDeviceMemory(what());
  }
  if (bytes > allocation->bytes - (pointer - base())) return LeavesAllocation(what(), *allocation);
  return Status::Ok();
}

Status RegionCache::FindSegments(const ObjectCall& call, std::map<uint64_t, ExportedRegion>* segments) const {
  const ExportedRegion* last = nullptr;  // most blobs lie beside the one before
  DeviceAllocation allocation;
  for (size_t blob = 0; blob < call.pointers.size(); ++blob) {
    const uint64_t pointer = call.pointers[blob];
    const auto what = [&] { return DescribeBlob(call, blob); };
    if (Status status = CheckAllocated(pointer, call.sizes[blob], &allocation, what); !status.ok()) return status;
    if (last == nullptr || !Contains(*last, pointer)) {
      ExportedRegion segment;
      if (!Find(pointer, &segment)) return NoDeviceMemory(what());
      last = &segments->insert_or_assign(BaseOf(segment), segment).first->second;
    }
    if (last->deviceIndex != call.deviceIndex) {
      return {StatusCode::kInvalid, what() + " is memory of device " + std::to_string(last->deviceIndex) +
                                        ", the batch is for device " + std::to_string(call.deviceIndex) +
                                        ": a batch has one device"};
    }
  }
  return Status::Ok();
}

bool RegionCache::TryPin(const ObjectCall& call, const std::map<uint64_t, ExportedRegion>& segments,
                         ResolvedBlobs* blobs) {
  const std::lock_guard lock(mutex_);
  for (const auto& [base, segment] : segments) {
    const auto found = entries_.find(base);
    if (found == entries_.end() || !SameMemory(found->second.segment, segment)) return false;
  }
  const uint64_t use = ++uses_;
  blobs->segments.reserve(segments.size());
  for (const auto& [base, segment] : segments) {
    Entry& entry = entries_.find(base)->second;
    ++entry.pins;
    entry.lastUse = use;
    blobs->segments.push_back(base);
  }
  blobs->records.reserve(call.pointers.size());
  const Entry* last = nullptr;
  for (size_t blob = 0; blob < call.pointers.size(); ++blob) {
    const uint64_t pointer = call.pointers[blob];
    if (last == nullptr || !Contains(last->segment, pointer)) {
      last = &std::prev(entries_.upper_bound(pointer))->second;
    }
    blobs->records.push_back({last->region, 0, pointer - BaseOf(last->segment), call.sizes[blob]});
  }
  return true;
}

Status RegionCache::DropStale(const ExportedRegion& segment) {
  uint32_t region = 0;
  {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(BaseOf(segment));
    if (found == entries_.end()) return Status::Ok();
    if (found->second.pins > 0) {
      return {StatusCode::kInvalid, "the device memory at " + Hex(BaseOf(segment)) +
                                        " was freed and allocated again while a request still uses it: free memory "
                                        "only after the request has ended"};
    }
    region = found->second.region;
    entries_.erase(found);
  }
  return registrar_->Unregister(region);
}

Status RegionCache::MakeRoom(const std::map<uint64_t, ExportedRegion>& keep) {
  uint32_t region = 0;
  {
    const std::lock_guard lock(mutex_);
    if (entries_.size() < regionsMax_) return Status::Ok();
    auto oldest = entries_.end();
    for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
      if (entry->second.pins > 0 || keep.contains(entry->first)) continue;
      if (oldest == entries_.end() || entry->second.lastUse < oldest->second.lastUse) oldest = entry;
    }
    if (oldest == entries_.end()) {
      return {StatusCode::kTryAgain, "all " + std::to_string(regionsMax_) +
                                         " device regions that a client may have registered are in use: wait for a "
                                         "request to end, or use fewer allocations"};
    }
    region = oldest->second.region;
    entries_.erase(oldest);
  }
  return registrar_->Unregister(region);
}

Status RegionCache::RegisterMissing(const std::map<uint64_t, ExportedRegion>& segments) {
  for (const auto& [base, segment] : segments) {
    bool known = false;
    {
      const std::lock_guard lock(mutex_);
      const auto found = entries_.find(base);
      known = found != entries_.end() && SameMemory(found->second.segment, segment);
    }
    if (known) continue;
    if (Status status = DropStale(segment); !status.ok()) return status;
    if (Status status = MakeRoom(segments); !status.ok()) return status;
    uint32_t region = 0;
    if (Status status = registrar_->Register(segment.handle, &region); !status.ok()) return status;
    const std::lock_guard lock(mutex_);
    entries_[base] = Entry{segment, region, 0, ++uses_};
  }
  return Status::Ok();
}

Status RegionCache::Resolve(const ObjectCall& call, Registration registration, ResolvedBlobs* blobs) {
  std::map<uint64_t, ExportedRegion> segments;
  if (Status status = FindSegments(call, &segments); !status.ok()) return status;
  ResolvedBlobs resolved;
  if (TryPin(call, segments, &resolved)) {
    *blobs = std::move(resolved);
    return Status::Ok();
  }
  if (registration == Registration::kKnownOnly) {
    return {StatusCode::kNotReady, "device memory of this call is not registered yet"};
  }
  // Only holders of this mutex take entries away, so what RegisterMissing found or made is still there for TryPin.
  const std::lock_guard registering(registering_);
  if (Status status = RegisterMissing(segments); !status.ok()) return status;
  if (!TryPin(call, segments, &resolved)) {
    return {StatusCode::kTryAgain, "device memory was freed while it was being registered: try again"};
  }
  *blobs = std::move(resolved);
  return Status::Ok();
}

Status RegionCache::Preregister(std::span<const uint64_t> pointers, std::span<const uint64_t> sizes) {
  if (pointers.size() != sizes.size()) {
    return {StatusCode::kInvalid, std::to_string(pointers.size()) + " pointers but " + std::to_string(sizes.size()) +
                                      " sizes: give one size for each pointer"};
  }
  std::map<uint64_t, ExportedRegion> segments;
  DeviceAllocation allocation;
  for (size_t i = 0; i < pointers.size(); ++i) {
    const auto what = [&] {
      return "range " + std::to_string(i) + " (pointer " + Hex(pointers[i]) + ", " + std::to_string(sizes[i]) +
             " bytes)";
    };
    if (Status status = CheckAllocated(pointers[i], sizes[i], &allocation, what); !status.ok()) return status;
    ExportedRegion segment;
    if (!Find(pointers[i], &segment)) return NoDeviceMemory(what());
    segments.insert_or_assign(BaseOf(segment), segment);
  }
  const std::lock_guard registering(registering_);
  return RegisterMissing(segments);
}

void RegionCache::Unpin(std::span<const uint64_t> segments) {
  const std::lock_guard lock(mutex_);
  for (const uint64_t base : segments) {
    if (const auto found = entries_.find(base); found != entries_.end() && found->second.pins > 0) {
      --found->second.pins;
    }
  }
}

size_t RegionCache::size() const {
  const std::lock_guard lock(mutex_);
  return entries_.size();
}

}  // namespace hbmesh
