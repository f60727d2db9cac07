#include "bench/line_socket.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "bench/failure.h"

namespace hbmesh::bench {

namespace {

constexpr size_t kLineBytesMax = 4096;

[[noreturn]] void FailWithErrno(const std::string& doing) {
  const Status status = StatusFromErrno(errno, doing);
  throw Failure(status.code(), status.message());
}

void NoDelay(const Fd& socket) {
  const int on = 1;
  if (::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0) FailWithErrno("TCP_NODELAY");
}

}  // namespace

LineSocket LineSocket::Connect(const std::string& host, uint16_t port) {
  addrinfo hints{};
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int fault = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found); fault != 0) {
    throw Failure(StatusCode::kInvalid, "host " + host + ": " + ::gai_strerror(fault));
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, ::freeaddrinfo);
  Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.valid() || ::connect(socket.get(), found->ai_addr, found->ai_addrlen) != 0) {
    throw Failure(StatusCode::kRpcUnavailable, "connecting to " + host + ":" + std::to_string(port) + ": " +
                                                   std::strerror(errno) +
                                                   "; start the other side first: hbmesh bench link");
  }
  NoDelay(socket);
  return LineSocket(std::move(socket));
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
  sockaddr_in address{};
  socklen_t length = sizeof address;
  char text[INET_ADDRSTRLEN]{};
  if (::getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0 ||
      ::inet_ntop(AF_INET, &address.sin_addr, text, sizeof text) == nullptr) {
    FailWithErrno("asking for this end's address");
  }
  return text;
}

void LineSocket::Shutdown() { ::shutdown(socket_.get(), SHUT_RDWR); }

Fd ListenOn(uint16_t port) {
  Fd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_ANY);
  address.sin_port = htons(port);
  if (::setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
      ::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(listener.get(), SOMAXCONN) != 0) {
    FailWithErrno("listening on port " + std::to_string(port));
  }
  return listener;
}

uint16_t PortOf(const Fd& listener) {
  sockaddr_in address{};
  socklen_t length = sizeof address;
  if (::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) FailWithErrno("getsockname");
  return ntohs(address.sin_port);
}

}  // namespace hbmesh::bench
