// The two halves of the shm handshake, and who may take part: processes of our own user, or of root.
#pragma once

#include <string>

#include "base/fd.h"
#include "base/status.h"
#include "transport/transport_options.h"

namespace hbmesh {

// Connects to the transport that listens on `name`. Ends early when the eventfd `cancel` is signalled (kRpcCancelled).
// kRpcUnavailable names the address.
[[nodiscard]] Status ConnectShm(const std::string& name, const TransportOptions& options, int cancel, Fd* socket);

// kNotAuthorized: the other end belongs to somebody else. *peer is how the peer is named in messages.
[[nodiscard]] Status CheckShmPeer(int socket, std::string* peer);

// The listening half. kTryAgain: the Hello has not come yet. kNotSupported, which the peer is to be told: it is of
// another release. Any other failure: it is gone, or none of us.
[[nodiscard]] Status ReceiveShmHello(int socket);
void SendShmReply(int socket, const Status& status);

}  // namespace hbmesh
