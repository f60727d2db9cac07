#include "transport/tcp_listener.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <utility>

#include "base/clock.h"
#include "base/event_fd.h"
#include "base/log.h"
#include "base/unix_socket.h"
#include "transport/tcp_endpoint.h"
#include "transport/tcp_handshake.h"

namespace hbmesh {
namespace {

constexpr size_t kPendingMax = 256;  // connections in handshake; a new one pushes out the oldest
constexpr int kBacklog = 128;
constexpr int kFullPauseMs = 100;  // when descriptors are used up; the backlog keeps callers waiting

bool SameEndpoint(const tcp::Hello& first, const tcp::Hello& second) {
  return first.endpoint[0] == second.endpoint[0] && first.endpoint[1] == second.endpoint[1];
}

Status CheckHello(const tcp::Hello& hello) {
  if (hello.version != tcp::kVersion) {
    return {StatusCode::kNotSupported, "this side speaks version " + std::to_string(tcp::kVersion) +
                                           " of the tcp transport, the caller version " +
                                           std::to_string(hello.version) + "; run the same release on both"};
  }
  if (hello.lanes == 0 || hello.lanes > tcp::kLanesMax || hello.lane > hello.lanes) {
    return {StatusCode::kInvalid, "lane " + std::to_string(hello.lane) + " of " + std::to_string(hello.lanes) +
                                      "; an endpoint has 1 to " + std::to_string(tcp::kLanesMax) + " lanes"};
  }
  return Status::Ok();
}

tcp::HelloReply NewReply(tcp::Step step) {
  tcp::HelloReply reply{};
  reply.magic = tcp::kMagic;
  reply.version = tcp::kVersion;
  reply.step = static_cast<uint32_t>(step);
  return reply;
}

// A new connection's buffer takes the replies at once; a peer whose doesn't is not worth waiting for.
bool SendReply(int socket, const tcp::HelloReply& reply) {
  return ::send(socket, &reply, sizeof reply, MSG_NOSIGNAL | MSG_DONTWAIT) == static_cast<ssize_t>(sizeof reply);
}

}  // namespace

TcpListener::TcpListener(const TransportOptions& options, std::shared_ptr<MemoryTable> memory,
                         std::shared_ptr<TcpLinks> links, TransportSink* sink)
    : options_(options), memory_(std::move(memory)), links_(std::move(links)), sink_(sink) {}

TcpListener::~TcpListener() {
  if (!thread_.joinable()) return;
  SignalEvent(stop_.get());
  thread_.join();
}

Status TcpListener::Start(const SocketAddress& address, std::string* bound) {
  const std::string name = SocketAddressName(address);
  Fd made(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!made.valid()) return StatusFromErrno(errno, "making a tcp socket");
  const int yes = 1;
  (void)::setsockopt(made.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);  // only eases a restart
  if (::bind(made.get(), address.get(), address.bytes) != 0 || ::listen(made.get(), kBacklog) != 0) {
    return StatusFromErrno(errno, "listening on tcp " + name);
  }
  SocketAddress real;
  real.bytes = sizeof real.storage;
  if (::getsockname(made.get(), real.get(), &real.bytes) != 0)
    return StatusFromErrno(errno, "reading the address of " + name);
  if (Status status = CreateEventFd(&stop_); !status.ok()) return status;
  listener_ = std::move(made);
  *bound = SocketAddressName(real);
  thread_ = std::thread([this] { Run(); });
  return Status::Ok();
}

void TcpListener::Run() {
  std::vector<pollfd> polled;
  std::vector<PendingList::iterator> silent;  // polled[index + 2] is its socket
  bool full = false;                          // descriptors are used up: nobody is accepted for a while
  for (;;) {
    const Clock::time_point now = Clock::now();
    polled.assign({{stop_.get(), POLLIN, 0}, {listener_.get(), static_cast<short>(full ? 0 : POLLIN), 0}});
    silent.clear();
    int timeoutMs = full ? kFullPauseMs : -1;
    for (auto pending = pending_.begin(); pending != pending_.end();) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(pending->deadline - now).count();
      if (left <= 0) {
        pending = pending_.erase(pending);
        continue;
      }
      timeoutMs = timeoutMs < 0 ? static_cast<int>(left) + 1 : std::min(timeoutMs, static_cast<int>(left) + 1);
      if (!pending->proved || pending->refused) {
        polled.push_back({pending->socket.get(), POLLIN, 0});
        silent.push_back(pending);
      }
      ++pending;
    }
    if (::poll(polled.data(), polled.size(), timeoutMs) < 0 && errno != EINTR) return;
    if (polled[0].revents != 0) return;
    for (size_t index = 0; index < silent.size(); ++index) {
      if (polled[index + 2].revents == 0) continue;
      if (!Receive(*silent[index])) {
        pending_.erase(silent[index]);
      } else if (silent[index]->proved && !silent[index]->refused) {
        TryAssemble(tcp::Hello(silent[index]->hello));
      }
    }
    full = !full && polled[1].revents != 0 && !AcceptAll();
  }
}

