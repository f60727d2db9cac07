#include "base/status.h"

#include <cerrno>
#include <system_error>

namespace hbmesh {

std::string_view StatusCodeName(StatusCode code) {
  switch (code) {
    case StatusCode::kOk:
      return "OK";
    case StatusCode::kInvalid:
      return "INVALID";
    case StatusCode::kNotFound:
      return "NOT_FOUND";
    case StatusCode::kRuntimeError:
      return "RUNTIME_ERROR";
    case StatusCode::kOutOfMemory:
      return "OUT_OF_MEMORY";
    case StatusCode::kNotReady:
      return "NOT_READY";
    case StatusCode::kNotAuthorized:
      return "NOT_AUTHORIZED";
    case StatusCode::kInterrupted:
      return "INTERRUPTED";
    case StatusCode::kOutOfRange:
      return "OUT_OF_RANGE";
    case StatusCode::kNoSpace:
      return "NO_SPACE";
    case StatusCode::kTryAgain:
      return "TRY_AGAIN";
    case StatusCode::kDataInconsistency:
      return "DATA_INCONSISTENCY";
    case StatusCode::kShuttingDown:
      return "SHUTTING_DOWN";
    case StatusCode::kClientWorkerDisconnect:
      return "CLIENT_WORKER_DISCONNECT";
    case StatusCode::kWorkerTimeout:
      return "WORKER_TIMEOUT";
    case StatusCode::kScaling:
      return "SCALING";
    case StatusCode::kNotSupported:
      return "NOT_SUPPORTED";
    case StatusCode::kNoAvailableWorker:
      return "NO_AVAILABLE_WORKER";
    case StatusCode::kRpcCancelled:
      return "RPC_CANCELLED";
    case StatusCode::kRpcDeadlineExceeded:
      return "RPC_DEADLINE_EXCEEDED";
    case StatusCode::kRpcUnavailable:
      return "RPC_UNAVAILABLE";
    case StatusCode::kRdmaError:
      return "RDMA_ERROR";
    case StatusCode::kRpcPeerDead:
      return "RPC_PEER_DEAD";
    case StatusCode::kKeyAlreadyExists:
      return "KEY_ALREADY_EXISTS";
    case StatusCode::kAclError:
      return "ACL_ERROR";
    case StatusCode::kHcclError:
      return "HCCL_ERROR";
    case StatusCode::kFutureTimeout:
      return "FUTURE_TIMEOUT";
  }
  return "UNKNOWN_CODE";
}

std::string Status::ToString() const {
  std::string text(StatusCodeName(code_));
  if (!message_.empty()) {
    text += ": ";
    text += message_;
  }
  return text;
}

namespace {

StatusCode CodeFromErrno(int error) {
  switch (error) {
    case 0:
      return StatusCode::kOk;
    case EAGAIN:
    case EBUSY:
      return StatusCode::kTryAgain;
    case EINTR:
      return StatusCode::kInterrupted;
    case EINVAL:
    case ENAMETOOLONG:
      return StatusCode::kInvalid;
    case ENOENT:
      return StatusCode::kNotFound;
    case ENOMEM:
    case ENOBUFS:
      return StatusCode::kOutOfMemory;
    case ENOSPC:
    case EMFILE:
    case ENFILE:
      return StatusCode::kNoSpace;
    case EACCES:
    case EPERM:
      return StatusCode::kNotAuthorized;
    case EOPNOTSUPP:
    case ENOSYS:
      return StatusCode::kNotSupported;
    case ECONNREFUSED:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case EADDRNOTAVAIL:
      return StatusCode::kRpcUnavailable;
    case ECONNRESET:
    case EPIPE:
    case ENOTCONN:
      return StatusCode::kRpcPeerDead;
    case ETIMEDOUT:
      return StatusCode::kRpcDeadlineExceeded;
    case ECANCELED:
      return StatusCode::kRpcCancelled;
    default:
      return StatusCode::kRuntimeError;
  }
}

// The check to run, where the cause is nearly always the same; empty else.
std::string_view Remedy(int error) {
  switch (error) {
    case EMFILE:
      return "; raise the limit of open files (ulimit -n)";
    case ENFILE:
      return "; raise the system's limit of open files (sysctl fs.file-max)";
    case ENOMEM:
      return "; check free memory and the limits of the container and of ulimit -v and -l";
    case ECONNREFUSED:
      return "; check that the worker runs and that the address is right";
    case EADDRINUSE:
      return "; another process uses this address: stop it or choose another one";
    case EACCES:
    case EPERM:
      return "; check the user that this process runs as";
    default:
      return "";
  }
}

}  // namespace

Status StatusFromErrno(int error, std::string_view doing) {
  if (error == 0) {
    return Status::Ok();
  }
  std::string message(doing);
  message += ": ";
  message += std::generic_category().message(error);
  message += " (errno ";
  message += std::to_string(error);
  message += ")";
  message += Remedy(error);
  return {CodeFromErrno(error), std::move(message)};
}

}  // namespace hbmesh
