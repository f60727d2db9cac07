// Connects the lanes of an endpoint: the client's half of the handshake.
#pragma once

#include <vector>

#include "base/fd.h"
#include "base/status.h"
#include "transport/socket_address.h"
#include "transport/transport_options.h"

namespace hbmesh {

// Connects `lanes` sockets and waits until the peer has accepted all of them. Ends early when the eventfd `cancel` is
// signalled (kRpcCancelled). kRpcUnavailable names the address and the cause.
[[nodiscard]] Status ConnectLanes(const SocketAddress& address, uint32_t lanes, const TransportOptions& options,
                                  int cancel, std::vector<Fd>* sockets);

}  // namespace hbmesh
