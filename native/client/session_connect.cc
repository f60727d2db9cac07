#include "client/session_connect.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "base/event_fd.h"
#include "base/unix_socket.h"

namespace hbmesh {

namespace {

using Clock = std::chrono::steady_clock;

constexpr uint32_t kClientDescriptors = 3;   // channel, sidecar wake, peer wake
constexpr uint32_t kControlDescriptors = 4;  // and the store

// What every step of the handshake needs, and how long is left.
struct Attempt {
  const SessionOptions& options;
  Clock::time_point deadline;

  [[nodiscard]] int RemainingMs() const {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    return static_cast<int>(std::max<int64_t>(left, 0));
  }
  [[nodiscard]] Status Expired(std::string_view waitedFor) const {
    return {StatusCode::kRpcDeadlineExceeded, "waited " + std::to_string(options.connectTimeoutMs) +
                                                  " ms for the sidecar of worker " + options.workerAddress + " to " +
                                                  std::string(waitedFor) +
                                                  "; look at the worker's log, or give a longer connect timeout"};
  }
};

std::string FieldText(const char* field, size_t capacity) { return {field, ::strnlen(field, capacity)}; }

// Waits until the socket can do `events`, the time is over, or the caller cancels.
Status WaitFor(const Attempt& attempt, int socket, short events, std::string_view waitedFor) {
  for (;;) {
    std::array<pollfd, 2> entries = {pollfd{socket, events, 0}, pollfd{attempt.options.cancelFd, POLLIN, 0}};
    const int ready = ::poll(entries.data(), entries.size(), attempt.RemainingMs());
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0) return StatusFromErrno(errno, "poll of the session socket of " + attempt.options.workerAddress);
    if (entries[1].revents != 0) {
      return {StatusCode::kRpcCancelled, "connecting to worker " + attempt.options.workerAddress + " was cancelled"};
    }
    if (entries[0].revents != 0) return Status::Ok();
    if (ready == 0) return attempt.Expired(waitedFor);
  }
}

Status NobodyListens(const std::string& workerAddress) {
  return {StatusCode::kNoAvailableWorker, "no worker serves " + workerAddress +
                                              " on this machine: start one (hbmesh worker --worker_address " +
                                              workerAddress + "), or check host and port"};
}

// As ConnectUnix, but of a socket that doesn't block, so that a full backlog can be waited for and cancelled.
Status ConnectSocket(const Attempt& attempt, Fd* result) {
  const std::string& workerAddress = attempt.options.workerAddress;
  const std::string name = session::SocketName(workerAddress);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + 1, name.data(), name.size());
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return StatusFromErrno(errno, "making a session socket");
  while (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0) {
    if (errno == EINTR) continue;
    if (errno == ECONNREFUSED || errno == ENOENT) return NobodyListens(workerAddress);
    if (errno != EAGAIN) return StatusFromErrno(errno, "connecting to worker " + workerAddress);
    // The listener's backlog is full. There is no event to wait for: look again soon.
    if (attempt.RemainingMs() == 0) return attempt.Expired("accept the session");
    pollfd cancel{attempt.options.cancelFd, POLLIN, 0};
    if (::poll(&cancel, 1, 1) > 0) {
      return {StatusCode::kRpcCancelled, "connecting to worker " + workerAddress + " was cancelled"};
    }
  }
  *result = std::move(socket);
  return Status::Ok();
}

// Is the user among those of HBMESH_WORKER_UIDS, ids with commas between them?
Status IsTrusted(uid_t user, bool* trusted) {
  *trusted = false;
  const char* given = ::secure_getenv(kWorkerUidsVariable);
  if (given == nullptr) return Status::Ok();
  const std::string_view text = given;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    uid_t each = 0;
    const auto [rest, error] = std::from_chars(text.data() + at, text.data() + end, each);
    if (error != std::errc() || rest != text.data() + end) {
      return {StatusCode::kInvalid, std::string(kWorkerUidsVariable) + " is \"" + given +
                                        "\": give user ids with commas between them, as in 1000,1001"};
    }
    *trusted = *trusted || each == user;
    at = end + 1;
  }
  return Status::Ok();
}

