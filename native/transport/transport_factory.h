// Makes transports by name. The only place that knows which ones there are.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "transport/transport.h"
#include "transport/transport_options.h"

namespace hbmesh {

// The transports of this build, best first: {"shm", "tcp"}.
[[nodiscard]] const std::vector<std::string>& TransportNames();

// `sink` must outlive the transport and all of its endpoints. kInvalid: no transport has this name; kNotSupported: it
// has no implementation in this build.
[[nodiscard]] Status CreateTransport(std::string_view name, const TransportOptions& options, TransportSink* sink,
                                     std::unique_ptr<Transport>* transport);

}  // namespace hbmesh
