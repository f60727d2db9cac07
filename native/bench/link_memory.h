// LinkMemory: memory that both ends of a link register, touched, and one end of a transport that it is registered with.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/fd.h"
#include "base/mapped_memory.h"
#include "transport/transport.h"

namespace hbmesh::bench {

class LinkMemory {
 public:
  // Throws Failure when there is not as much.
  explicit LinkMemory(uint64_t bytes);
  [[nodiscard]] std::byte* data() const { return mapped_.data(); }
  [[nodiscard]] uint64_t bytes() const { return mapped_.bytes(); }
  [[nodiscard]] std::span<std::byte> span() const { return mapped_.span(); }
  // The number by which the peer names it. Throws Failure.
  [[nodiscard]] uint32_t Register(Transport& transport) const;

 private:
  Fd fd_;
  MappedMemory mapped_;
};

// Throws Failure, naming it, for a transport that there is none of.
// `copyThreads`: of shm; 0: as many as fit the machine.
[[nodiscard]] std::unique_ptr<Transport> MakeTransport(const std::string& name, uint32_t copyThreads,
                                                       TransportSink* sink);

}  // namespace hbmesh::bench
