// Opens a session with a worker's sidecar: the abstract socket, the check of who serves it, HELLO and WELCOME, the
// channel.
//
// Clients and control processes begin in the same way (queue/session_protocol.h draws it). The socket is named after
// the worker's address, so a host's name is looked up first, and each address that it leads to is tried.
//
// Thread rule: any thread; OpenSession blocks for at most the connect time limit.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/address.h"
#include "base/fd.h"
#include "base/status.h"
#include "queue/channel.h"
#include "queue/session_protocol.h"

namespace hbmesh {

// An environment variable: ids of users, beside this process's own and root, that may serve it. For a worker that runs
// as another user and lets this one in (--client_uids, --client_gid, a token).
inline constexpr const char* kWorkerUidsVariable = "HBMESH_WORKER_UIDS";

struct SessionOptions {
  std::string workerAddress;  // HOST:PORT
  std::string token;          // at most session::kTextBytes - 1 bytes
  session::Kind kind = session::Kind::kClient;
  uint32_t connectTimeoutMs = 9000;
  int cancelFd = -1;  // readable: give up with kRpcCancelled. Borrowed.
  LookUp lookUp = LookUpName;
};

struct Session {
  Fd socket;
  std::unique_ptr<Channel> channel;
  Fd storeMemory;  // control sessions only
  uint64_t id = 0;
  uint32_t deviceCount = 0;
  std::string workerAddress;  // IP:PORT that serves it
  std::string backend;
  std::string transports;
};

// kInvalid: the worker address is none. kNoAvailableWorker: its name leads nowhere, or nothing listens at the address.
// kNotAuthorized: the listener runs as a user that this process does not trust, or it refused us. kRpcDeadlineExceeded:
// says what it waited for. kDataInconsistency: the listener is no sidecar of this version. On an error *session is
// untouched and nothing stays open.
[[nodiscard]] Status OpenSession(const SessionOptions& options, Session* session);

}  // namespace hbmesh
