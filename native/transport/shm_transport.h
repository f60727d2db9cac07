// The shm transport: registered memory of two processes of one host, mapped by both, moved with one copy. shm_wire.h
// has the protocol. Addresses are names of abstract Unix sockets.
#pragma once

#include <memory>

#include "transport/transport.h"
#include "transport/transport_options.h"

namespace hbmesh {

[[nodiscard]] std::unique_ptr<Transport> CreateShmTransport(const TransportOptions& options, TransportSink* sink);

}  // namespace hbmesh
