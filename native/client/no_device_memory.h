// NoDeviceMemory: the exporter of a process that has no device memory, in which no pointer is any.
#pragma once

#include "device/device_exporter.h"

namespace hbmesh {

class NoDeviceMemory final : public DeviceExporter {
 public:
  [[nodiscard]] const char* backend() const override { return "none"; }
  [[nodiscard]] Status Describe(const std::byte*, uint64_t, ExportedRegion*) override {
    return {StatusCode::kInvalid, "this process has no device memory"};
  }
  [[nodiscard]] Status FindAllocation(const std::byte*, DeviceAllocation*) override {
    return {StatusCode::kInvalid, "this process has no device memory"};
  }
};

}  // namespace hbmesh
