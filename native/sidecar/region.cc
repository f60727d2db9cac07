#include "sidecar/region.h"

#include <string>

namespace hbmesh::sidecar {

Region::~Region() {
  for (const Exported& exported : exported_) exported.transport->UnregisterMemory(exported.number);
  device_.Release(memory_);
}

Status Region::Export(Transport& transport, bool writable, uint32_t* number) {
  for (const Exported& exported : exported_) {
    if (exported.transport != &transport || exported.writable != writable) continue;
    *number = exported.number;
    return Status::Ok();
  }
  if (!device_.capabilities().hostAddressable && !transport.capabilities().reachesDeviceMemory) {
    return {StatusCode::kNotSupported, std::string("transport ") + transport.name() + " can't reach the memory of a " +
                                           device_.backend() + " device: choose another --transport"};
  }
  MemoryRegion region;
  const Status status = transport.RegisterMemory(memory_.base, memory_.bytes, memory_.fd, 0, writable, &region);
  if (!status.ok()) return status;
  exported_.push_back({&transport, writable, region.id});
  *number = region.id;
  return Status::Ok();
}

}  // namespace hbmesh::sidecar
