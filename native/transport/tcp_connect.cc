#include "transport/tcp_connect.h"

#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>
#include <utility>

#include "base/unix_socket.h"
#include "transport/tcp_handshake.h"
#include "transport/tcp_wire.h"

namespace hbmesh {
namespace {

using Clock = std::chrono::steady_clock;

struct Attempt {
  const SocketAddress& address;
  const TransportOptions& options;
  int cancel;
  Clock::time_point deadline;

  [[nodiscard]] Status Unavailable(const std::string& why) const {
    return {StatusCode::kRpcUnavailable, "no tcp transport of hbmesh could be reached at " +
                                             SocketAddressName(address) + ": " + why +
                                             "; check that the worker there is running and the address is right"};
  }

  // Waits until the socket is ready for `events`.
  [[nodiscard]] Status Wait(int socket, short events) const { return WaitUntil(socket, events, deadline); }

  [[nodiscard]] Status WaitUntil(int socket, short events, Clock::time_point until) const {
    for (;;) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now()).count();
      pollfd polled[] = {{socket, events, 0}, {cancel, POLLIN, 0}};
      const int ready = left <= 0 ? 0 : ::poll(polled, 2, static_cast<int>(left));
      if (ready < 0 && errno == EINTR) continue;
      if (ready < 0) return StatusFromErrno(errno, "waiting for a connection");
      if (ready == 0) return Unavailable("no answer within " + std::to_string(options.connectTimeoutMs) + " ms");
      if (polled[1].revents != 0) return {StatusCode::kRpcCancelled, "the endpoint was closed while it connected"};
      return Status::Ok();
    }
  }
};

// A host answers at once, whatever its processes do. One that doesn't is asked again over a new socket: the kernel
// waits a second before it repeats, and longer each time.
constexpr auto kAnswerTime = std::chrono::milliseconds(350);
constexpr int kAttempts = 2;

