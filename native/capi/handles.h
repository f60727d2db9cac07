// What the handles of hbmesh.h are, and how calls end at the language border: no exception crosses it, and the thread's
// last message tells why a call failed.
#pragma once

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <string>

#include "base/status.h"
#include "capi/connection.h"
#include "capi/hbmesh.h"
#include "capi/operation.h"

struct hbmesh_client {
  hbmesh::ClientOptions options;
  uint32_t requestTimeoutMs = 0;
  uint32_t subscribeTimeoutMs = 0;
  uint32_t subscribeManyMs = 0;
  uint64_t floorBytesPerSecond = 0;

  std::mutex connecting;  // one init at a time; taken before `mutex`
  std::mutex mutex;       // guards what follows
  std::shared_ptr<hbmesh::capi::Connection> connection;
  bool closed = false;
};

struct hbmesh_future {
  static constexpr uint32_t kWholeCall = hbmesh::capi::Operation::kWholeCall;

  std::shared_ptr<hbmesh::capi::Operation> operation;
  std::weak_ptr<hbmesh::capi::Connection> connection;
  uint64_t id = 0;
  uint32_t keyIndex = kWholeCall;
};

struct hbmesh_ticket {
  std::shared_ptr<hbmesh::capi::Operation> operation;
  std::weak_ptr<hbmesh::capi::Connection> connection;
  uint64_t id = 0;
  std::string text;
};

namespace hbmesh::capi {

constexpr uint32_t kFutureTimeoutMaxMs = 1'800'000;

// The calling thread's last message.
[[nodiscard]] std::string& LastMessage();
hbmesh_status Report(const Status& status);

// Runs the body of one call of the API.
template <typename Body>
hbmesh_status Guard(Body body) {
  try {
    return Report(body());
  } catch (const std::bad_alloc&) {
    return HBMESH_OUT_OF_MEMORY;
  } catch (const std::exception& error) {
    try {
      return Report({StatusCode::kRuntimeError, error.what()});
    } catch (...) {
      return HBMESH_RUNTIME_ERROR;
    }
  } catch (...) {
    return HBMESH_RUNTIME_ERROR;
  }
}

[[nodiscard]] Status IsNull(const char* what);
// kInvalid above kFutureTimeoutMaxMs.
[[nodiscard]] Status CheckTimeout(uint64_t ms, const char* name = "timeout_ms");
// Of a wait that ended before what it waited for.
[[nodiscard]] Status StillOpen(uint32_t timeoutMs);
[[nodiscard]] inline Clock::time_point In(uint64_t ms) { return Clock::now() + std::chrono::milliseconds(ms); }
// kInvalid for what can be no eventfd.
[[nodiscard]] Status CheckDescriptor(int eventFd);
// The number, counted from 1, of the key that a message about a call names; 0: none.
[[nodiscard]] uint32_t KeyNamedIn(const std::string& message);

// A caller's struct as this library knows it; fields that the caller's release didn't have are 0.
template <typename Struct>
[[nodiscard]] Status CopyStruct(const Struct* given, const char* what, Struct* copy) {
  if (given == nullptr) return IsNull(what);
  if (given->size < 2 * sizeof(uint32_t) || given->size > sizeof(Struct)) {
    return {StatusCode::kInvalid, std::string(what) + " has size " + std::to_string(given->size) +
                                      ", which this library does not know: set it to sizeof(" + what +
                                      "), and use the header of this release"};
  }
  *copy = Struct{};
  std::memcpy(copy, given, given->size);
  return Status::Ok();
}
// The other way: fills in what the caller's release has.
template <typename Struct>
[[nodiscard]] Status FillStruct(Struct filled, const char* what, Struct* target) {
  Struct known{};
  if (Status status = CopyStruct(target, what, &known); !status.ok()) return status;
  filled.size = known.size;
  std::memcpy(target, &filled, known.size);
  return Status::Ok();
}

[[nodiscard]] Status OpenConnection(hbmesh_client* client, std::shared_ptr<Connection>* connection);

// A request that was sent, and by when it must have been answered.
struct Sent {
  std::shared_ptr<Connection> connection;
  std::shared_ptr<Operation> operation;
  uint64_t id = 0;
  uint32_t limitMs = 0;
  uint32_t stopMs = 0;  // how long the sidecar may take to confirm that the request was stopped
};

struct CallPlan {
  layout::Op op = layout::Op::kExist;
  uint64_t args[3] = {0, 0, 0};
  uint32_t waitMs = 0;                             // what the caller waits, on top of the request timeout
  const std::vector<std::string>* keys = nullptr;  // in place of the batch's
  Status fault = Status::Ok();                     // what is wrong with the call's numbers; told once there is a worker
};

// `reception`: see Client::Submit.
[[nodiscard]] Status Send(hbmesh_client* client, const hbmesh_batch* batch, const CallPlan& plan, Sent* sent,
                          Client::Reception* reception = nullptr);
// Waits for the end, and asks for it when the time is over. kOk: there is a status a key.
[[nodiscard]] Status Await(const Sent& sent, const std::string& workerAddress);
// Hands the result over. Without `result`: the first failing key's status.
[[nodiscard]] Status Deliver(hbmesh_result&& finished, hbmesh_result** result);
// The same of an operation that has ended. A call about one key alone (a push, an explanation) fails as that key did.
[[nodiscard]] Status DeliverEnded(const Operation& operation, hbmesh_result** result);
// All of it.
[[nodiscard]] Status CallAndWait(hbmesh_client* client, const hbmesh_batch* batch, const CallPlan& plan,
                                 hbmesh_result** result);
// Sends, with a future for the whole call.
[[nodiscard]] Status NewFuture(hbmesh_client* client, const hbmesh_batch* batch, const CallPlan& plan,
                               hbmesh_future** future);
// Waits until every key was accepted; ends the request where that takes too long or where it was refused.
[[nodiscard]] Status AwaitAcceptance(const Sent& sent, uint32_t requestTimeoutMs, const std::string& workerAddress);

}  // namespace hbmesh::capi
