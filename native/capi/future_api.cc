// Futures; publish and subscribe.
#include "capi/handles.h"

namespace {

using hbmesh::Status;
using hbmesh::StatusCode;
using hbmesh::layout::Op;
using namespace hbmesh::capi;

Status GetFuture(hbmesh_future* future, uint32_t timeoutMs, hbmesh_result** result) {
  if (future == nullptr) return IsNull("future");
  if (Status status = CheckTimeout(timeoutMs); !status.ok()) return status;
  Operation& operation = *future->operation;
  if (future->keyIndex == hbmesh_future::kWholeCall) {
    if (!operation.WaitEnd(In(timeoutMs))) return StillOpen(timeoutMs);
    if (Status status = operation.callStatus(); !status.ok()) return status;
    return DeliverEnded(operation, result);
  }
  if (!operation.WaitKey(future->keyIndex, In(timeoutMs))) return StillOpen(timeoutMs);
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

hbmesh_status hbmesh_future_notify(hbmesh_future* future, int event_fd) {
  return Guard([&]() -> Status {
    if (future == nullptr) return IsNull("future");
    if (Status status = CheckDescriptor(event_fd); !status.ok()) return status;
    future->operation->Watch(future, future->keyIndex, event_fd);
    return Status::Ok();
  });
}

void hbmesh_future_free(hbmesh_future* future) {
  if (future == nullptr) return;
  future->operation->Watch(future, future->keyIndex, -1);
  delete future;
}

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
    const uint32_t usual = batch->key_count == 1 ? client->subscribeTimeoutMs : client->subscribeManyMs;
    const uint32_t waitMs = timeout_ms == 0 ? usual : timeout_ms;
    Sent sent;
    const CallPlan plan{Op::kDevSubscribe, {waitMs, 0, 0}, waitMs, nullptr, CheckTimeout(timeout_ms)};
    if (Status status = Send(client, batch, plan, &sent); !status.ok()) return status;
    FillFutures(sent, futures);
    return Status::Ok();
  });
}

}  // extern "C"
