#include "bench/link_memory.h"

#include "bench/failure.h"
#include "transport/transport_factory.h"

namespace hbmesh::bench {

LinkMemory::LinkMemory(uint64_t bytes) {
  Check(CreateMemfd("hbmesh-bench-link", bytes, false, &fd_), "memory to transfer");
  Check(MappedMemory::Map(fd_.get(), 0, bytes, true, &mapped_), "memory to transfer");
  Check(mapped_.Prefault(), "memory to transfer");
}

uint32_t LinkMemory::Register(Transport& transport) const {
  MemoryRegion region;
  Check(transport.RegisterMemory(data(), bytes(), fd_.get(), 0, true, &region), "registering memory");
  return region.id;
}

std::unique_ptr<Transport> MakeTransport(const std::string& name, uint32_t copyThreads, TransportSink* sink) {
  TransportOptions options;
  options.copyThreads = copyThreads;
  std::unique_ptr<Transport> transport;
  Check(CreateTransport(name, options, sink, &transport), "transport " + name);
  return transport;
}

}  // namespace hbmesh::bench
