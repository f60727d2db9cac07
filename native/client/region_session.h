// RegionSession: registers device memory with the sidecar over the session socket, one request and reply at a time.
//
// Thread rule: one thread at a time (RegionCache sees to it). The socket is borrowed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "client/region_cache.h"

namespace hbmesh {

class RegionSession final : public RegionRegistrar {
 public:
  // REQUIRES: nobody else reads from the socket.
  RegionSession(int socket, std::string workerAddress, uint32_t timeoutMs);

  // Errors: the sidecar's own; kWorkerTimeout when it doesn't answer, kClientWorkerDisconnect when it ended,
  // kDataInconsistency for an answer that breaks the protocol. Without an answer the socket is shut down, since a late
  // one would be taken for the next one's; the session then ends.
  [[nodiscard]] Status Register(const ExportHandle& handle, uint32_t* region) override;
  [[nodiscard]] Status Unregister(uint32_t region) override;

 private:
  // `fd` below 0: none goes along.
  [[nodiscard]] Status Ask(std::span<const std::byte> packet, int fd, const char* doing, uint32_t* region);
  [[nodiscard]] Status Receive(const char* doing, uint32_t* region, bool* answered) const;

  const int socket_;
  const std::string workerAddress_;
  const uint32_t timeoutMs_;
};

}  // namespace hbmesh
