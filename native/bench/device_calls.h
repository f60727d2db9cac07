// Device-to-device calls of the bench client that stay open between orders: what is published and not yet received, and
// the ticket of reserved layers.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bench/object_calls.h"

namespace hbmesh::bench {

// Futures of published keys.
class Published {
 public:
  ~Published();
  // Publishes the keys of every iteration of thread 0, all of the same memory. Throws Failure.
  void Publish(const CallPlan& plan);
  // Waits until every one has been received. Throws Failure.
  void Settle(uint32_t timeoutMs);

 private:
  std::vector<hbmesh_future*> futures_;
};

struct TicketFree {
  void operator()(hbmesh_ticket* ticket) const { hbmesh_ticket_free(ticket); }
};
using Ticket = std::unique_ptr<hbmesh_ticket, TicketFree>;

// Reserves every key of thread 0 as a layer. Throws Failure.
[[nodiscard]] Ticket Reserve(hbmesh_client* client, const ObjectMemory& memory);

// Pushes every key of thread 0 as a layer, `inFlight` at a time; latencies are those of single pushes. Throws Failure.
[[nodiscard]] TimedRun PushLayers(hbmesh_client* client, const ObjectMemory& memory, const std::string& ticket,
                                  uint32_t inFlight, uint64_t atNs);

}  // namespace hbmesh::bench
