// Status: the outcome of an operation that can fail in an expected way.
//
// The numbers are those of proto/hbmesh/v1/status.proto; test/contract compares the two tables. A status other than kOk
// carries a sentence that names the cause and what to do next. Thread rule: a value, like std::string.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace hbmesh {

enum class StatusCode : uint32_t {
  kOk = 0,
  kInvalid = 2,
  kNotFound = 3,
  kRuntimeError = 5,
  kOutOfMemory = 6,
  kNotReady = 8,
  kNotAuthorized = 9,
  kInterrupted = 11,
  kOutOfRange = 12,
  kNoSpace = 13,
  kTryAgain = 19,
  kDataInconsistency = 20,
  kShuttingDown = 21,
  kClientWorkerDisconnect = 23,
  kWorkerTimeout = 24,
  kScaling = 32,
  kNotSupported = 36,
  kNoAvailableWorker = 37,
  kRpcCancelled = 1000,
  kRpcDeadlineExceeded = 1001,
  kRpcUnavailable = 1002,
  kRdmaError = 1005,
  kRpcPeerDead = 1011,
  kKeyAlreadyExists = 2004,
  kAclError = 5000,
  kHcclError = 5001,
  kFutureTimeout = 5002,
};

// The name as in status.proto ("TRY_AGAIN"); "UNKNOWN_CODE" for a number outside of the table.
[[nodiscard]] std::string_view StatusCodeName(StatusCode code);

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  [[nodiscard]] static Status Ok() { return {}; }
  [[nodiscard]] bool ok() const { return code_ == StatusCode::kOk; }
  [[nodiscard]] StatusCode code() const { return code_; }
  [[nodiscard]] const std::string& message() const { return message_; }
  // "TRY_AGAIN: the queue is full; retry after a completion", for logs and test output.
  [[nodiscard]] std::string ToString() const;

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

// The one place where errno becomes a status. `doing` says what failed, with the address or name concerned.
[[nodiscard]] Status StatusFromErrno(int error, std::string_view doing);

}  // namespace hbmesh
