// Region: device memory that a client registered. Whoever copies from or to it keeps it alive, so that the memory is
// released only when no copy uses it, however the client ended.
#pragma once

#include "device/device.h"

namespace hbmesh::sidecar {

class Region {
 public:
  // Takes over what `device` imported. `device` outlives every region.
  Region(Device& device, const DeviceRegion& memory) : device_(device), memory_(memory) {}
  ~Region() { device_.Release(memory_); }
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  [[nodiscard]] std::byte* base() const { return memory_.base; }
  [[nodiscard]] uint64_t bytes() const { return memory_.bytes; }
  [[nodiscard]] uint32_t deviceIndex() const { return memory_.deviceIndex; }

 private:
  Device& device_;
  DeviceRegion memory_;
};

}  // namespace hbmesh::sidecar
