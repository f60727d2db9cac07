// The transports of this sidecar, listening, with the arena registered in each.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "queue/layout.h"
#include "sidecar/completions.h"
#include "sidecar/options.h"
#include "store/object_store.h"
#include "transport/transport.h"

namespace hbmesh::sidecar {

struct OpenTransport {
  std::string name;  // "shm", "tcp"
  layout::TransportId id = layout::TransportId::kTcp;
  std::unique_ptr<TransportEvents> events;  // outlives the transport
  std::unique_ptr<Transport> transport;
  MemoryRegion arena;
};

// An endpoint among all transports.
struct EndpointKey {
  uint32_t transport = 0;  // index in the list of open transports
  uint64_t endpoint = 0;
  auto operator<=>(const EndpointKey&) const = default;
};

// Makes a transport by name. Passed in, so that tests can bring their own.
using TransportFactory =
    std::function<Status(const std::string& name, TransportSink* sink, std::unique_ptr<Transport>* transport)>;

// Names of the transports to open for a choice, the wanted one first.
[[nodiscard]] std::vector<std::string> TransportNames(TransportChoice choice);

// Opens them in that order. Under kAuto one that can't be opened is left out, with a warning in the log, as long as
// another is there.
[[nodiscard]] Status OpenTransports(const SidecarOptions& options, const TransportFactory& factory,
                                    CompletionQueue& events, ObjectStore& store,
                                    std::vector<OpenTransport>* transports);

// "tcp=127.0.0.1:40123 shm=hbmesh-shm/127.0.0.1:31501"
[[nodiscard]] std::string DescribeTransports(const std::vector<OpenTransport>& transports);

}  // namespace hbmesh::sidecar
