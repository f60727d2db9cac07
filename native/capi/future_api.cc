// Futures, publish and subscribe, layers.
#include "capi/handles.h"

namespace {

using hbmesh::Status;
using hbmesh::StatusCode;
using hbmesh::layout::Op;
using namespace hbmesh::capi;

constexpr uint64_t kReserveMs = 600'000;

Status CheckTimeout(uint32_t timeoutMs) {
  if (timeoutMs <= kFutureTimeoutMaxMs) return Status::Ok();
  return {StatusCode::kInvalid, "timeout_ms is " + std::to_string(timeoutMs) + ": it must be from 0 to " +
                                    std::to_string(kFutureTimeoutMaxMs)};
}

Status NotYet(uint32_t timeoutMs) {
  return {StatusCode::kFutureTimeout,
          "waited " + std::to_string(timeoutMs) + " ms for a transfer, which goes on: wait again, or cancel it"};
}

Clock::time_point In(uint32_t ms) { return Clock::now() + std::chrono::milliseconds(ms); }

Status GetFuture(hbmesh_future* future, uint32_t timeoutMs, hbmesh_result** result) {
  if (future == nullptr) return IsNull("future");
  if (Status status = CheckTimeout(timeoutMs); !status.ok()) return status;
  Operation& operation = *future->operation;
  if (future->keyIndex == hbmesh_future::kWholeCall) {
    if (!operation.WaitEnd(In(timeoutMs))) return NotYet(timeoutMs);
    if (Status status = operation.callStatus(); !status.ok()) return status;
    return Deliver(operation.result(), result);
  }
  if (!operation.WaitKey(future->keyIndex, In(timeoutMs))) return NotYet(timeoutMs);
  if (result != nullptr) *result = new hbmesh_result(operation.KeyResult(future->keyIndex));
  return operation.KeyStatus(future->keyIndex);
}

// A future a key. The array is the caller's, of as many places as there are keys.
void FillFutures(const Sent& sent, hbmesh_future** futures) {
  std::vector<std::unique_ptr<hbmesh_future>> made;
  for (uint32_t key = 0; key < sent.operation->keyCount(); ++key) {
    made.push_back(std::make_unique<hbmesh_future>(hbmesh_future{sent.operation, sent.connection, sent.id, key}));
  }
  for (size_t key = 0; key < made.size(); ++key) futures[key] = made[key].release();
}

Status ClearFutures(const hbmesh_batch* batch, hbmesh_future** futures) {
  hbmesh_batch given{};
  if (futures == nullptr) return IsNull("futures");
  if (Status status = CopyStruct(batch, "hbmesh_batch", &given); !status.ok()) return status;
  std::fill_n(futures, given.key_count, nullptr);
  return Status::Ok();
}

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
  const CallPlan plan{Op::kReserveLayers, {ttlMs == 0 ? kReserveMs : ttlMs, 0, 0}, 0, &numbers};
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

Status WaitLayer(hbmesh_ticket* ticket, uint32_t layer, Clock::time_point deadline, uint32_t timeoutMs) {
  if (layer >= ticket->operation->keyCount()) {
    return {StatusCode::kOutOfRange, "there is no layer " + std::to_string(layer) + ": the ticket has layers 0 to " +
                                         std::to_string(ticket->operation->keyCount() - 1)};
  }
  if (!ticket->operation->WaitKey(layer, deadline)) return NotYet(timeoutMs);
  return ticket->operation->KeyStatus(layer);
}

}  // namespace