// An abstract name can be taken by any user of the machine: only our own user, root, and whom this process was told to
// trust may be given our memory and our token.
Status CheckServer(const Attempt& attempt, int socket) {
  PeerCredentials credentials;
  if (Status status = GetPeerCredentials(socket, &credentials); !status.ok()) return status;
  if (credentials.uid == ::geteuid() || credentials.uid == 0) return Status::Ok();
  bool trusted = false;
  if (attempt.options.kind == session::Kind::kClient) {
    if (Status status = IsTrusted(credentials.uid, &trusted); !status.ok()) return status;
  }
  if (trusted) return Status::Ok();
  const std::string uid = std::to_string(credentials.uid);
  return {StatusCode::kNotAuthorized, "worker " + attempt.options.workerAddress + " is served by user id " + uid +
                                          ", this process runs as " + std::to_string(::geteuid()) +
                                          ": run both as the same user or the worker as root, or, if you trust that "
                                          "user with this process's memory, set " +
                                          kWorkerUidsVariable + "=" + uid + " here"};
}

Status SendHello(const Attempt& attempt, int socket) {
  session::Hello hello{};
  hello.type = static_cast<uint32_t>(session::Type::kHello);
  hello.magic = session::kMagic;
  hello.version = session::kVersion;
  hello.kind = static_cast<uint32_t>(attempt.options.kind);
  hello.pid = static_cast<uint32_t>(::getpid());
  if (attempt.options.token.size() >= sizeof(hello.token)) {
    return {StatusCode::kInvalid, "the token has " + std::to_string(attempt.options.token.size()) + " bytes, at most " +
                                      std::to_string(sizeof(hello.token) - 1) + " are allowed"};
  }
  std::memcpy(hello.token, attempt.options.token.data(), attempt.options.token.size());
  for (;;) {
    Status status = SendPacket(socket, std::as_bytes(std::span(&hello, 1)));
    if (status.code() != StatusCode::kTryAgain) return status;
    if (Status wait = WaitFor(attempt, socket, POLLOUT, "take the greeting"); !wait.ok()) return wait;
  }
}

Status ReceiveWelcome(const Attempt& attempt, int socket, session::Welcome* welcome, std::vector<Fd>* descriptors) {
  const std::string& workerAddress = attempt.options.workerAddress;
  if (Status wait = WaitFor(attempt, socket, POLLIN, "answer the greeting"); !wait.ok()) return wait;
  Packet packet;
  const Status received = ReceivePacket(socket, std::as_writable_bytes(std::span(welcome, 1)), &packet);
  if (received.code() == StatusCode::kRpcPeerDead) {
    return {StatusCode::kClientWorkerDisconnect,
            "worker " + workerAddress + " closed the session during the greeting; look at its log"};
  }
  if (!received.ok() && received.code() != StatusCode::kDataInconsistency) return received;
  *descriptors = std::move(packet.descriptors);
  const bool whole = received.ok() && packet.bytes == sizeof(*welcome);
  if (!whole || welcome->type != static_cast<uint32_t>(session::Type::kWelcome) || welcome->magic != session::kMagic ||
      welcome->version != session::kVersion) {
    return {StatusCode::kDataInconsistency,
            "what serves " + workerAddress + " does not speak session protocol version " +
                std::to_string(session::kVersion) + ": worker and client must be of the same release"};
  }
  return Status::Ok();
}

