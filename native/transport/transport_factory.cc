#include "transport/transport_factory.h"

#include "transport/shm_transport.h"
#include "transport/tcp_transport.h"

namespace hbmesh {

const std::vector<std::string>& TransportNames() {
  static const std::vector<std::string> names{"shm", "tcp"};
  return names;
}

Status CreateTransport(std::string_view name, const TransportOptions& options, TransportSink* sink,
                       std::unique_ptr<Transport>* transport) {
  if (name == "tcp") {
    *transport = CreateTcpTransport(options, sink);
    return Status::Ok();
  }
  if (name == "shm") {
    *transport = CreateShmTransport(options, sink);
    return Status::Ok();
  }
  if (name == "rdma" || name == "hccs") {
    return {StatusCode::kNotSupported, "this build has no transport \"" + std::string(name) + "\"; use shm or tcp"};
  }
  return {StatusCode::kInvalid, "there is no transport \"" + std::string(name) + "\"; use shm or tcp"};
}

}  // namespace hbmesh