extern "C" {

hbmesh_status hbmesh_future_get(hbmesh_future* future, uint32_t timeout_ms, hbmesh_result** result) {
  return Guard([&]() -> Status {
    if (result != nullptr) *result = nullptr;
    return GetFuture(future, timeout_ms, result);
  });
}

hbmesh_status hbmesh_future_cancel(hbmesh_future* future) {
  return Guard([&]() -> Status {
    if (future == nullptr) return IsNull("future");
    const auto connection = future->connection.lock();
    if (!connection) return Status::Ok();  // the client is gone, and so the transfer
    if (future->keyIndex == hbmesh_future::kWholeCall) {
      connection->client().Cancel(future->id);
    } else {
      connection->client().CancelKey(future->id, future->keyIndex);
    }
    return Status::Ok();
  });
}

uint32_t hbmesh_future_done(const hbmesh_future* future) {
  if (future == nullptr) return 0;
  const auto now = Clock::now();
  const bool whole = future->keyIndex == hbmesh_future::kWholeCall;
  return (whole ? future->operation->WaitEnd(now) : future->operation->WaitKey(future->keyIndex, now)) ? 1 : 0;
}

void hbmesh_future_free(hbmesh_future* future) { delete future; }

hbmesh_status hbmesh_dev_publish(hbmesh_client* client, const hbmesh_batch* batch, hbmesh_future** futures) {
  return Guard([&]() -> Status {
    if (Status status = ClearFutures(batch, futures); !status.ok()) return status;
    Sent sent;
    if (Status status = Send(client, batch, {Op::kDevPublish, {}, 0, nullptr}, &sent); !status.ok()) return status;
    const std::string& worker = client->options.workerAddress;
    if (Status status = AwaitAcceptance(sent, client->requestTimeoutMs, worker); !status.ok()) return status;
    FillFutures(sent, futures);
    return Status::Ok();
  });
}

hbmesh_status hbmesh_dev_subscribe(hbmesh_client* client, const hbmesh_batch* batch, uint32_t timeout_ms,
                                   hbmesh_future** futures) {
  return Guard([&]() -> Status {
    if (Status status = ClearFutures(batch, futures); !status.ok()) return status;
    if (client == nullptr) return IsNull("client");
    if (Status status = CheckTimeout(timeout_ms); !status.ok()) return status;
    const uint32_t usual = batch->key_count == 1 ? client->subscribeTimeoutMs : client->subscribeManyMs;
    const uint32_t waitMs = timeout_ms == 0 ? usual : timeout_ms;
    Sent sent;
    const CallPlan plan{Op::kDevSubscribe, {waitMs, 0, 0}, waitMs, nullptr};
    if (Status status = Send(client, batch, plan, &sent); !status.ok()) return status;
    FillFutures(sent, futures);
    return Status::Ok();
  });
}

hbmesh_status hbmesh_reserve_layers(hbmesh_client* client, const hbmesh_batch* layers, uint64_t ttl_ms,
                                    hbmesh_ticket** ticket) {
  return Guard([&] { return ReserveLayers(client, layers, ttl_ms, ticket); });
}

const char* hbmesh_ticket_text(const hbmesh_ticket* ticket) { return ticket == nullptr ? "" : ticket->text.c_str(); }

hbmesh_status hbmesh_ticket_wait_layer(hbmesh_ticket* ticket, uint32_t layer, uint32_t timeout_ms) {
  return Guard([&]() -> Status {
    if (ticket == nullptr) return IsNull("ticket");
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
  return Guard([&]() -> Status {
    if (result != nullptr) *result = nullptr;
    if (ticket_text == nullptr) return IsNull("ticket_text");
    const std::vector<std::string> keys = {ticket_text};
    hbmesh_batch given{};
    if (Status status = CopyStruct(blobs, "hbmesh_batch", &given); !status.ok()) return status;
    if (given.key_count != 1) {
      return {StatusCode::kInvalid,
              "key_count is " + std::to_string(given.key_count) + ": a push is of one layer, give 1"};
    }
    Sent sent;
    const CallPlan plan{Op::kPushLayer, {layer, 0, 0}, 0, &keys};
    if (Status status = Send(client, blobs, plan, &sent); !status.ok()) return status;
    if (Status status = Await(sent, client->options.workerAddress); !status.ok()) return status;
    const hbmesh_result pushed = sent.operation->result();
    if (Status status = Deliver(hbmesh_result(pushed), nullptr); !status.ok()) return status;
    return Deliver(hbmesh_result(pushed), result);
  });
}

}  // extern "C"
