#include "bench/line_socket.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "base/address.h"
#include "bench/failure.h"
#include "transport/socket_address.h"

namespace hbmesh::bench {

namespace {

constexpr size_t kLineBytesMax = 4096;

[[noreturn]] void FailWithErrno(const std::string& doing) {
  const Status status = StatusFromErrno(errno, doing);
  throw Failure(status.code(), status.message());
}

// HOST:PORT of this end.
std::string LocalName(const Fd& socket) {
  SocketAddress address;
  address.bytes = sizeof address.storage;
  if (::getsockname(socket.get(), address.get(), &address.bytes) != 0) FailWithErrno("asking for this end's address");
  return SocketAddressName(address);
}

void NoDelay(const Fd& socket) {
  const int on = 1;
  if (::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0) FailWithErrno("TCP_NODELAY");
}

}  // namespace

LineSocket LineSocket::Connect(const std::string& host, uint16_t port) {
  std::vector<std::string> hosts{host};
  if (Address{.host = host, .port = port}.isName()) Check(LookUpName(host, &hosts), "the other side");
  std::string tried;
  for (const std::string& each : hosts) {
    const SocketAddress address = ToSocketAddress(each, port);
    Fd socket(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (socket.valid() && ::connect(socket.get(), address.get(), address.bytes) == 0) {
      NoDelay(socket);
      return LineSocket(std::move(socket));
    }
    tried += (tried.empty() ? "" : ", ") + FormatAddress(each, port) + ": " + std::strerror(errno);
  }
  throw Failure(StatusCode::kRpcUnavailable,
                "the other side can't be reached (" + tried + "); start it first: hbmesh bench link");
}

bool LineSocket::ReadLine(std::string* line) {
  line->clear();
  for (char byte = 0; line->size() < kLineBytesMax; *line += byte) {
    const ssize_t count = ::recv(socket_.get(), &byte, 1, 0);
    if (count <= 0) return false;
    if (byte == '\n') return true;
  }
  throw Failure(StatusCode::kInvalid, "the other side is no hbmesh bench link: it sent no line");
}

void LineSocket::WriteLine(const std::string& line) {
  const std::string text = line + "\n";
  Send(std::as_bytes(std::span(text)));
}

void LineSocket::Receive(std::span<std::byte> target) {
  while (!target.empty()) {
    const ssize_t count = ::recv(socket_.get(), target.data(), target.size(), 0);
    if (count <= 0) throw Failure(StatusCode::kRpcPeerDead, "the other side ended");
    target = target.subspan(static_cast<size_t>(count));
  }
}

void LineSocket::Send(std::span<const std::byte> source) {
  while (!source.empty()) {
    const ssize_t count = ::send(socket_.get(), source.data(), source.size(), MSG_NOSIGNAL);
    if (count <= 0) throw Failure(StatusCode::kRpcPeerDead, "the other side ended");
    source = source.subspan(static_cast<size_t>(count));
  }
}

std::string LineSocket::LocalHost() const {
  const std::string name = LocalName(socket_);
  return name.substr(0, name.rfind(':'));
}

void LineSocket::Shutdown() { ::shutdown(socket_.get(), SHUT_RDWR); }

Fd ListenOn(uint16_t port) {
  // Takes connections over IPv4, too. Where the machine has no IPv6, these alone.
  Fd listener(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  const int off = 0;
  const bool isDual =
      listener.valid() && ::setsockopt(listener.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) == 0;
  if (!listener.valid()) listener = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const SocketAddress address = ToSocketAddress(isDual ? "::" : "0.0.0.0", port);
  if (::setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
      ::bind(listener.get(), address.get(), address.bytes) != 0 || ::listen(listener.get(), SOMAXCONN) != 0) {
    FailWithErrno("listening on port " + std::to_string(port));
  }
  return listener;
}

uint16_t PortOf(const Fd& listener) {
  const std::string name = LocalName(listener);
  return static_cast<uint16_t>(std::stoul(name.substr(name.rfind(':') + 1)));
}

}  // namespace hbmesh::bench