// At one IP address.
Status OpenAt(const Attempt& attempt, Session* result) {
  const SessionOptions& options = attempt.options;
  Session session;
  if (Status status = ConnectSocket(attempt, &session.socket); !status.ok()) return status;
  const int socket = session.socket.get();
  if (Status status = CheckServer(attempt, socket); !status.ok()) return status;
  // A sidecar that has closed already has said why.
  const Status sent = SendHello(attempt, socket);
  if (!sent.ok() && sent.code() != StatusCode::kRpcPeerDead) return sent;
  session::Welcome welcome{};
  std::vector<Fd> descriptors;
  if (Status status = ReceiveWelcome(attempt, socket, &welcome, &descriptors); !status.ok()) return status;
  if (welcome.code != 0) {
    return {static_cast<StatusCode>(welcome.code), FieldText(welcome.text, sizeof(welcome.text))};
  }
  const uint32_t expected = options.kind == session::Kind::kControl ? kControlDescriptors : kClientDescriptors;
  if (descriptors.size() != expected || welcome.descriptors != expected) {
    return {StatusCode::kDataInconsistency, "worker " + options.workerAddress + " sent " +
                                                std::to_string(descriptors.size()) + " descriptors instead of " +
                                                std::to_string(expected) + "; restart it"};
  }
  Status attached = Channel::Attach(std::move(descriptors[0]), std::move(descriptors[1]), std::move(descriptors[2]),
                                    &session.channel);
  if (!attached.ok()) return attached;
  if (expected == kControlDescriptors) session.storeMemory = std::move(descriptors[3]);
  session.workerAddress = options.workerAddress;
  session.id = welcome.session;
  session.deviceCount = welcome.deviceCount;
  session.backend = FieldText(welcome.backend, sizeof(welcome.backend));
  session.transports = FieldText(welcome.transports, sizeof(welcome.transports));
  *result = std::move(session);
  return Status::Ok();
}

// What a resolver has found, for whoever still waits for it.
struct Finding {
  Fd done;  // signalled when `status` and `hosts` are there
  Status status;
  std::vector<std::string> hosts;
};

// The system's resolver takes no time limit and can't be stopped. So it runs in a thread of its own, which outlives
// this call if that gives up first.
Status FindHosts(const Attempt& attempt, const std::string& name, std::vector<std::string>* hosts) {
  const auto finding = std::make_shared<Finding>();
  if (Status status = CreateEventFd(&finding->done); !status.ok()) return status;
  std::thread([finding, name, lookUp = attempt.options.lookUp] {
    finding->status = lookUp(name, &finding->hosts);
    SignalEvent(finding->done.get());
  }).detach();
  const Status waited = WaitFor(attempt, finding->done.get(), POLLIN, "be found: looking up the name " + name);
  if (!waited.ok()) return waited;
  DrainEvent(finding->done.get());  // what the thread wrote before it is seen
  if (finding->status.ok()) *hosts = finding->hosts;
  return finding->status;
}

}  // namespace

Status OpenSession(const SessionOptions& given, Session* result) {
  const auto deadline = Clock::now() + std::chrono::milliseconds(given.connectTimeoutMs);
  SessionOptions options = given;
  Address address;
  if (Status status = ParseAddress(given.workerAddress, "worker address", &address); !status.ok()) return status;
  options.workerAddress = FormatAddress(address.host, address.port);
  if (!address.isName()) return OpenAt({options, deadline}, result);
  std::vector<std::string> hosts;
  if (Status status = FindHosts({options, deadline}, address.host, &hosts); !status.ok()) return status;
  std::string tried;
  for (const std::string& host : hosts) {
    options.workerAddress = FormatAddress(host, address.port);
    const Status status = OpenAt({options, deadline}, result);
    if (status.code() != StatusCode::kNoAvailableWorker) return status;
    tried += (tried.empty() ? "" : ", ") + options.workerAddress;
  }
  return {StatusCode::kNoAvailableWorker, "no worker serves " + given.workerAddress + " (" + tried +
                                              ") on this machine: start one (hbmesh worker --worker_address " +
                                              options.workerAddress + "), or check host and port"};
}

}  // namespace hbmesh
