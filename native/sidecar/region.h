// Region: device memory that a client registered. Whoever copies from or to it keeps it alive, so that the memory is
// released only when no copy uses it, however the client ended.
//
// Peers reach it once it was exported to a transport, which happens at its first use by one. Thread rule: the loop.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "device/device.h"
#include "transport/transport.h"

namespace hbmesh::sidecar {

class Region {
 public:
  // Takes over what `device` imported. `device` outlives every region.
  Region(Device& device, const DeviceRegion& memory) : device_(device), memory_(memory) {}
  // Ends what peers may do with it first, and waits for what they do at the moment.
  ~Region();
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  [[nodiscard]] std::byte* base() const { return memory_.base; }
  [[nodiscard]] uint64_t bytes() const { return memory_.bytes; }
  [[nodiscard]] uint32_t deviceIndex() const { return memory_.deviceIndex; }

  // The number by which peers of this transport name the region, for reading or for writing. The transport outlives the
  // region. kNotSupported: it can't reach this memory.
  [[nodiscard]] Status Export(Transport& transport, bool writable, uint32_t* number);

 private:
  struct Exported {
    Transport* transport;
    bool writable;
    uint32_t number;
  };

  Device& device_;
  DeviceRegion memory_;
  std::vector<Exported> exported_;
};

}  // namespace hbmesh::sidecar
