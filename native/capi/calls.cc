// How calls go: sent, awaited for their time, ended.
#include <regex>

#include "capi/handles.h"

namespace hbmesh::capi {

namespace {

// How long the sidecar may take to confirm that a request was stopped, the time for its bytes apart: those that move at
// that moment may have to come to their end.
constexpr uint32_t kStopGraceMs = 2000;

Status Expired(uint32_t ms, const std::string& workerAddress, const char* doing) {
  return {StatusCode::kRpcDeadlineExceeded, "waited " + std::to_string(ms) + " ms for worker " + workerAddress +
                                                " to " + doing +
                                                ": look at the worker's log, or give a longer request timeout"};
}

// REQUIRES: the request was asked to end for `reason`.
Status AwaitStop(const Sent& sent, const Status& reason) {
  if (sent.operation->WaitEnd(In(sent.stopMs))) return reason;
  return {StatusCode::kWorkerTimeout, reason.message() + ". The sidecar did not confirm within " +
                                          std::to_string(sent.stopMs) +
                                          " ms that it stopped: don't reuse the device memory of this call before the "
                                          "client is closed"};
}

}  // namespace

std::string& LastMessage() {
  thread_local std::string message;
  return message;
}

hbmesh_status Report(const Status& status) {
  LastMessage() = status.message();
  return static_cast<hbmesh_status>(status.code());
}

Status IsNull(const char* what) { return {StatusCode::kInvalid, std::string(what) + " is NULL"}; }

Status CheckTimeout(uint64_t ms, const char* name) {
  if (ms <= kFutureTimeoutMaxMs) return Status::Ok();
  return {StatusCode::kInvalid, std::string(name) + " is " + std::to_string(ms) + ": it must be from 0 to " +
                                    std::to_string(kFutureTimeoutMaxMs)};
}

Status StillOpen(uint32_t timeoutMs) {
  return {StatusCode::kFutureTimeout,
          "waited " + std::to_string(timeoutMs) + " ms for a transfer, which goes on: wait again, or cancel it"};
}

Status CheckDescriptor(int eventFd) {
  if (eventFd >= -1) return Status::Ok();
  return {StatusCode::kInvalid, "event_fd is " + std::to_string(eventFd) + ": give an eventfd, or -1"};
}

uint32_t KeyNamedIn(const std::string& message) {
  // `key "name" (number 3)`, `key "name" is in the call twice (numbers 1 and 3)`, `key number 3 is empty`.
  static const std::regex pattern(R"re(\b[Kk]ey (?:"[^"]*"[^"(]*\(numbers? |number )(\d{1,6}))re");
  std::smatch found;
  return std::regex_search(message, found, pattern) ? static_cast<uint32_t>(std::stoul(found[1])) : 0;
}

Status OpenConnection(hbmesh_client* client, std::shared_ptr<Connection>* connection) {
  if (client == nullptr) return IsNull("client");
  const std::lock_guard lock(client->mutex);
  if (client->closed) return {StatusCode::kShuttingDown, "the client was closed: make a new one"};
  if (!client->connection) {
    return {StatusCode::kNotReady, "the client is not connected: call hbmesh_client_init first"};
  }
  if (Status lost = client->connection->lost(); !lost.ok()) return lost;
  *connection = client->connection;
  return Status::Ok();
}

Status Send(hbmesh_client* client, const hbmesh_batch* batch, const CallPlan& plan, Sent* sent,
            Client::Reception* reception) {
  hbmesh_batch given{};
  if (client == nullptr) return IsNull("client");
  if (Status status = CopyStruct(batch, "hbmesh_batch", &given); !status.ok()) return status;
  if (Status status = OpenConnection(client, &sent->connection); !status.ok()) return status;
  if (!plan.fault.ok()) return plan.fault;
  FlatCall flat;
  if (Status status = sent->connection->MakeCall(plan.op, given, plan.keys, &flat); !status.ok()) return status;
  std::copy(std::begin(plan.args), std::end(plan.args), std::begin(flat.call.args));
  const uint64_t transferMs = flat.totalBytes / (client->floorBytesPerSecond / 1000 + 1);
  sent->limitMs = static_cast<uint32_t>(
      std::min<uint64_t>(uint64_t{client->requestTimeoutMs} + plan.waitMs + transferMs, UINT32_MAX));
  sent->stopMs = static_cast<uint32_t>(std::min<uint64_t>(kStopGraceMs + transferMs, UINT32_MAX));
  return sent->connection->Submit(flat, &sent->operation, &sent->id, reception);
}

Status Await(const Sent& sent, const std::string& workerAddress) {
  if (sent.operation->WaitEnd(In(sent.limitMs))) return sent.operation->callStatus();
  sent.connection->client().Cancel(sent.id);
  const Status expired = Expired(sent.limitMs, workerAddress, "answer");
  if (Status status = AwaitStop(sent, expired); status.code() != expired.code()) return status;
  // Keys that were done in time are worth telling.
  const Status ended = sent.operation->callStatus();
  if (!ended.ok()) return ended.code() == StatusCode::kRpcCancelled ? expired : ended;
  return sent.operation->NameCancelled(expired) ? expired : Status::Ok();
}

Status Deliver(hbmesh_result&& finished, hbmesh_result** result) {
  if (result != nullptr) {
    *result = new hbmesh_result(std::move(finished));
    return Status::Ok();
  }
  for (size_t i = 0; i < finished.statuses.size(); ++i) {
    if (finished.statuses[i] != HBMESH_OK) {
      return {static_cast<StatusCode>(finished.statuses[i]), finished.messages[i]};
    }
  }
  return Status::Ok();
}

Status CallAndWait(hbmesh_client* client, const hbmesh_batch* batch, const CallPlan& plan, hbmesh_result** result) {
  if (result != nullptr) *result = nullptr;
  Sent sent;
  Client::Reception reception;  // ends before the connection that `sent` has
  if (Status status = Send(client, batch, plan, &sent, &reception); !status.ok()) return status;
  reception.PollUntil([&] { return sent.operation->ended(); });
  if (Status status = Await(sent, client->options.workerAddress); !status.ok()) return status;
  return DeliverEnded(*sent.operation, result);
}

Status DeliverEnded(const Operation& operation, hbmesh_result** result) {
  hbmesh_result finished = operation.result();
  const bool alone = operation.op() == layout::Op::kPushLayer || operation.op() == layout::Op::kExplain;
  if (alone && finished.statuses[0] != HBMESH_OK) return Deliver(std::move(finished), nullptr);
  return Deliver(std::move(finished), result);
}

Status NewFuture(hbmesh_client* client, const hbmesh_batch* batch, const CallPlan& plan, hbmesh_future** future) {
  if (future == nullptr) return IsNull("future");
  *future = nullptr;
  Sent sent;
  if (Status status = Send(client, batch, plan, &sent); !status.ok()) return status;
  *future = new hbmesh_future{sent.operation, sent.connection, sent.id, hbmesh_future::kWholeCall};
  return Status::Ok();
}

Status AwaitAcceptance(const Sent& sent, uint32_t requestTimeoutMs, const std::string& workerAddress) {
  if (!sent.operation->WaitAccepted(In(requestTimeoutMs))) {
    sent.connection->client().Cancel(sent.id);
    return AwaitStop(sent, Expired(requestTimeoutMs, workerAddress, "accept the call"));
  }
  return sent.operation->refused() ? sent.operation->callStatus() : Status::Ok();
}

}  // namespace hbmesh::capi