bool TcpListener::AcceptAll() {
  for (;;) {
    Pending pending;
    pending.peer.bytes = sizeof pending.peer.storage;
    pending.socket =
        Fd(::accept4(listener_.get(), pending.peer.get(), &pending.peer.bytes, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!pending.socket.valid()) return !OutOfDescriptors(errno);
    if (!PrepareTcpSocket(pending.socket.get(), options_.stallTimeoutMs).ok()) continue;
    pending.deadline = Clock::now() + std::chrono::milliseconds(options_.handshakeTimeoutMs);
    if (pending_.size() >= kPendingMax) pending_.pop_front();
    pending_.push_back(std::move(pending));
  }
}

bool TcpListener::Receive(Pending& pending) {
  if (pending.refused) {
    std::array<std::byte, 4096> ignored;
    const ssize_t got = ::recv(pending.socket.get(), ignored.data(), ignored.size(), 0);
    return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
  }
  auto* bytes =
      pending.challenged ? reinterpret_cast<std::byte*>(&pending.proof) : reinterpret_cast<std::byte*>(&pending.hello);
  const size_t wanted = pending.challenged ? sizeof pending.proof : sizeof pending.hello;
  const ssize_t got = ::recv(pending.socket.get(), bytes + pending.have, wanted - pending.have, 0);
  if (got < 0) return errno == EAGAIN || errno == EINTR;
  if (got == 0) return false;
  pending.have += static_cast<size_t>(got);
  return pending.challenged ? TakeProof(pending) : TakeHello(pending);
}

bool TcpListener::TakeHello(Pending& pending) {
  // The first bytes already tell whether this is one of us; nothing is answered to a stranger.
  if (pending.have >= sizeof pending.hello.magic && pending.hello.magic != tcp::kMagic) return false;
  // So does the version, whose Hello may be shorter than ours.
  const bool whole = pending.have == sizeof pending.hello;
  const bool versioned = pending.have >= offsetof(tcp::Hello, version) + sizeof pending.hello.version;
  if (!whole && (!versioned || pending.hello.version == tcp::kVersion)) return true;
  Status status = CheckHello(pending.hello);
  if (status.ok()) status = tcp::CheckCaller(options_.token.get(), pending.hello);
  if (!status.ok()) {
    Refuse(pending, status);
    return true;
  }
  if (!tcp::MakeChallenge(options_.token.get(), pending.hello, &pending.challenge)) return false;
  tcp::HelloReply reply = NewReply(tcp::Step::kChallenge);
  reply.challenge = pending.challenge;
  pending.challenged = true;
  pending.have = 0;
  return SendReply(pending.socket.get(), reply);
}

bool TcpListener::TakeProof(Pending& pending) {
  if (pending.have < sizeof pending.proof) return true;
  const Status status = tcp::CheckProof(options_.token.get(), pending.hello, pending.challenge, pending.proof);
  if (!status.ok()) Refuse(pending, status);
  pending.proved = status.ok();
  return true;
}

void TcpListener::Refuse(Pending& pending, const Status& status) {
  tcp::HelloReply reply = NewReply(tcp::Step::kRefused);
  reply.code = static_cast<uint32_t>(status.code());
  std::strncpy(reply.text, status.message().c_str(), sizeof reply.text - 1);
  (void)SendReply(pending.socket.get(), reply);
  EndSending(pending.socket.get());
  pending.refused = true;
  std::string leftOut;
  if (!refusals_.Allow(SteadyClock().NowNs(), &leftOut)) return;
  Log().warn("refused {} over tcp: {}{}", SocketAddressName(pending.peer), status.ToString(), leftOut);
}

// Makes the endpoint once all of its connections are there.
void TcpListener::TryAssemble(const tcp::Hello& hello) {
  std::vector<PendingList::iterator> lanes(tcp::ConnectionsOf(hello.lanes), pending_.end());
  uint32_t found = 0;
  for (auto pending = pending_.begin(); pending != pending_.end(); ++pending) {
    if (!pending->proved || pending->refused || !SameEndpoint(pending->hello, hello) ||
        pending->hello.lanes != hello.lanes)
      continue;
    auto& place = lanes[pending->hello.lane];
    if (place != pending_.end()) continue;  // a lane that is named twice is left to its deadline
    place = pending;
    ++found;
  }
  if (found < lanes.size()) return;
  Announce(hello, lanes);
  for (const auto& lane : lanes) {
    if (!lane->refused) pending_.erase(lane);
  }
}

void TcpListener::Announce(const tcp::Hello& hello, std::vector<PendingList::iterator>& lanes) {
  const auto connections = static_cast<uint32_t>(lanes.size());
  if (accepted_->endpoints.load(std::memory_order_relaxed) >= options_.endpointsMax ||
      accepted_->connections.load(std::memory_order_relaxed) + connections > options_.connectionsMax) {
    const Status full(StatusCode::kTryAgain,
                      "this side has as many peers as it takes (" + std::to_string(options_.endpointsMax) + ", with " +
                          std::to_string(options_.connectionsMax) + " connections); try again later");
    for (const PendingList::iterator lane : lanes) Refuse(*lane, full);
    return;
  }
  // Counts the endpoint for as long as anything holds its link.
  accepted_->endpoints.fetch_add(1, std::memory_order_relaxed);
  accepted_->connections.fetch_add(connections, std::memory_order_relaxed);
  auto* made = new TcpLink(SocketAddressName(lanes[0]->peer), hello.lanes, options_, memory_, sink_);
  const std::shared_ptr<TcpLink> link(made, [count = accepted_](TcpLink* gone) {
    count->connections.fetch_sub(tcp::ConnectionsOf(gone->laneCount()), std::memory_order_relaxed);
    delete gone;
    count->endpoints.fetch_sub(1, std::memory_order_relaxed);
  });
  links_->Remember(link);
  std::vector<Fd> sockets;
  std::vector<int> numbers;
  for (const auto& lane : lanes) {
    (void)SetNonBlocking(lane->socket.get(), false);  // fails only for a descriptor that is none
    numbers.push_back(lane->socket.get());
    sockets.push_back(std::move(lane->socket));
  }
  (void)link->Attach(std::move(sockets));  // nobody can have closed it yet
  // The peer may only send after these replies, so that the sink knows the endpoint before its first message.
  sink_->OnAccept(std::make_unique<TcpEndpoint>(link));
  // The sink may have closed the endpoint by now; `link` keeps the descriptors open.
  for (const int socket : numbers) (void)SendReply(socket, NewReply(tcp::Step::kAccepted));
  link->Start();
}

}  // namespace hbmesh
