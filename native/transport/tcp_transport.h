// The tcp transport: registered memory of two hosts over plain sockets, a few connections for each peer. tcp_wire.h has
// the protocol.
#pragma once

#include <memory>

#include "transport/transport.h"
#include "transport/transport_options.h"

namespace hbmesh {

[[nodiscard]] std::unique_ptr<Transport> CreateTcpTransport(const TransportOptions& options, TransportSink* sink);

}  // namespace hbmesh
