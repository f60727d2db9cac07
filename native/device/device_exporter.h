// DeviceExporter: how the client core finds out which device memory a pointer of this process lies in, and exports that
// memory to the sidecar. The counterpart of Device::Import.
//
// sim: SimHeap's segments, exported as memfds. Ascend: the region is what aclrtPointerGetAttributes and the allocation
// table of the process say, the key is that of aclrtIpcMemGetExportKey, there is no descriptor.
//
// Thread rule: any thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/status.h"
#include "device/device.h"

namespace hbmesh {

// A range of device memory that is registered as one: everything in it is reached as (region, offset).
struct ExportedRegion {
  uint64_t regionId = 0;  // never used for another region of this process, also after the region is gone
  uint32_t deviceIndex = 0;
  const std::byte* regionBase = nullptr;
  uint64_t regionBytes = 0;
  ExportHandle handle;  // handle.fd stays the exporter's; it is valid as long as the region is
};

// What the device's allocator gave out in one piece.
struct DeviceAllocation {
  const std::byte* base = nullptr;
  uint64_t bytes = 0;  // as they were asked for
};

class DeviceExporter {
 public:
  virtual ~DeviceExporter() = default;
  // "sim", "ascend"; must be the backend of the sidecar.
  [[nodiscard]] virtual const char* backend() const = 0;
  // The region that [pointer, pointer + bytes) lies in. kInvalid, naming the pointer: it is no device memory, or the
  // range leaves its region.
  [[nodiscard]] virtual Status Describe(const std::byte* pointer, uint64_t bytes, ExportedRegion* region) = 0;
  // The allocation that the pointer lies in now; a region may hold many, and freed ones between them. kInvalid, naming
  // the pointer: in none that lives. Called for every blob whose pointer is not in the allocation of the blob before,
  // so it may cost no more than a look into an ordered map (Ascend: the runtime's address range of a pointer).
  [[nodiscard]] virtual Status FindAllocation(const std::byte* pointer, DeviceAllocation* allocation) = 0;
};

}  // namespace hbmesh
