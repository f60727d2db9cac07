// Layer by layer: tickets and pushes.
#include "capi/handles.h"

namespace {

using hbmesh::Status;
using hbmesh::StatusCode;
using hbmesh::layout::Op;
using namespace hbmesh::capi;

constexpr uint64_t kReserveMs = 600'000;

Status ReserveLayers(hbmesh_client* client, const hbmesh_batch* layers, uint64_t ttlMs, hbmesh_ticket** ticket) {
  if (ticket == nullptr) return IsNull("ticket");
  *ticket = nullptr;
  hbmesh_batch given{};
  if (Status status = CopyStruct(layers, "hbmesh_batch", &given); !status.ok()) return status;
  std::vector<std::string> numbers;
  for (uint32_t i = 0; i < given.key_count && i <= hbmesh::layout::kKeysPerCallMax; ++i) {
    numbers.push_back(std::to_string(i));
  }
  Sent sent;
  const CallPlan plan{
      Op::kReserveLayers, {ttlMs == 0 ? kReserveMs : ttlMs, 0, 0}, 0, &numbers, CheckTimeout(ttlMs, "ttl_ms")};
  if (Status status = Send(client, layers, plan, &sent); !status.ok()) return status;
  const std::string& worker = client->options.workerAddress;
  if (Status status = AwaitAcceptance(sent, client->requestTimeoutMs, worker); !status.ok()) return status;
  const std::string text = sent.operation->note();
  if (text.empty()) {
    if (sent.operation->ended()) return Deliver(sent.operation->result(), nullptr);
    sent.connection->client().Cancel(sent.id);
    return {StatusCode::kDataInconsistency,
            "worker " + worker + " gave out no ticket: worker and client must be of the same release"};
  }
  *ticket = new hbmesh_ticket{sent.operation, sent.connection, sent.id, text};
  return Status::Ok();
}

Status CheckLayer(const hbmesh_ticket* ticket, uint32_t layer) {
  if (ticket == nullptr) return IsNull("ticket");
  if (layer < ticket->operation->keyCount()) return Status::Ok();
  return {StatusCode::kOutOfRange, "there is no layer " + std::to_string(layer) + ": the ticket has layers 0 to " +
                                       std::to_string(ticket->operation->keyCount() - 1)};
}

Status WaitLayer(hbmesh_ticket* ticket, uint32_t layer, Clock::time_point deadline, uint32_t timeoutMs) {
  if (!ticket->operation->WaitKey(layer, deadline)) return StillOpen(timeoutMs);
  return ticket->operation->KeyStatus(layer);
}

// Sends the push of a layer, with what the caller wants of it.
template <typename Body>
hbmesh_status Push(const char* ticketText, uint32_t layer, const hbmesh_batch* blobs, Body body) {
  return Guard([&]() -> Status {
    if (ticketText == nullptr) return IsNull("ticket_text");
    hbmesh_batch given{};
    if (Status status = CopyStruct(blobs, "hbmesh_batch", &given); !status.ok()) return status;
    const std::vector<std::string> keys = {ticketText};
    CallPlan plan{Op::kPushLayer, {layer, 0, 0}, 0, &keys};
    if (given.key_count != 1) {
      plan.fault = {StatusCode::kInvalid,
                    "key_count is " + std::to_string(given.key_count) + ": a push is of one layer, give 1"};
    }
    return body(plan);
  });
}

}  // namespace

extern "C" {

hbmesh_status hbmesh_reserve_layers(hbmesh_client* client, const hbmesh_batch* layers, uint64_t ttl_ms,
                                    hbmesh_ticket** ticket) {
  return Guard([&] { return ReserveLayers(client, layers, ttl_ms, ticket); });
}

const char* hbmesh_ticket_text(const hbmesh_ticket* ticket) { return ticket == nullptr ? "" : ticket->text.c_str(); }

uint32_t hbmesh_ticket_layer_count(const hbmesh_ticket* ticket) {
  return ticket == nullptr ? 0 : ticket->operation->keyCount();
}

hbmesh_status hbmesh_ticket_layer(const hbmesh_ticket* ticket, uint32_t layer, hbmesh_future** future) {
  return Guard([&]() -> Status {
    if (future == nullptr) return IsNull("future");
    *future = nullptr;
    if (Status status = CheckLayer(ticket, layer); !status.ok()) return status;
    *future = new hbmesh_future{ticket->operation, ticket->connection, ticket->id, layer};
    return Status::Ok();
  });
}

hbmesh_status hbmesh_ticket_wait_layer(hbmesh_ticket* ticket, uint32_t layer, uint32_t timeout_ms) {
  return Guard([&]() -> Status {
    if (Status status = CheckLayer(ticket, layer); !status.ok()) return status;
    if (Status status = CheckTimeout(timeout_ms); !status.ok()) return status;
    return WaitLayer(ticket, layer, In(timeout_ms), timeout_ms);
  });
}

hbmesh_status hbmesh_ticket_wait_all(hbmesh_ticket* ticket, uint32_t timeout_ms) {
  return Guard([&]() -> Status {
    if (ticket == nullptr) return IsNull("ticket");
    if (Status status = CheckTimeout(timeout_ms); !status.ok()) return status;
    const Clock::time_point deadline = In(timeout_ms);
    for (uint32_t layer = 0; layer < ticket->operation->keyCount(); ++layer) {
      if (Status status = WaitLayer(ticket, layer, deadline, timeout_ms); !status.ok()) return status;
    }
    return Status::Ok();
  });
}

hbmesh_status hbmesh_ticket_cancel(hbmesh_ticket* ticket) {
  return Guard([&]() -> Status {
    if (ticket == nullptr) return IsNull("ticket");
    if (const auto connection = ticket->connection.lock()) connection->client().Cancel(ticket->id);
    return Status::Ok();
  });
}

void hbmesh_ticket_free(hbmesh_ticket* ticket) {
  if (ticket == nullptr) return;
  hbmesh_ticket_cancel(ticket);
  delete ticket;
}

hbmesh_status hbmesh_push_layer(hbmesh_client* client, const char* ticket_text, uint32_t layer,
                                const hbmesh_batch* blobs, hbmesh_result** result) {
  if (result != nullptr) *result = nullptr;
  return Push(ticket_text, layer, blobs,
              [&](const CallPlan& plan) { return CallAndWait(client, blobs, plan, result); });
}

hbmesh_status hbmesh_push_layer_async(hbmesh_client* client, const char* ticket_text, uint32_t layer,
                                      const hbmesh_batch* blobs, hbmesh_future** future) {
  if (future != nullptr) *future = nullptr;
  return Push(ticket_text, layer, blobs, [&](const CallPlan& plan) { return NewFuture(client, blobs, plan, future); });
}

}  // extern "C"