// Until the host has answered. *answered false: it hasn't.
Status ConnectSocket(const Attempt& attempt, Fd* socket, bool* answered) {
  Fd made(::socket(attempt.address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!made.valid()) return StatusFromErrno(errno, "making a tcp socket");
  if (Status status = PrepareTcpSocket(made.get(), attempt.options.stallTimeoutMs); !status.ok()) return status;
  if (::connect(made.get(), attempt.address.get(), attempt.address.bytes) != 0) {
    if (errno != EINPROGRESS) return attempt.Unavailable(std::strerror(errno));
    const auto until = std::min(attempt.deadline, Clock::now() + kAnswerTime);
    if (Status status = attempt.WaitUntil(made.get(), POLLOUT, until); !status.ok()) {
      *answered = status.code() != StatusCode::kRpcUnavailable;
      return status;
    }
    int error = 0;
    socklen_t bytes = sizeof error;
    if (::getsockopt(made.get(), SOL_SOCKET, SO_ERROR, &error, &bytes) != 0) error = errno;
    if (error != 0) return attempt.Unavailable(std::strerror(error));
  }
  *socket = std::move(made);
  return Status::Ok();
}

Status ConnectOne(const Attempt& attempt, const tcp::Hello& hello, Fd* connected) {
  Fd made;
  bool answered = false;
  Status status;
  for (int tried = 0; tried < kAttempts && !answered && Clock::now() < attempt.deadline; ++tried) {
    answered = true;
    status = ConnectSocket(attempt, &made, &answered);
  }
  if (!answered) return attempt.Unavailable("its host does not answer");
  if (!status.ok()) return status;
  // The first bytes of a new connection always fit into its buffer.
  if (::send(made.get(), &hello, sizeof hello, MSG_NOSIGNAL) != static_cast<ssize_t>(sizeof hello)) {
    return attempt.Unavailable("the connection was closed at once");
  }
  *connected = std::move(made);
  return Status::Ok();
}

// What the peer says next. An error for one that refuses, or that is none of us.
Status AwaitReply(const Attempt& attempt, int socket, tcp::Step step, tcp::HelloReply* reply) {
  size_t have = 0;
  while (have < sizeof *reply) {
    if (Status status = attempt.Wait(socket, POLLIN); !status.ok()) return status;
    const ssize_t got = ::recv(socket, reinterpret_cast<std::byte*>(reply) + have, sizeof *reply - have, 0);
    if (got == 0) return attempt.Unavailable("the connection was closed during the handshake");
    if (got < 0 && errno != EINTR && errno != EAGAIN) return attempt.Unavailable(std::strerror(errno));
    if (got > 0) have += static_cast<size_t>(got);
  }
  if (reply->magic != tcp::kMagic) return attempt.Unavailable("something else than hbmesh answered");
  const std::string name = SocketAddressName(attempt.address);
  if (reply->code != 0) {
    reply->text[sizeof reply->text - 1] = '\0';
    return {static_cast<StatusCode>(reply->code), name + ": " + reply->text};
  }
  if (reply->version != tcp::kVersion) {
    return {StatusCode::kNotSupported, name + " speaks version " + std::to_string(reply->version) +
                                           " of the tcp transport, this side " + std::to_string(tcp::kVersion)};
  }
  if (reply->step != static_cast<uint32_t>(step)) return attempt.Unavailable("it broke the rules of the handshake");
  return Status::Ok();
}

// Checks that the listener belongs to this cluster, then proves that this side does.
Status AnswerChallenge(const Attempt& attempt, const tcp::Hello& hello, int socket) {
  tcp::HelloReply reply{};
  if (Status status = AwaitReply(attempt, socket, tcp::Step::kChallenge, &reply); !status.ok()) return status;
  tcp::Proof proof{};
  Status status = tcp::CheckListener(attempt.options.token.get(), hello, reply.challenge, &proof);
  if (!status.ok()) return {status.code(), SocketAddressName(attempt.address) + " " + status.message()};
  if (::send(socket, &proof, sizeof proof, MSG_NOSIGNAL) != static_cast<ssize_t>(sizeof proof)) {
    return attempt.Unavailable("the connection was closed during the handshake");
  }
  return Status::Ok();
}

}  // namespace

Status ConnectLanes(const SocketAddress& address, uint32_t lanes, const TransportOptions& options, int cancel,
                    std::vector<Fd>* sockets) {
  const Attempt attempt{address, options, cancel, Clock::now() + std::chrono::milliseconds(options.connectTimeoutMs)};
  tcp::Hello hello{};
  hello.magic = tcp::kMagic;
  hello.version = tcp::kVersion;
  hello.lanes = lanes;
  hello.flags = options.token ? tcp::kHasToken : 0;
  if (::getrandom(hello.endpoint, sizeof hello.endpoint, 0) != static_cast<ssize_t>(sizeof hello.endpoint) ||
      ::getrandom(hello.nonce, sizeof hello.nonce, 0) != static_cast<ssize_t>(sizeof hello.nonce)) {
    return StatusFromErrno(errno, "drawing a random endpoint number");
  }
  std::vector<Fd> made(tcp::ConnectionsOf(lanes));
  for (uint32_t lane = 0; lane < made.size(); ++lane) {
    hello.lane = lane;
    if (Status status = ConnectOne(attempt, hello, &made[lane]); !status.ok()) return status;
  }
  for (uint32_t lane = 0; lane < made.size(); ++lane) {
    hello.lane = lane;
    if (Status status = AnswerChallenge(attempt, hello, made[lane].get()); !status.ok()) return status;
  }
  for (const Fd& socket : made) {
    tcp::HelloReply reply{};
    Status status = AwaitReply(attempt, socket.get(), tcp::Step::kAccepted, &reply);
    if (status.ok()) status = SetNonBlocking(socket.get(), false);
    if (!status.ok()) return status;
  }
  *sockets = std::move(made);
  return Status::Ok();
}

}  // namespace hbmesh
